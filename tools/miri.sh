#!/usr/bin/env bash
# `sync` and `iopf` under Miri, each test once for each seed: threads are switched, weak memory answers and compare-exchanges
# fail as the seed has it. `tools/miri.sh [SEEDS [FIRST]]`, with the nightly toolchain; the last line counts the seeds that passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
seeds=${1:-16} first=${2:-0}
cargo +nightly miri --version >/dev/null 2>&1 || rustup toolchain install nightly --component miri,rust-src || exit 2
export CARGO_TARGET_DIR=target/miri MIRIFLAGS="-Zmiri-many-seeds=$first..$((first + seeds))"

passed=0 failed=0
run() { # CARGO-ARGUMENT...
    cargo +nightly miri test --locked "$@" 2>&1 | grep -vE '^(test|ok|ignored|Trying|running) |^ok$|^$'
    # The output of seeds that run at once is mixed up, but not the status.
    if ((PIPESTATUS[0] == 0)); then ((passed += seeds)); else ((failed += 1)); fi
}
run --lib -- sync:: iopf::
run --test fault_core
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
