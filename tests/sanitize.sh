#!/bin/sh
# Runs the tests of the gdbm module under valgrind and under the address sanitizer. Fails on an invalid access or a
# leak.
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
# Optimized a little, so that the large expiry run ends within its time limit. Fair scheduling, because threads
# that wait for the run poll in a loop.
export CARGO_PROFILE_DEV_OPT_LEVEL=1
target_dir=${CARGO_TARGET_DIR:-target}/sanitize
program=$($cargo test --locked --lib --no-run --target-dir "$target_dir" 2>&1 | sed -n 's/.*(\(.*\/deps\/pyzord-[0-9a-f]*\))$/\1/p')
[ -x "$program" ] || { echo "tests/sanitize.sh: cannot build the tests: run cargo test --lib --no-run to see why" >&2; exit 1; }
valgrind -q --fair-sched=yes --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
    --errors-for-leak-kinds=definite "$program" "$filter" --test-threads 1

# Only a nightly compiler has the sanitizer, or a stable one with RUSTC_BOOTSTRAP=1.
nightly="rustup run nightly cargo"
rustup run nightly cargo --version >/dev/null 2>&1 || {
    nightly=$cargo
    export RUSTC_BOOTSTRAP=1
}
target=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=-Zsanitizer=address $nightly test --locked --lib --target "$target" --target-dir "$target_dir" "$filter"
