#!/usr/bin/env bash
# Driver, fault core and model in random schedules: as they are, and with one mistake built in at a time, which must be
# caught. `tools/shuttle.sh [SCHEDULES [SEED]]`; the last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
export RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle
few=20000
schedules=${1:-$few} seed=${2:-1}

# Mistakes (`mutant!("…")` in the source), each caught within few schedules.
mutants="
respond_after_close
report_after_close
resend_after_close
grace_not_waited_for
claim_unchecked
reference_leaked
marker_not_asked_again
"

if ! built=$(cargo test --locked --release --test shuttle_faults --no-run 2>&1); then
    printf '%s\n0 passed, 1 failed\n' "$built"
    exit 1
fi
binary=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' <<<"$built")
test=every_fault_is_answered_once_and_nothing_is_left
passed=0 failed=0
log=$(mktemp) && trap 'rm -f "$log"*' EXIT

# run SCHEDULES SEED: what the test says, in `log`.
run() {
    SCHEDULES=$1 SEED=$2 RUST_BACKTRACE=0 "$binary" --exact "$test" --nocapture >"$log" 2>&1
}

# The seed of the schedule that failed, if one did.
failing() {
    grep -A 2 '^failing seed' "$log" | sed -n 's/^\([0-9]\+\)$/\1/p'
}

# A schedule is one thread: each core has a part of them, with a seed of its own.
start=$SECONDS parts=$(nproc) running=()
for ((part = 0; part < parts; part++)); do
    (log=$log.$part && run $(((schedules + part) / parts)) $((seed + part))) &
    running+=($!)
done
for part in "${!running[@]}"; do
    if wait "${running[part]}"; then
        sed -n 's/^ *[0-9]\+ [a-zA-Z]/    &/p' "$log.$part"
        printf 'ok      %d schedules from seed %d, %d s\n' $(((schedules + part) / parts)) $((seed + part)) $((SECONDS - start))
        ((passed += 1))
    else
        sed 's/^/    /' "$log.$part"
        printf 'FAILED  again alone: SCHEDULES=1 SEED=%s %s\n' "$(log=$log.$part failing)" "$binary"
        ((failed += 1))
    fi
done

while read -r mutant; do
    [[ -n $mutant ]] || continue
    export MUTANT=$mutant
    run "$few" 1
    first=$(failing)
    # What is printed replays it.
    if [[ -n $first ]] && ! run 1 "$first" && [[ $(failing) == "$first" ]]; then
        printf 'killed  %s with seed %s\n' "$mutant" "$first"
        ((passed += 1))
    else
        tail -n 3 "$log" | sed 's/^/    /'
        printf 'FAILED  %s was not caught\n' "$mutant"
        ((failed += 1))
    fi
done <<<"$mutants"

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
