#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, each for SECONDS, with one target per processor at a time.
#
# Usage: fuzz/run.sh SECONDS TARGET...
#
# FUZZ_SANITIZER sets a sanitizer, for example "address". The default is none, which is several times as fast: the
# targets reach no unsafe code of this project. New inputs are written to fuzz/target/found, and failing inputs to
# fuzz/artifacts. Minimize them with "cargo fuzz cmin" and "cargo fuzz tmin" before adding them to fuzz/corpus.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=$1
shift

command -v c++ >/dev/null || {
    echo 'fuzz: no C++ compiler found, which libFuzzer needs: install the Debian package g++' >&2
    exit 1
}
cargo fuzz --version >/dev/null 2>&1 || ${CARGO:-cargo} install --locked cargo-fuzz
# The coverage options need a nightly compiler, or RUSTC_BOOTSTRAP.
cargo=(cargo +nightly)
rustup run nightly cargo --version >/dev/null 2>&1 || {
    cargo=(cargo)
    export RUSTC_BOOTSTRAP=1
}
sanitizer=${FUZZ_SANITIZER:-none}
"${cargo[@]}" fuzz build --fuzz-dir . --sanitizer "$sanitizer"

mkdir -p target/logs
run() {
    local target=$1 log=target/logs/$1.log status=0 last
    mkdir -p "target/found/$target" "corpus/$target"
    "${cargo[@]}" fuzz run --fuzz-dir . --sanitizer "$sanitizer" "$target" "target/found/$target" "corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -dict=words.dict \
        >"$log" 2>&1 || status=$?
    last=$(sed -n 's/^#[0-9].* cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*/\1 edges, \2 features, \3 inputs/p' "$log" | tail -n 1)
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1) runs, $last"
    [ "$status" -eq 0 ] && return
    echo "$target: FAILED, see fuzz/$log:"
    grep -m 1 -A 2 -e panicked -e '^==.*ERROR' "$log" || tail -n 20 "$log"
    grep 'Test unit written to' "$log" || true
    return 1
}

failed=0
running=0
processors=$(nproc)
for target in "$@"; do
    if [ "$running" -ge "$processors" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    run "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
