#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, each for so many seconds, as many at a time as there are processors.
#
# Usage: fuzz/run.sh SECONDS TARGET...
#
# FUZZ_SANITIZER names a sanitizer (address, for instance). Without one it is several times as fast, and nothing
# that the targets reach is unsafe code of ours. What a run finds worth keeping is below fuzz/target, and what makes
# a target fail in fuzz/artifacts; both are for "cargo fuzz cmin" and "cargo fuzz tmin", and then for fuzz/corpus.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=$1
shift

command -v c++ >/dev/null || {
    echo 'fuzz: there is no C++ compiler, which libFuzzer needs: install what Debian calls g++' >&2
    exit 1
}
cargo fuzz --version >/dev/null 2>&1 || ${CARGO:-cargo} install --locked cargo-fuzz
# The compiler's options for coverage are those of a nightly one, or of one that takes itself for such.
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
    echo "$target: FAILED, as fuzz/$log says:"
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
