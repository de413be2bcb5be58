#!/bin/sh
# Installs what building and testing need on a Debian machine. Says what it does; does nothing when all is there.
set -eu

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[ "$(uname -m)" = x86_64 ] || fail "this needs an x86_64 machine, not $(uname -m)"

for tool in cargo cc; do
    command -v "$tool" >/dev/null || fail "$tool is missing; install Rust (rustup.rs) and gcc first"
done

packages=
command -v ip >/dev/null || packages="$packages iproute2"
[ -e /usr/share/doc/ca-certificates ] || packages="$packages ca-certificates"

missing_rights=
[ -r /dev/kvm ] && [ -w /dev/kvm ] || missing_rights="$missing_rights
  /dev/kvm, readable and writable: guests run on it"
[ -r /dev/net/tun ] && [ -w /dev/net/tun ] && [ "$(id -u)" = 0 ] || missing_rights="$missing_rights
  root: the tests make tap devices (CAP_NET_ADMIN) and install Debian packages for the lab"
[ -z "$missing_rights" ] || fail "run this as root on a machine with KVM. It needs:$missing_rights"

if [ -n "$packages" ]; then
    say "installing$packages"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

if ! cargo nextest --version >/dev/null 2>&1; then
    say "building cargo-nextest, the test runner (a few minutes, once)"
    cargo install --quiet --locked cargo-nextest
fi
