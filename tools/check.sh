#!/usr/bin/env bash
# Every check there is. All of them run, whatever fails; the last line is `N passed, N failed`, tests counted one by one.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
target=aarch64-unknown-none-softfloat
log=$(mktemp) && trap 'rm -f "$log"' EXIT
passed=0 failed=0 names=()

# check NAME COMMAND...: one check, or as many as the command's own last line `N passed, N failed` counts.
check() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]} p=1 f=0
    if [[ $(tail -n 1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]}
        ((status == 0 || f > 0)) || f=1
    elif ((status != 0)); then
        p=0 f=1
    fi
    ((passed += p, failed += f))
    ((f == 0)) || names+=("$name")
    printf '== %s: %d passed, %d failed, %d s\n' "$name" "$p" "$f" $((SECONDS - start))
}

check setup ./run-qemu.sh setup
check fmt cargo fmt --all --check
check clippy-host cargo clippy --locked --all-targets -- -D warnings
check clippy-target cargo clippy --locked --target "$target" --lib --bins --test target --bench target -- -D warnings
RUSTDOCFLAGS="-D warnings" check docs-host cargo doc --locked --no-deps --document-private-items
RUSTDOCFLAGS="-D warnings" check docs-target cargo doc --locked --no-deps --lib --target "$target"
check test ./run-qemu.sh test
check driver-on-qemu ./run-qemu.sh --smmu qemu test driver::
check models tools/models.sh
check shuttle tools/shuttle.sh
check fuzz tools/fuzz.sh
for cores in 1 2 4 8; do
    check "main-job-$cores-cores" ./run-qemu.sh --smp "$cores"
done
check main-job-qemu-alone ./run-qemu.sh --smmu qemu
check main-job-model-alone ./run-qemu.sh --smmu model
for profile in terminate-only forced-stall no-pri no-ats linear-only non-coherent small big qemu-7.2 qemu-10; do
    check "main-job-$profile" ./run-qemu.sh --profile "$profile"
done
check no-its ./run-qemu.sh --no-its test messages
check main-job-no-its ./run-qemu.sh --no-its
check main-job-one-wire ./run-qemu.sh --profile small --no-its
check differential tools/differential.sh
check refusals tools/refusals.sh
check determinism tools/determinism.sh
check commands tools/commands.sh 2
check costs tools/costs.sh
check gdb tools/gdb/test.sh

((failed == 0)) || printf '\nfailed: %s\n' "${names[*]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
