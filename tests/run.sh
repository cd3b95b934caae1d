#!/bin/sh
# Runs the tests without those that need what this machine does not permit, and reports at the end how many
# were skipped and what would permit them. With PYZORD_TESTS=all that is an error, before any test is run.
#
# What a test needs is the name of a module in its path: mounts::full_disks::… is skipped where nothing can be
# mounted. Each of these is tried once.
set -eu
cd "$(dirname "$0")/.."

case ${PYZORD_TESTS:-} in
'' | all) ;;
*)
    echo "tests/run.sh: PYZORD_TESTS is '$PYZORD_TESTS': set it to all, or leave it unset" >&2
    exit 1
    ;;
esac

# Most tests wait for something most of the time.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 2))}
export RUST_TEST_THREADS

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

tests() {
    "${CARGO:-cargo}" test --locked --workspace --lib --bins --tests "$@"
}

# Prints how many tests these arguments leave.
count() {
    tests --quiet -- --list "$@" >"$folder/list"
    grep -c ': test$' "$folder/list"
}

# Tries what the tests in modules of this name need, the way they do it.
permits() {
    case $1 in
    mounts)
        as_root=
        [ "$(id -u)" -eq 0 ] || as_root=--map-root-user
        # It is one word or none.
        # shellcheck disable=SC2086
        unshare --mount $as_root mount -t tmpfs -o size=64k test "$folder"
        ;;
    # Tests there forge datagrams as well.
    namespaces) unshare --net ip link add one type veth peer name two && permits raw_sockets ;;
    raw_sockets) /usr/bin/python3 -c 'from socket import *; socket(AF_INET, SOCK_RAW, IPPROTO_RAW)' ;;
    root)
        touch "$folder/file" && chown 65534:65534 "$folder/file" &&
            setpriv --reuid 65534 --regid 65534 --clear-groups true
        ;;
    traces) strace -o /dev/null -e inject=chdir:error=EPERM true ;;
    esac
}

# Leaves out the tests in modules of this name, if there are any and the machine does not permit them.
need() {
    if grep -qF "$1::" "$folder/all" && ! permits "$1" >/dev/null 2>"$folder/error"; then
        skip="$skip --skip $1::"
        reasons="$reasons${reasons:+, }$2"
        sed "s/^/tests\/run.sh: $1: /" "$folder/error" >>"$folder/errors"
    fi
}

tests --no-run
all=$(count)
mv "$folder/list" "$folder/all"
skip='' reasons=''
need mounts 'no mounts (which need CAP_SYS_ADMIN or user namespaces)'
need namespaces 'no network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW)'
need raw_sockets 'no raw sockets (CAP_NET_RAW)'
need root 'no change of users (root)'
need traces 'no tracing (CAP_SYS_PTRACE)'
advice='run as root, in a container with --privileged'

if [ -n "$skip" ] && [ "${PYZORD_TESTS:-}" = all ]; then
    cat "$folder/errors" >&2
    echo "tests/run.sh: PYZORD_TESTS=all, but this machine permits $reasons: $advice" >&2
    exit 1
fi

status=0
# These are arguments without blanks in them.
# shellcheck disable=SC2086
tests -- $skip || status=$?
if [ -n "$skip" ]; then
    # shellcheck disable=SC2086
    left=$(count $skip)
    echo "$((all - left)) of $all tests were skipped: this machine permits $reasons: $advice"
fi
exit $status
