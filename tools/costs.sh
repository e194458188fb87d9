#!/usr/bin/env bash
# What a page fault and a command cost the kernel on the target, in instructions: none of the figures may be over 5 % more than the tables in
# docs/performance.md say, and each of these must still be measured. The last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
passed=0 failed=0
log=$(mktemp) && trap 'rm -f "$log"' EXIT

# Faults at the modelled SMMU; commands at QEMU's own, where each core is the kernel's.
for flags in "--smp 1 --smmu model" "--smp 1 --smmu qemu" "--smp 4 --smmu qemu" "--smp 8 --smmu qemu"; do
    RUN_QEMU_FLAGS="--deterministic $flags" \
        cargo bench --quiet --locked --target aarch64-unknown-none-softfloat --bench target 2>&1 | tee -a "$log"
    ((PIPESTATUS[0] == 0)) || { printf 'the benchmark failed\n'; ((failed += 1)); }
done

while IFS=$'\t' read -r name figure; do
    kept=$(awk -F ' *[|] *' -v name="$name" '$2 == name {print $3}' docs/performance.md)
    if [[ ! $kept =~ ^[0-9]+(\.[0-9]+)?$ ]]; then
        printf '%s: docs/performance.md has no figure\n' "$name"
        ((failed += 1))
    elif awk "BEGIN {exit !($figure > $kept * 1.05)}"; then
        printf '%s: %s, over 5 %% more than %s\n' "$name" "$figure" "$kept"
        ((failed += 1))
    else
        ((passed += 1))
    fi
done < <(sed -nE 's/^cost: (.*): ([0-9.]+)\r?$/\1\t\2/p' "$log")

while read -r name; do
    grep -qF "cost: $name: " "$log" || { printf '%s: is in docs/performance.md and not measured\n' "$name"; ((failed += 1)); }
done < <(awk -F ' *[|] *' '/^[|] operation [|]/ {table = /instructions/} !/^[|]/ {table = 0} table && $3 ~ /^[0-9.]+$/ {print $2}' docs/performance.md)

printf '\n%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && passed > 0))
