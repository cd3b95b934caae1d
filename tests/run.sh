#!/bin/sh
# Runs all tests except those that this machine does not permit. Prints at the end how many it skipped and why. With
# PYZORD_TESTS=all a test that the machine does not permit is an error, reported before any test runs.
#
# A module in a test's path names its requirement: …::mounts::full_disks::… is skipped if mounting fails. Each
# requirement is tried once. Tests in modules named "ours" are about this package's server only, and are skipped if
# PYZORD names another server.
set -eu
cd "$(dirname "$0")/.."

case ${PYZORD_TESTS:-} in
'' | all) ;;
*)
    echo "tests/run.sh: PYZORD_TESTS is '$PYZORD_TESTS': set it to all, or leave it unset" >&2
    exit 1
    ;;
esac

# Most tests spend most of their time waiting.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 2))}
export RUST_TEST_THREADS

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

tests() {
    "${CARGO:-cargo}" test --locked --workspace --lib --bins --tests "$@"
}

# Prints the number of tests that these arguments select.
count() {
    tests --quiet -- --list "$@" >"$directory/list"
    grep -c ': test$' "$directory/list"
}

# Tries the operation that tests in modules of this name need.
permits() {
    case $1 in
    mounts)
        as_root=
        [ "$(id -u)" -eq 0 ] || as_root=--map-root-user
        # $as_root is one word or empty.
        # shellcheck disable=SC2086
        unshare --mount $as_root mount -t tmpfs -o size=64k test "$directory"
        ;;
    # These tests also send datagrams with forged senders.
    namespaces) unshare --net ip link add one type veth peer name two && permits raw_sockets ;;
    raw_sockets) /usr/bin/python3 -c 'from socket import *; socket(AF_INET, SOCK_RAW, IPPROTO_RAW)' ;;
    root)
        touch "$directory/file" && chown 65534:65534 "$directory/file" &&
            setpriv --reuid 65534 --regid 65534 --clear-groups true
        ;;
    traces) strace -o /dev/null -e inject=chdir:error=EPERM true ;;
    esac
}

# Skips the tests in modules of this name.
skip_modules() {
    # --skip matches a part of a path, so that a module whose name only ends with it would be skipped as well.
    if grep -q "[a-z0-9_]$1::" "$directory/all"; then
        echo "tests/run.sh: these tests are in modules whose names end with '$1': rename the modules" >&2
        grep "[a-z0-9_]$1::" "$directory/all" >&2
        exit 1
    fi
    skip="$skip --skip $1::"
}

# Skips the tests in modules of this name if there are any and the machine does not permit them.
need() {
    if grep -q "^$1::\|::$1::" "$directory/all" && ! permits "$1" >/dev/null 2>"$directory/error"; then
        skip_modules "$1"
        reasons="$reasons${reasons:+, }$2"
        sed "s/^/tests\/run.sh: $1: /" "$directory/error" >>"$directory/errors"
    fi
}

tests --no-run
all=$(count)
mv "$directory/list" "$directory/all"
skip='' reasons=''
need mounts 'no mounts (which need CAP_SYS_ADMIN or user namespaces)'
need namespaces 'no network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW)'
need raw_sockets 'no raw sockets (CAP_NET_RAW)'
need root 'no change of users (root)'
need traces 'no tracing (CAP_SYS_PTRACE)'
why=${reasons:+"this machine permits $reasons: run as root, in a container with --privileged"}

if [ -n "$skip" ] && [ "${PYZORD_TESTS:-}" = all ]; then
    cat "$directory/errors" >&2
    echo "tests/run.sh: PYZORD_TESTS=all, but $why" >&2
    exit 1
fi
if [ -n "${PYZORD:-}" ]; then
    skip_modules ours
    why="PYZORD names another server${why:+, and }$why"
fi

status=0
# Split on purpose: the arguments contain no blanks.
# shellcheck disable=SC2086
tests -- $skip || status=$?
if [ -n "$skip" ]; then
    # shellcheck disable=SC2086
    left=$(count $skip)
    echo "$((all - left)) of $all tests were skipped: $why"
fi
exit $status
