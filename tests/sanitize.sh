#!/bin/sh
# The module that calls the C library, under valgrind, and under the address sanitizer where there is a
# nightly compiler. Fails for an invalid access or a leak.
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
program=$($cargo test --locked --lib --no-run 2>&1 | sed -n 's/.*(\(.*\/deps\/pyzord-[0-9a-f]*\))$/\1/p')
[ -x "$program" ] || { echo "sanitize: the tests could not be built" >&2; exit 1; }
# The large sweep takes longer there than it is given; the smaller ones go the same way.
valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
    --errors-for-leak-kinds=definite "$program" "$filter" --test-threads 1 \
    --skip a_sweep_deletes_every_expired_record

if rustup run nightly rustc --version >/dev/null 2>&1; then
    target=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS=-Zsanitizer=address rustup run nightly cargo test --locked --lib --target "$target" \
        --target-dir "${CARGO_TARGET_DIR:-target}/sanitize" "$filter"
else
    echo 'sanitize: there is no nightly compiler, so that valgrind alone has looked' >&2
fi
