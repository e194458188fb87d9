#!/usr/bin/env bash
# The loom tests: as they are, where each must pass, and with one mistake built in at a time, which its test must catch.
# The last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom

# A test binary (`lib`: tests of what is not public), a mistake (`mutant!("…")` in the source), and the test that catches it.
mutants="
loom_refcount get_without_zero_check      none_left_is_never_taken
loom_refcount put_relaxed                 the_last_reference_ends_the_object_after_all_reads
loom_refcount put_without_acquire         the_last_reference_ends_the_object_after_all_reads
loom_refcount put_unsaturates             a_saturated_count_never_ends
loom_grace    start_without_fence         a_core_that_comes_during_a_period_finds_the_slot_empty_or_is_waited_for
loom_grace    need_by_load                a_period_that_began_before_the_removal_is_not_waited_for
loom_grace    taken_after_request         a_period_does_not_free_what_was_retired_after_it_was_asked_for
loom_grace    need_relaxed                a_period_that_another_core_asked_for_waits_for_who_came_before_it
loom_grace    read_while_away             an_interrupt_out_of_idle_may_read
loom_grace    acknowledge_relaxed         no_section_uses_an_object_after_its_end
loom_grace    acknowledge_unread          a_core_that_acknowledged_finds_the_slot_empty
loom_grace    come_relaxed                a_core_that_idles_between_sections_is_safe_before_and_after
loom_grace    come_without_fence          a_core_that_comes_during_a_period_finds_the_slot_empty_or_is_waited_for
loom_grace    go_relaxed                  a_core_that_leaves_during_a_period_has_read_before
loom_grace    publish_relaxed             what_a_section_finds_is_complete
loom_grace    push_relaxed                what_waits_for_a_period_that_another_core_ends_is_freed_after_all_sections
loom_grace    start_relaxed               a_core_that_acknowledged_finds_the_slot_empty
loom_grace    done_relaxed                who_waits_for_a_period_that_another_core_ends_comes_after_all_sections
loom_grace    done_unread                 who_waits_for_a_period_that_another_core_ends_comes_after_all_sections
loom_grace    away_unread                 a_core_that_leaves_during_a_period_has_read_before
loom_grace    look_unread                 no_section_uses_an_object_after_its_end
loom_grace    change_unread               a_core_that_leaves_during_a_period_has_read_before
loom_grace    slot_unread                 what_a_section_finds_is_complete
loom_grace    unpublish_unread            what_another_core_takes_out_is_complete
loom_grace    take_unread                 a_core_that_acknowledged_finds_the_slot_empty_whoever_emptied_it
loom_grace    wait_without_acknowledging  two_cores_that_wait_let_each_other_go
loom_groups   slot_without_generation     a_time_out_never_hits_the_next_group_in_the_slot
loom_groups   group_passed_on_relaxed     a_pass_that_sees_a_group_sees_what_is_in_it
loom_groups   group_unread                a_pass_that_sees_a_group_sees_what_is_in_it
loom_groups   discard_unchecked           a_group_that_is_dropped_while_its_last_request_comes_has_one_answer_and_one_slot
loom_groups   respond_after_close         nothing_is_sent_after_stall_term
loom_groups   report_after_close          a_report_that_races_with_close_is_in_a_group_or_swallowed
loom_groups   discard_unchecked           a_partial_group_that_an_overflow_or_a_pasid_stop_drops_while_its_stream_ends_is_dropped_once
loom_groups   expire_after_close          a_time_out_while_the_stream_ends_answers_before_stall_term_or_not_at_all
loom_groups   resend_after_close          what_its_holder_drops_while_the_stream_ends_is_sent_before_stall_term_or_not_at_all
loom_groups   resend_after_close          a_flush_while_the_stream_ends_sends_before_stall_term_or_not_at_all
loom_groups   report_after_close          a_group_that_is_completed_dropped_and_ended_at_once_has_one_answer_and_one_slot
loom_groups   claimed_is_answered         a_flush_that_succeeds_comes_after_the_answer_of_a_time_out
loom_groups   grace_not_waited_for        a_flush_that_succeeds_comes_after_the_answers_to_reports_that_had_begun
loom_groups   closing_unread              who_may_close_next_finds_what_the_last_one_answered
loom_groups   closing_relaxed             who_may_close_next_finds_what_the_last_one_answered
loom_groups   changing_unread             of_two_that_give_a_substream_a_handler_one_does
loom_groups   changing_relaxed            of_two_that_give_a_substream_a_handler_one_does
loom_groups   report_after_close          a_report_that_races_with_a_stop_of_its_substream_is_in_a_group_that_it_answers_or_refused
loom_groups   marker_over_close           a_stop_marker_that_comes_while_the_stream_is_closed_does_not_open_it
loom_runs     run_after_close             a_lone_stall_that_races_with_close_is_served_before_stall_term_or_swallowed
loom_runs     run_after_close             a_run_that_races_with_close_is_served_before_stall_term_terminated_or_swallowed
loom_runs     report_after_close          a_run_that_races_with_close_is_served_before_stall_term_terminated_or_swallowed
loom_runs     refuse_after_close          a_substreams_handler_that_is_removed_while_its_stream_ends_has_its_stall_refused_before_stall_term_or_not_at_all
loom_work     respond_after_close         the_answers_of_a_turn_are_sent_before_stall_term_or_not_at_all
loom_work     wake_without_fence          no_core_sleeps_over_work
loom_work     rest_without_fence          no_core_sleeps_over_work
lib           mark_relaxed                driver::ring::loom_tests::concurrent_batches_are_all_published_and_prod_never_moves_back
lib           mark_unread                 driver::ring::loom_tests::concurrent_batches_are_all_published_and_prod_never_moves_back
lib           asked_relaxed               driver::ring::loom_tests::concurrent_batches_are_all_published_and_prod_never_moves_back
lib           asked_unread                driver::ring::loom_tests::concurrent_batches_are_all_published_and_prod_never_moves_back
lib           publisher_unread            driver::ring::loom_tests::concurrent_batches_are_all_published_and_prod_never_moves_back
lib           publisher_relaxed           driver::ring::loom_tests::concurrent_batches_are_all_published_and_prod_never_moves_back
lib           consumed_unread             driver::ring::loom_tests::a_slot_is_written_again_only_after_its_command_was_consumed
lib           observe_relaxed             driver::ring::loom_tests::a_slot_is_written_again_only_after_its_command_was_consumed
lib           message_unread              driver::command_queue::completion::loom_tests::who_sees_a_message_sees_what_was_done_before_it_and_may_use_its_slot_again
lib           pass_relaxed                driver::command_queue::completion::loom_tests::who_sees_a_message_sees_what_was_done_before_it_and_may_use_its_slot_again
lib           sync_before_grace           driver::reclaim::loom_tests::nothing_is_mapped_again_behind_the_invalidation
lib           reclaim_before_sync         driver::reclaim::loom_tests::an_access_under_way_ends_before_the_page_is_used_again
lib           records_done_relaxed        driver::record_queue::loom_tests::who_sees_that_a_record_is_dealt_with_sees_its_answer_sent
lib           records_done_unread         driver::record_queue::loom_tests::who_sees_that_a_record_is_dealt_with_sees_its_answer_sent
lib           frame_pushed_relaxed        sva::frames::loom_tests::a_frame_is_taken_once_and_with_what_was_written_before_it_was_put_there
lib           frames_unread               sva::frames::loom_tests::a_frame_is_taken_once_and_with_what_was_written_before_it_was_put_there
lib           frames_unread_again         sva::frames::loom_tests::a_frame_is_taken_once_and_with_what_was_written_before_it_was_put_there
lib           frame_not_waited_for        sva::frames::loom_tests::who_finds_no_frame_gets_the_one_that_is_given_back_or_sees_what_it_is_kept_for
lib           frame_kept_relaxed          sva::frames::loom_tests::who_finds_no_frame_gets_the_one_that_is_given_back_or_sees_what_it_is_kept_for
lib           frames_kept_unread          sva::frames::loom_tests::who_finds_no_frame_gets_the_one_that_is_given_back_or_sees_what_it_is_kept_for
lib           page_not_looked_at_again    sva::page_table::loom_tests::of_two_that_race_for_the_last_frames_for_one_table_and_its_page_none_refuses
lib           table_not_looked_at_again   sva::page_table::loom_tests::of_two_that_race_for_the_last_frames_for_one_table_and_its_page_none_refuses
lib           last_table_relaxed          sva::page_table::loom_tests::who_takes_a_table_from_the_last_walk_finds_it_as_that_walk_did
lib           last_table_unread           sva::page_table::loom_tests::who_takes_a_table_from_the_last_walk_finds_it_as_that_walk_did
lib           prod_read_once              driver::record_queue::loom_tests::a_record_that_comes_while_the_queue_is_drained_is_not_slept_over
"

declare -A binaries
for name in $(awk '{ print $1 }' <<<"$mutants" | sort -u); do
    [[ $name == lib ]] && selection=--lib || selection="--test $name"
    # shellcheck disable=SC2086 # two words
    if ! built=$(cargo test --locked --release $selection --no-run 2>&1); then
        printf '%s\n0 passed, 1 failed\n' "$built"
        exit 1
    fi
    binaries[$name]=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' <<<"$built")
done

# try BINARY NAME TEST [MUTANT]: the test passes as it is, or catches the mistake.
try() {
    local output status
    if [[ -z ${4:-} ]]; then
        output=$("$1" --exact "$3" 2>&1)
        status=$?
        ((status == 0)) && echo "ok      $2 $3" || printf '%s\nFAILED  %s %s\n' "$output" "$2" "$3"
    else
        output=$(MUTANT=$4 timeout 120 "$1" --exact "$3" 2>&1)
        if grep -q "^test $3 \.\.\. FAILED" <<<"$output"; then
            echo "killed  $4 by $3"
        else
            printf '%s\nFAILED  %s was not caught by %s\n' "$(tail -n 3 <<<"$output")" "$4" "$3"
        fi
    fi
}
export -f try

# A binary that lists nothing tries nothing.
failed=0
for name in "${!binaries[@]}"; do
    if ! grep -q ': test$' <<<"$("${binaries[$name]}" --list)"; then
        echo "FAILED  $name has no tests"
        ((failed += 1))
    fi
done

tries=$(
    for name in "${!binaries[@]}"; do
        # Of the library's tests, those that are loom's.
        "${binaries[$name]}" --list $([[ $name == lib ]] && echo loom_tests) | sed -n "s|\(.*\): test\$|${binaries[$name]} $name \1|p"
    done
    while read -r name mutant test; do
        [[ -n $name ]] && echo "${binaries[$name]} $name $test $mutant"
    done <<<"$mutants"
)

# A test is one thread: each core has one.
log=$(mktemp) && trap 'rm -f "$log"' EXIT
xargs -P "$(nproc)" -L 1 bash -c 'try "$@"' try <<<"$tries" | tee "$log"
passed=$(grep -cE '^(ok|killed) ' "$log")
((failed += $(wc -l <<<"$tries") - passed))

# A mistake without a line above is one that nobody catches.
while read -r mutant; do
    if ! awk '{ print $2 }' <<<"$mutants" | grep -qx "$mutant" && ! grep -qx "$mutant" tools/shuttle.sh; then
        echo "FAILED  $mutant is in the source and neither in tools/loom.sh nor in tools/shuttle.sh"
        ((failed += 1))
    fi
done < <(grep -rhoE 'mutant!\("[a-z_]+"\)' src --include='*.rs' --exclude=mutant.rs | cut -d'"' -f2 | sort -u)

echo "$passed passed, $failed failed"
((failed == 0))
