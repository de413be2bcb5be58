# The only door. `make demo` shows a microVM at work, `make test` passes the tests; both set up what they need.

RELEASE := target/x86_64-unknown-linux-gnu/release
CARGO   := cargo

.PHONY: demo test check build guests unit-test client-test vm-test fuzz fuzz-test bench openapi schemathesis setup setup-tests clean

## Boots a test guest and a stock Linux through the socket API, and shows each step.
demo: setup
	@echo "building the monitor and what shows it (a few minutes the first time)"
	$(CARGO) build --release --bins -p api-server -p lab -p lab-tests
	cd tests/guest && $(CARGO) build --release
	$(RELEASE)/lab demo --monitor $(RELEASE)/cloister-vmm --tests $(RELEASE)/lab-tests

## Every test: style, units, test kernels on this machine's /dev/kvm, published clients, 20 seconds of each fuzz target,
## stock Linux in the lab.
test: setup-tests check build guests unit-test client-test fuzz-test vm-test
	@echo "all passed: style, unit tests, test kernels, published clients, fuzz targets, stock Linux guests"

## Formatting, lints, documentation.
check:
	@echo "formatting, lints, documentation (2 to 6 minutes from nothing)"
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	$(CARGO) clippy -p api-server -p vmm -p vm-config --features gdb --all-targets --quiet -- -D warnings
	cd tests/guest && $(CARGO) fmt --all --check && $(CARGO) clippy --release --quiet -- -D warnings
	cd tests/fuzz && $(CARGO) fmt --check
	cd tests/clients && $(CARGO) fmt --check && $(CARGO) clippy --tests --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	$(CARGO) test --quiet -p api-server --features openapi openapi

## The programs.
build:
	$(CARGO) build --release --workspace --bins

## The bare-metal test kernels.
guests:
	cd tests/guest && $(CARGO) build --release

## Unit tests, and test kernels driven through the API.
unit-test: build guests
	$(CARGO) nextest run --workspace
	$(CARGO) nextest run -p api-server -p vmm -p vm-config --features gdb --lib --test gdb --success-output final -E 'test(/gdb|debug/) + binary(gdb)'

## Client libraries that others published, driving the monitor.
client-test: build guests
	cd tests/clients && $(CARGO) nextest run

## Feeds a parser what an engine makes up: TARGET=block (`sh tests/fuzz/run.sh list` has them all), until it is stopped or
## SECONDS=600 are over.
fuzz:
	@sh tests/fuzz/run.sh "$(TARGET)" $(SECONDS)

## 20 seconds of every target.
fuzz-test:
	@sh tests/fuzz/run.sh all 20

## Writes resources/openapi/cloister.json, docs/errors.md, the lists in docs/metrics.md and docs/migrating-from-firecracker.md anew from the types; `make check` compares them.
openapi:
	UPDATE_OPENAPI=1 $(CARGO) test --quiet -p api-server --features openapi openapi
	UPDATE_OPENAPI=1 $(CARGO) test --quiet -p vmm the_page_lists_every_key
	UPDATE_OPENAPI=1 $(CARGO) test --quiet -p integration --test conformance the_page_for_those_who_switch

## Has schemathesis (https://schemathesis.io) make up requests from the interface description and send them to a described, a
## running, and a running machine on PCI: 2 minutes. pip fetches it; needs Python's venv (Debian: python3-venv).
schemathesis: build guests
	python3 -m venv target/schemathesis
	target/schemathesis/bin/pip install --quiet --disable-pip-version-check -r tests/schemathesis/requirements.txt
	python3 tests/schemathesis/run.py target/schemathesis/bin/schemathesis $(RELEASE)/cloister-vmm \
		tests/guest/target/x86_64-unknown-linux-gnu/release/serial_echo $(EXAMPLES)

## Prints figures as a table; ONLY=start,memory picks, PEER_FIRECRACKER=/path adds a peer's columns.
bench: build guests
	$(RELEASE)/bench

## Stock Linux guests in the lab.
vm-test: build
	@echo "stock Linux guests in the lab (5 to 10 minutes)"
	$(RELEASE)/lab run --monitor $(RELEASE)/cloister-vmm --tests $(RELEASE)/lab-tests

## Installs what the other targets need and says so; nothing when it is there.
setup:
	@sh tests/setup.sh

setup-tests:
	@sh tests/setup.sh tests

clean:
	$(CARGO) clean
	cd tests/guest && $(CARGO) clean
	cd tests/fuzz && $(CARGO) clean
	cd tests/clients && $(CARGO) clean
