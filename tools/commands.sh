#!/usr/bin/env bash
# All cores at one command queue, on the target, whose SMMU is on paper and consumes, fails and loses messages by chance. `tools/commands.sh
# [SECONDS]`, for each of four kinds of SMMU; the last line is `N passed, N failed`. Options of run-qemu.sh go in RUN_QEMU_FLAGS.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
seconds=${1:-200}

# Without the model's EL2 each of the eight cores is the kernel's.
RUN_QEMU_FLAGS="--timeout 86400 --smmu qemu --smp 8 ${RUN_QEMU_FLAGS:-}" cargo test --quiet --locked --release \
    --target aarch64-unknown-none-softfloat --test target -- commands:: "seconds=$seconds" 2>&1 |
    awk '{ print; fflush() } /^test commands::.* ok/ { ok = 1 } END { exit !ok }'
if (($? == 0)); then
    printf '1 passed, 0 failed\n'
else
    printf '0 passed, 1 failed\n'
    exit 1
fi
