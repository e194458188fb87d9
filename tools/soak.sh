#!/usr/bin/env bash
# Streams come and go while engines fault, on the target. `tools/soak.sh [CYCLES [SEED]]`; the last line is
# `N passed, N failed`. Options of run-qemu.sh go in RUN_QEMU_FLAGS.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
cycles=${1:-100000} seed=${2:-1}

RUN_QEMU_FLAGS="--timeout 86400 ${RUN_QEMU_FLAGS:-}" cargo test --quiet --locked --release \
    --target aarch64-unknown-none-softfloat --test target -- soak:: "cycles=$cycles" "seed=$seed" 2>&1 |
    tee /dev/stderr | grep '^test soak::.* ok' >/dev/null
if (($? == 0)); then
    printf '1 passed, 0 failed\n'
else
    printf '0 passed, 1 failed\n'
    exit 1
fi
