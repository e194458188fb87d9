#!/usr/bin/env bash
# Machines and arguments that the images refuse: each ends QEMU with a status other than 0 and names its reason. The last
# line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
place=$(mktemp -d) || exit 2
trap 'rm -rf "$place"' EXIT

passed=0 failed=0
# refused REASON FROM TO OPTION...: boots with FROM replaced by TO in QEMU's arguments.
refused() {
    local reason=$1 from=$2 to=$3 output status
    shift 3
    printf '#!/usr/bin/env bash\n[[ $1 == --version ]] || set -- "${@//%q/%q}"\nexec qemu-system-aarch64 "$@"\n' \
        "$from" "$to" >"$place/qemu"
    chmod +x "$place/qemu"
    output=$(./run-qemu.sh --timeout 60 --qemu "$place/qemu" "$@" 2>&1)
    status=$?
    if ((status != 0 && status != 124)) && grep -qF -- "$reason" <<<"$output"; then
        printf 'ok      %s\n' "$reason"
        ((passed += 1))
    else
        printf 'FAILED  status %d, expected: %s; there was:\n%s\n' "$status" "$reason" "$output"
        ((failed += 1))
    fi
}

refused "this CPU has no LSE atomics (ID_AA64ISAR0_EL1.Atomic)" neoverse-n1 cortex-a72 --smmu qemu
refused "this core lacks atomics (FEAT_LSE)" neoverse-n1 cortex-a72
refused "entered at another exception level than EL1" iommu=smmuv3 iommu=smmuv3,virtualization=on --smmu qemu
refused "smmu-model: not entered at EL2" ,virtualization=on ""
refused "no profile is called 'huge'" profile=small profile=huge --profile small
refused "argument engines= wants 1 to 64" engines=3 engines=65 --engines 3
refused "profile small has StreamIDs for 16 engines" "" "" --profile small --engines 17

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
