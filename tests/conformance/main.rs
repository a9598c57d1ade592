//! What any store engine must do, as one suite: `suite!` makes all its tests for one engine.
//!
//! An engine joins by implementing [`fixture::Engine`] and naming itself in a `suite!` line below.

mod audit;
mod config;
mod counts;
mod deliveries;
mod erase;
mod event_types;
mod fixture;
mod history;
mod keys;
mod log;
mod ordered;
mod publish;
mod quotas;
mod redb;
mod repair;
mod replays;
mod replays_erased;
mod replays_stop;
mod retention;
mod schedule;

/// Makes every test of the suite for one engine.
macro_rules! tests {
    ($engine:ty: $($module:ident :: { $($test:ident),+ $(,)? }),+ $(,)?) => {
        $(mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$module::$test::<$engine>().await;
            })+
        })+
    };
}

/// The whole suite for one engine.
macro_rules! suite {
    ($engine:ty) => {
    tests!($engine:
        publish::{
            a_repeat_is_a_duplicate_and_other_content_a_conflict,
            repeats_are_known_after_reopening_and_after_archiving,
            targets_are_matched_again_when_configuration_moved,
            filters_decide_when_matched_and_are_not_asked_again,
            a_full_backlog_refuses_and_a_smaller_event_still_fits,
            wide_events_are_accepted_at_once_and_become_due_in_slices,
            wide_events_go_on_after_reopening,
            too_wide_an_event_is_refused,
        },
        deliveries::{
            due_comes_in_order_and_says_what_it_left_out,
            lanes_are_found_by_seeking,
            an_outcome_ends_or_reschedules,
            an_outcome_out_of_turn_changes_nothing,
            another_owner_is_fenced,
            everything_survives_reopening,
            counts_of_pending_deliveries_are_exact,
        },
        counts::{
            each_delivery_is_counted_once_where_it_stands,
            counts_outlive_what_they_count,
            what_is_dropped_or_on_its_way_is_counted_once,
            counts_go_with_their_webhook,
        },
        schedule::{
            a_scheduled_delivery_is_due_when_it_is_to_be,
            a_lane_with_nothing_but_a_scheduled_delivery_is_found,
            a_wide_event_can_be_scheduled,
            scheduled_deliveries_are_cancelled_with_their_webhook,
            what_is_scheduled_outlives_retention,
            what_expires_has_an_outcome_and_no_attempt_more,
        },
        log::{
            positions_have_no_gaps_and_filters_only_hide,
            a_reader_may_stop_anywhere,
            a_place_beyond_the_end_is_unknown,
            the_log_reads_the_same_after_archiving,
        },
        config::{
            webhooks_come_and_go_with_their_conditions,
            updates_count_at_once_and_under_their_condition,
            secrets_are_rotated_under_their_condition,
            a_webhook_that_is_enabled_again_makes_what_it_held,
            a_request_is_answered_once,
            changes_have_one_order,
            deleting_cancels_at_once_and_says_how_many,
            a_wide_event_counts_for_a_webhook_it_has_not_reached,
            gone_webhooks_are_disabled_and_hold_their_deliveries,
        },
        ordered::{
            one_of_each_key_is_due_and_the_next_one_follows,
            order_holds_within_a_commit,
            a_head_is_skipped_after_as_many_attempts_as_it_may_block,
            who_waits_is_listed_as_pending_without_a_time,
            deleting_cancels_who_waits,
            a_wide_event_is_not_overtaken,
            turned_off_it_releases_who_waits,
            turned_off_and_on_nobody_waits_for_ever,
            turned_on_it_holds_for_what_comes,
            who_is_scheduled_keeps_its_place,
            who_expires_lets_the_next_one_go_on,
            retention_keeps_who_waits,
            what_is_cancelled_lets_the_next_one_go_on,
            what_is_dropped_holds_nothing_up,
        },
        event_types::{
            names_mean_one_type_to_a_tenant,
            what_is_said_of_a_type_changes_under_its_condition_and_survives,
            a_type_that_webhooks_name_stays,
            a_tenant_has_room_of_its_own_for_types,
        },
        keys::{
            keys_are_found_by_their_ids_and_survive,
            a_revoked_key_is_gone_at_once_and_for_good,
        },
        quotas::{
            quotas_are_found_listed_and_survive,
            no_more_is_pending_than_may_be,
            a_retry_needs_room,
            a_limit_set_later_counts_what_is_there,
            who_publishes_at_once_shares_what_is_left,
            a_wide_event_counts_at_once,
            no_more_webhooks_are_there_than_may_be,
            bytes_are_counted_by_the_day,
            what_is_refused_uses_nothing,
            a_replay_leaves_room_in_the_quota,
            erasing_a_tenant_leaves_its_quota,
        },
        audit::{
            entries_are_kept_with_what_calls_led_to,
            entries_are_found_newest_first_page_by_page,
            the_oldest_entries_go,
            nobody_is_pushed_out_by_others,
            an_erased_tenant_is_not_named,
        },
        history::{
            lists_page_newest_first_without_gaps_or_repeats,
            details_hold_every_attempt,
            history_reads_the_same_after_archiving,
            retention_drops_what_is_done_and_keeps_what_is_pending,
            events_are_found_by_their_ids,
        },
        retention::{
            what_is_held_is_cancelled_when_its_retention_ends,
            whoever_is_enabled_first_keeps_what_was_held,
            ordered_ones_end_too_and_nobody_waits_behind_them,
            what_has_expired_is_told_from_what_never_was,
            lists_of_a_time_are_whole_whatever_the_order_of_acceptance,
        },
        repair::{
            held_deliveries_are_dropped_at_once_and_for_good,
            what_is_scheduled_is_retried_cancelled_and_dropped,
            what_expired_is_retried,
            what_is_held_is_released_by_default,
            a_wide_event_on_its_way_is_dropped_too,
            what_was_cancelled_on_its_way_comes_back_once,
            a_delivery_is_due_again_whatever_became_of_it,
            what_was_archived_is_retried_and_outlives_its_segment,
            all_or_some_deliveries_are_cancelled,
        },
        erase::{
            an_erased_event_is_gone_at_once_and_for_good,
            attempts_under_way_leave_no_trace,
            a_wide_event_is_erased_on_its_way,
            an_erased_tenant_has_nothing_and_others_all,
        },
        replays::{
            a_replay_makes_new_deliveries_step_by_step,
            a_replay_takes_what_it_is_asked_for,
            a_request_starts_one_replay,
            archived_events_are_replayed_and_kept_until_they_are_sent,
            what_is_gone_meanwhile_is_counted,
            replayed_deliveries_keep_the_order_of_their_key,
        },
        replays_erased::{
            an_erased_event_is_not_sent_again,
            an_erased_tenant_has_no_replays,
        },
        replays_stop::{
            a_cancelled_replay_makes_no_more,
            a_deleted_webhook_ends_its_replays,
            only_so_many_replays_run,
            a_replay_leaves_room_in_the_backlog,
            what_is_dropped_holds_a_replay_up,
        },
    );
    };
}

mod embedded {
    suite!(crate::fixture::Embedded);
}

mod embedded_without_caches {
    suite!(crate::fixture::Uncached);
}

mod in_memory {
    suite!(crate::fixture::InMemory);
}
