#!/usr/bin/env bash
# Two deterministic runs with one seed print the same hashes over records and answers, and a third with another seed does
# not. The last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

hashes() { # SEED
    ./run-qemu.sh --deterministic --seed "$1" | tr -d '\r' | sed -n 's/.*hash to \(0x[0-9a-f]*\)$/\1/p'
}

passed=0 failed=0
expect() { # WHAT COMMAND...
    if "${@:2}"; then ((passed += 1)); else
        printf 'FAILED: %s\n' "$1"
        ((failed += 1))
    fi
}

first=$(hashes 7) again=$(hashes 7) other=$(hashes 8)
printf 'seed 7: %s\nseed 7: %s\nseed 8: %s\n' "${first//$'\n'/ }" "${again//$'\n'/ }" "${other//$'\n'/ }"
expect "a hash for each of the two SMMUs" test "$(wc -w <<<"$first")" -eq 2
expect "the same seed gives the same hashes" test "$first" = "$again"
expect "another seed gives other hashes" test "$first" != "$other"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
