//! `postrider watch`.

use std::{future::pending, time::Duration};

use clap::Args;
use futures::StreamExt as _;
use postrider_client::{
    Update, WatchConfig,
    v1::{
        CancelReason, DeliveryState, DisableReason, OperationalEvent, Outcome, WatchDeliveriesRequest,
        watch_deliveries_request::Start,
    },
};
use tokio::time::sleep;

use crate::{
    cli::Session,
    deliveries::{error, parse_state, state_name},
    failure::Failure,
    ids::parse_webhook_id,
    json,
    output::{Format, counted, duration, http_status, printable, say, say_json_line, time},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Ends with Ctrl-C, after --count updates or after --until-idle, and then prints on standard error the cursor to go
on from: nothing is missed, and at most the updates of one last message are repeated. With --count every update is a message
with a cursor of its own, so that nothing is repeated. With --output json every line has the cursor. The server must answer
within --timeout, at the start and after a break.

Examples:
  postrider watch
  postrider watch --state failed --output json
  postrider watch --webhook wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --from-beginning --count 10
  postrider watch --from-beginning --until-idle 5s"
)]
pub(crate) struct WatchArgs {
    /// Only this webhook. Repeatable, or separated by commas.
    #[arg(long = "webhook", value_name = "ID", value_delimiter = ',', value_parser = parse_webhook_id)]
    webhooks: Vec<String>,
    /// Only this event type. Repeatable, or separated by commas.
    #[arg(long = "event-type", value_name = "TYPE", value_delimiter = ',')]
    event_types: Vec<String>,
    /// Only what led to this state: pending, delivered, failed, cancelled or held. Repeatable, or separated by commas.
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',', value_parser = parse_state)]
    states: Vec<DeliveryState>,
    /// Tell of operational events as well: webhooks disabled, breakers opened and closed, deliveries given up.
    #[arg(long)]
    operational: bool,
    /// Start with the oldest outcome retained, not with the next.
    #[arg(long, conflicts_with = "cursor")]
    from_beginning: bool,
    /// Start after this cursor.
    #[arg(long)]
    cursor: Option<String>,
    /// Stop after so many updates; each then has its own cursor.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop when no update has come for so long.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    until_idle: Option<Duration>,
}

impl WatchArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let config = WatchConfig { outage_max: Some(session.timeout), ..WatchConfig::default() };
        let mut watch = session.client.watch(self.request(), config);
        let end = async {
            // Not being able to hear Ctrl-C is no reason to stop.
            if tokio::signal::ctrl_c().await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::pin!(end);
        if session.format == Format::Table {
            say(HEADER)?;
        }
        let mut left = self.count.unwrap_or(u64::MAX);
        // Idle is who has nothing to say, not who does not answer.
        let mut result = tokio::select! {
            heard = watch.heard() => heard.map_err(Failure::from),
            () = &mut end => return Ok(()),
        };
        while left > 0 && result.is_ok() {
            let update = tokio::select! {
                update = watch.next() => update,
                () = idle(self.until_idle) => None,
                () = &mut end => None,
            };
            result = match update {
                Some(Ok(update)) => show(session.format, &update, watch.cursor()),
                Some(Err(error)) => Err(error.into()),
                None => break,
            };
            left -= 1;
        }
        if let Some(cursor) = watch.cursor() {
            eprintln!("cursor: {}", printable(cursor));
        }
        result
    }

    fn request(&self) -> WatchDeliveriesRequest {
        let start = match &self.cursor {
            Some(cursor) => Some(Start::Cursor(cursor.clone())),
            None => self.from_beginning.then_some(Start::FromBeginning(true)),
        };
        WatchDeliveriesRequest {
            webhook_ids: self.webhooks.clone(),
            event_types: self.event_types.clone(),
            states: self.states.iter().map(|state| (*state).into()).collect(),
            start,
            // So that what is printed last is followed by its own cursor.
            max_updates: i32::from(self.count.is_some()),
            operational_events: self.operational,
            ..WatchDeliveriesRequest::default()
        }
    }
}

async fn idle(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => pending().await,
    }
}

const HEADER: &str = "TIME                      STATE      STATUS    LATENCY  ATTEMPT  TYPE, EVENT, WEBHOOK, DELIVERY";

fn show(format: Format, update: &Update, cursor: Option<&str>) -> Result<(), Failure> {
    match (format, update) {
        (Format::Json, update) => say_json_line(&json::update(update, cursor)),
        (Format::Table, Update::Outcome(outcome)) => say(line(outcome)),
        (Format::Table, Update::WebhookCancelled(it)) => say(format_args!(
            "{:<24}  {:<9}  webhook {}{}; {} cancelled",
            time(it.time.as_ref()),
            "CANCELLED",
            printable(&it.webhook_id),
            cancel_reason(it.reason()),
            counted(it.deliveries, "pending delivery", "pending deliveries"),
        )),
        (Format::Table, Update::OperationalEvent(it)) => say(operational(it)),
    }
}

fn cancel_reason(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::WebhookDeleted => " was deleted",
        CancelReason::HeldDropped => " was enabled without what was held",
        CancelReason::Requested => ": on request",
        CancelReason::HeldExpired => " is disabled, and what it held grew too old",
        CancelReason::Unspecified => "",
    }
}

/// An operational event on one line.
fn operational(it: &OperationalEvent) -> String {
    let what = match it.disable_reason() {
        DisableReason::Unspecified => it.r#type.clone(),
        reason @ (DisableReason::Requested | DisableReason::Gone | DisableReason::Failing) => {
            format!("{}: {}", it.r#type, reason.as_str_name().trim_start_matches("DISABLE_REASON_"))
        }
    };
    let mut line = format!(
        "{:<24}  {:<9}  {}  webhook {} {}",
        time(it.time.as_ref()),
        "NOTICE",
        printable(&what),
        printable(&it.webhook_id),
        printable(&it.url),
    );
    if !it.delivery_id.is_empty() {
        let attempts = counted(it.attempts.into(), "attempt", "attempts");
        line = format!("{line}  {} after {attempts}", printable(&it.delivery_id));
    }
    line
}

/// One outcome on one line, in fixed columns: nobody knows how wide the next ones will be.
fn line(outcome: &Outcome) -> String {
    let mut line = format!(
        "{:<24}  {:<9}  {:>6}  {:>9}  {:>7}  {}  {}  {}  {}",
        time(outcome.time.as_ref()),
        state_name(outcome.state),
        http_status(outcome.http_status),
        duration(outcome.latency.as_ref()),
        outcome.attempt,
        printable(&outcome.event_type),
        printable(&outcome.event_id),
        printable(&outcome.webhook_id),
        printable(&outcome.delivery_id),
    );
    let error = error(outcome);
    if !error.is_empty() {
        line.push_str("  ");
        line.push_str(&error);
    }
    let next = time(outcome.next_attempt_time.as_ref());
    if !next.is_empty() {
        line.push_str("; next attempt ");
        line.push_str(&next);
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use postrider_client::v1::ErrorClass;
    use prost_types::{Duration as ProtoDuration, Timestamp};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: WatchArgs,
    }

    #[test]
    fn with_a_count_every_update_is_a_message_of_its_own() {
        for (line, max_updates) in [("watch", 0), ("watch --until-idle 5s", 0), ("watch --cursor c --count 3", 1)] {
            assert_eq!(Line::parse_from(line.split(' ')).args.request().max_updates, max_updates, "{line}");
        }
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let outcome = Outcome {
            event_type: "ADD_TAG".into(),
            event_id: "evt_1".into(),
            webhook_id: "wh_1".into(),
            delivery_id: "dlv_1".into(),
            attempt: 3,
            state: DeliveryState::Pending.into(),
            http_status: 503,
            error_class: ErrorClass::HttpStatus.into(),
            latency: Some(ProtoDuration { seconds: 0, nanos: 12_000_000 }),
            time: Some(Timestamp { seconds: 1_763_802_000, nanos: 5_000_000 }),
            next_attempt_time: Some(Timestamp { seconds: 1_763_802_300, nanos: 0 }),
            ..Outcome::default()
        };
        let line = line(&outcome);
        for (head, value) in [("TIME", "2025-"), ("STATE", "PENDING"), ("TYPE", "ADD_TAG")] {
            assert_eq!(HEADER.find(head), line.find(value), "{head}\n{HEADER}\n{line}");
        }
        for (head, value) in [("STATUS", " 503"), ("LATENCY", "12.0 ms"), ("ATTEMPT", " 3")] {
            let end = |text: &str, part: &str| text.find(part).map(|at| at + part.len());
            assert_eq!(end(HEADER, head), end(&line, value), "{head}\n{HEADER}\n{line}");
        }
        assert!(line.ends_with("HTTP_STATUS; next attempt 2025-11-22T09:05:00Z"), "{line}");
    }
}
