#!/bin/sh
# The module that calls the C library, under valgrind, and under the address sanitizer. Fails for an invalid access or a leak.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
filter=storage::gdbm

command -v valgrind >/dev/null || {
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends valgrind
}
# Optimized a little, so that the large sweep ends in the time it is given; and each thread gets its turn,
# since those that wait for a sweep do nothing else than look whether it has ended.
export CARGO_PROFILE_DEV_OPT_LEVEL=1
target_dir=${CARGO_TARGET_DIR:-target}/sanitize
program=$($cargo test --locked --lib --no-run --target-dir "$target_dir" 2>&1 | sed -n 's/.*(\(.*\/deps\/pyzord-[0-9a-f]*\))$/\1/p')
[ -x "$program" ] || { echo "sanitize: the tests could not be built" >&2; exit 1; }
valgrind -q --fair-sched=yes --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
    --errors-for-leak-kinds=definite "$program" "$filter" --test-threads 1

# The sanitizer's option is that of a nightly compiler, or of one that takes itself for such.
nightly="rustup run nightly cargo"
rustup run nightly cargo --version >/dev/null 2>&1 || {
    nightly=$cargo
    export RUSTC_BOOTSTRAP=1
}
target=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=-Zsanitizer=address $nightly test --locked --lib --target "$target" --target-dir "$target_dir" "$filter"
