#!/bin/sh
# Runs the tests without those that need what this machine does not permit, and reports at the end how many
# were skipped and what would permit them. With PYZORD_TESTS=all that is an error, before any test is run.
#
# What a test needs is the name of a module in its path: …::mounts::full_disks::… is skipped where nothing can be
# mounted. Each of these is tried once. Tests in modules named "ours" hold for the server of this package alone, and
# are skipped where PYZORD names another one.
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

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

tests() {
    "${CARGO:-cargo}" test --locked --workspace --lib --bins --tests "$@"
}

# Prints how many tests these arguments leave.
count() {
    tests --quiet -- --list "$@" >"$directory/list"
    grep -c ': test$' "$directory/list"
}

# Tries what the tests in modules of this name need, the way they do it.
permits() {
    case $1 in
    ours) [ -z "${PYZORD+set}" ] || { echo "PYZORD is '$PYZORD'" && false; } >&2 ;;
    mounts)
        as_root=
        [ "$(id -u)" -eq 0 ] || as_root=--map-root-user
        # It is one word or none.
        # shellcheck disable=SC2086
        unshare --mount $as_root mount -t tmpfs -o size=64k test "$directory"
        ;;
    # Tests there forge datagrams as well.
    namespaces) unshare --net ip link add one type veth peer name two && permits raw_sockets ;;
    raw_sockets) /usr/bin/python3 -c 'from socket import *; socket(AF_INET, SOCK_RAW, IPPROTO_RAW)' ;;
    root)
        touch "$directory/file" && chown 65534:65534 "$directory/file" &&
            setpriv --reuid 65534 --regid 65534 --clear-groups true
        ;;
    traces) strace -o /dev/null -e inject=chdir:error=EPERM true ;;
    esac
}

# Leaves out the tests in modules of this name, if there are any and the machine does not permit them.
need() {
    if grep -qF "$1::" "$directory/all" && ! permits "$1" >/dev/null 2>"$directory/error"; then
        skip="$skip --skip $1::"
        reasons="$reasons${reasons:+${2:+, }}$2"
        sed "s/^/tests\/run.sh: $1: /" "$directory/error" >>"$directory/errors"
    fi
}

tests --no-run
all=$(count)
mv "$directory/list" "$directory/all"
skip='' reasons=''
need ours ''
need mounts 'no mounts (which need CAP_SYS_ADMIN or user namespaces)'
need namespaces 'no network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW)'
need raw_sockets 'no raw sockets (CAP_NET_RAW)'
need root 'no change of users (root)'
need traces 'no tracing (CAP_SYS_PTRACE)'
advice='run as root, in a container with --privileged'
why=${reasons:+"this machine permits $reasons: $advice"}
case $skip in
*ours::*) why="PYZORD names another server${why:+, and }$why" ;;
esac

if [ -n "$skip" ] && [ "${PYZORD_TESTS:-}" = all ]; then
    cat "$directory/errors" >&2
    echo "tests/run.sh: PYZORD_TESTS=all, but $why" >&2
    exit 1
fi

status=0
# These are arguments without blanks in them.
# shellcheck disable=SC2086
tests -- $skip || status=$?
if [ -n "$skip" ]; then
    # shellcheck disable=SC2086
    left=$(count $skip)
    echo "$((all - left)) of $all tests were skipped: $why"
fi
exit $status
