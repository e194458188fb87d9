#!/usr/bin/env bash
# The models in docs/models: as they are, where each must hold, and with one mistake built in at a time, which must be
# caught. `tools/models.sh [long]`; the last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
command -v spin >/dev/null || ./run-qemu.sh setup || exit 2

# What is shown (`safe`: the assertions; `live`: with fair cores, the end that the formula promises), and of which model.
right="
safe grace CORES=2 OBJECTS=1
safe grace CORES=3 OBJECTS=1
live grace CORES=2 OBJECTS=1
live grace CORES=2 OBJECTS=1 BUSY
live grace CORES=2 OBJECTS=1 NO_KICK
"
long="
safe grace CORES=2 OBJECTS=2
safe grace CORES=3 OBJECTS=2
live grace CORES=2 OBJECTS=2
live grace CORES=2 OBJECTS=2 BUSY
live grace CORES=3 OBJECTS=1 BUSY
"
wrong="
safe grace CORES=2 OBJECTS=1 ACKNOWLEDGE_IN_SECTION
safe grace CORES=2 OBJECTS=1 READ_WHILE_AWAY
safe grace CORES=2 OBJECTS=1 NEED_OF_RUNNING_PERIOD
safe grace CORES=2 OBJECTS=1 NEED_BEFORE_UNPUBLISH
safe grace CORES=3 OBJECTS=1 TAKEN_AFTER_REQUEST
safe grace CORES=3 OBJECTS=1 START_BEFORE_REQUEST
live grace CORES=2 OBJECTS=1 PRESENCE_UNREAD
live grace CORES=2 OBJECTS=2 DUE_NOT_KEPT
live grace CORES=2 OBJECTS=1 BUSY NO_KICK
live grace CORES=2 OBJECTS=1 BUSY KICK_BEFORE_REQUEST
live grace CORES=2 OBJECTS=1 NO_KICK WAIT_WITHOUT_ACKNOWLEDGING
"
depth=1000000
[[ ${1:-} != long ]] || right+=$long depth=30000000

models=$PWD/docs/models passed=0 failed=0
place=$(mktemp -d) && trap 'rm -rf "$place"' EXIT && cd "$place" || exit 2

# explore WHAT MODEL NAME...: what Spin says of it, in `report`. False if it could not be explored as a whole.
explore() {
    local what=$1 model=$2 start=$SECONDS
    local -a names=("${@:3}") compile=(-DSAFETY) run=()
    [[ $what == safe ]] || names+=(FAIR) compile=(-DNFAIR=3) run=(-a -f)
    spin -a "${names[@]/#/-D}" "$models/$model.pml" >report 2>&1 &&
        cc -O2 -w -DCOLLAPSE "${compile[@]}" -o pan pan.c >>report 2>&1 &&
        ./pan "${run[@]}" "-m$depth" >report 2>&1 || return
    errors=$(sed -n 's/.*errors: \([0-9]*\)$/\1/p' report)
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' report)
    took=$((SECONDS - start))
    ! grep -q 'max search depth too small\|out of memory' report && [[ -n $errors && -n $states ]]
}

while read -r line; do
    [[ -n $line ]] || continue
    # shellcheck disable=SC2086 # several words
    if explore $line && ((errors == 0)); then
        printf 'holds   %s: %.0f states, %d s\n' "$line" "$states" "$took"
        ((passed += 1))
    else
        sed 's/^/    /' report
        printf 'FAILED  %s\n' "$line"
        ((failed += 1))
    fi
done <<<"$right"

while read -r line; do
    [[ -n $line ]] || continue
    # shellcheck disable=SC2086 # several words
    if explore $line && ((errors > 0)); then
        printf 'caught  %s\n' "$line"
        ((passed += 1))
    else
        sed 's/^/    /' report
        printf 'FAILED  %s was not caught\n' "$line"
        ((failed += 1))
    fi
done <<<"$wrong"

# A mistake without a line above is one that nobody catches.
while read -r name; do
    if ! grep -qw "$name" <<<"$wrong"; then
        printf 'FAILED  %s is in a model and not in tools/models.sh\n' "$name"
        ((failed += 1))
    fi
done < <(grep -hoE '^#ifn?def [A-Z_]+' "$models"/*.pml | cut -d' ' -f2 | grep -vxE 'CORES|OBJECTS|FAIR' | sort -u)

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
