#!/bin/sh
# Builds the fuzz targets and runs them. `run.sh all 20` gives every target 20 seconds, two at a time; `run.sh block 600`
# gives one 600; `run.sh block` goes on until it is stopped. What is found is said with the command that shows it again.
set -eu
cd "$(dirname "$0")"

# Coverage from the stable toolchain: LLVM's pass counts edges and hands compared values to libFuzzer, which needs no
# sanitizer's runtime for it. Linked dynamically, because libFuzzer looks functions of the C library up by name. The
# variable takes the place of the flags in the repository's own config.toml.
llvm="-C llvm-args=-sanitizer-coverage"
export RUSTFLAGS="-C passes=sancov-module $llvm-level=4 $llvm-inline-8bit-counters $llvm-pc-table $llvm-trace-compares --cfg fuzzing"

# An input may take 10 seconds and the process 1 GiB: what waits or allocates for ever is found, too.
limits="-timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512"
programs="${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release"

names() {
    for file in targets/*.rs; do basename "$file" .rs; done
}

build() {
    echo "fuzz: building the targets"
    cargo build --release --quiet
}

# Feeds target $1 until $2 seconds are over; 0 is for ever. What is new goes to work/, which is not committed.
feed() {
    mkdir -p "work/$1" "found/$1"
    # For the host's sockets; short, because a socket's path must be.
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    trap 'exit 130' INT TERM
    # shellcheck disable=SC2086
    TMPDIR=$folder "$programs/$1" $limits -max_total_time="$2" -artifact_prefix="found/$1/" -print_final_stats=1 \
        "work/$1" "corpus/$1"
}

# The same without a word, unless something is found.
try() {
    log="work/$1.log"
    mkdir -p work
    if feed "$1" "$2" >"$log" 2>&1; then
        echo "fuzz: $1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, nothing found"
    else
        grep -E -A 3 'panicked at|^==.*ERROR' "$log" >&2 || tail -n 20 "$log" >&2
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "fuzz: $1 failed; to see it again: sh tests/fuzz/run.sh again $1 tests/fuzz/${input:-found/$1/}" >&2
        exit 1
    fi
}

case ${1-} in
all)
    build
    names | xargs -P 2 -I '{}' sh run.sh try '{}' "${2-20}"
    ;;
try) try "$2" "$3" ;;
again)
    build
    case $3 in tests/fuzz/*) set -- "$1" "$2" "${3#tests/fuzz/}" ;; esac
    RUST_BACKTRACE=1 "$programs/$2" "$3"
    ;;
keep)
    "$programs/$2" -merge=1 $limits "corpus/$2" "work/$2"
    ;;
list) names ;;
*)
    if [ ! -e "targets/${1-}.rs" ]; then
        echo "usage: run.sh all [seconds] | again <target> <input> | keep <target> | list | <target> [seconds]; targets:" $(names) >&2
        exit 2
    fi
    build
    feed "$1" "${2-0}"
    ;;
esac
