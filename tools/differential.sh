#!/usr/bin/env bash
# The model beside QEMU's own SMMU, as the model of which it runs. `tools/differential.sh [SEED [QEMU]]`; the last line is
# `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
seed=${1:-1} qemu=${2:-qemu-system-aarch64}

version=$("$qemu" --version | sed -n '1s/.*version \([0-9]*\).*/\1/p')
# 7.2 has stage 1 only; what lies between has not been compared.
case $version in
7) profile=qemu-7.2 ;;
[89]) printf 'no profile for QEMU %s\n0 passed, 1 failed\n' "$version"; exit 1 ;;
*) profile=qemu-10 ;;
esac

# A second device of QEMU's that accesses memory, in versions that have it.
devices=
[[ $("$qemu" -device help) != *'"iommu-testdev"'* ]] || devices="--device iommu-testdev"

# Lenient: most structures here are wrong on purpose.
output=$(RUN_QEMU_FLAGS="--lenient --deterministic --profile $profile --timeout 600 --qemu $qemu $devices" cargo test --quiet --locked --release \
    --target aarch64-unknown-none-softfloat --test target -- "differential=$seed" 2>&1)
status=$?
printf '%s\n' "$output"
if ((status == 0)) && grep -q '^test differential::.* ok' <<<"$output"; then
    printf '1 passed, 0 failed\n'
else
    printf '0 passed, 1 failed\n'
    exit 1
fi
