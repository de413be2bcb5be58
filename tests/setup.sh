#!/bin/sh
# Installs what building and showing need on a Debian machine; `setup.sh tests` also what the tests need.
# Says what it does; does nothing when all is there.
set -eu

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[ "$(uname -m)" = x86_64 ] || fail "this needs an x86_64 machine, not $(uname -m)"

# All that is missing at once, so that nobody has to come back for the next.
missing=
need() { missing="$missing
  - $*"; }

[ "$(id -u)" = 0 ] || need "root: guests get tap devices (CAP_NET_ADMIN), and Debian packages are installed for the lab"
for device in /dev/kvm /dev/net/tun; do
    case $device in
    /dev/kvm) reason="guests run on it" what="the kernel's KVM modules, and virtualization in the firmware" ;;
    *) reason="guests reach the network by it" what="the kernel's module tun" ;;
    esac
    if [ ! -e $device ]; then
        need "$device, which does not exist: $reason. It comes with $what"
    elif [ ! -r $device ] || [ ! -w $device ]; then
        need "$device, which exists but may not be read and written by user $(id -un): $reason"
    fi
done
for tool in cargo cc; do
    command -v "$tool" >/dev/null || need "$tool on the PATH: install Rust (rustup.rs) and gcc"
done
[ -z "$missing" ] || fail "run this as root on a machine with KVM. Missing:$missing"

packages=
command -v ip >/dev/null || packages="$packages iproute2"
[ -e /usr/share/doc/ca-certificates ] || packages="$packages ca-certificates"
# The engine of the fuzz targets is C++.
[ "${1-}" != tests ] || command -v c++ >/dev/null || packages="$packages g++"
if [ -n "$packages" ]; then
    say "installing$packages"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

if [ "${1-}" = tests ] && ! cargo nextest --version >/dev/null 2>&1; then
    say "building cargo-nextest, the test runner (a few minutes, once)"
    cargo install --quiet --locked cargo-nextest
fi
