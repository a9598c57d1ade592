//! `postrider deliveries`.

use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _};
use postrider_client::v1::{
    CancelDeliveriesRequest, Delivery, DeliveryState, ErrorClass, ListDeliveriesRequest, Outcome,
};
use serde_json::json;

use crate::{
    cli::Session,
    failure::Failure,
    ids::{parse_delivery_id, parse_webhook_id},
    json,
    output::{Format, counted, duration, http_status, printable, properties, rows_or, say, say_json, table, time},
    replays::{self, ReplayArgs},
};

/// Largest page the server gives.
pub(crate) const PAGE_SIZE_MAX: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum DeliveriesCommand {
    /// List deliveries, those of the newest events first.
    #[command(after_help = "Examples:
  postrider deliveries list --webhook wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --state failed
  postrider deliveries list --event evt_0193a5e2d1f07c4b8e6a9d3c5b7f1e24 --output json")]
    List(ListArgs),
    /// Show one delivery with its attempts.
    #[command(after_help = "Example: postrider deliveries get dlv_5f0c9b7e31d84a26b0e1f3c758d29a64")]
    Get {
        /// The delivery's id.
        #[arg(value_parser = parse_delivery_id)]
        id: String,
    },
    /// Make the next attempt of deliveries due now; those that have ended are pending again.
    #[command(after_help = "Example: postrider deliveries retry dlv_5f0c9b7e31d84a26b0e1f3c758d29a64")]
    Retry {
        /// The deliveries' ids.
        #[arg(value_name = "ID", required = true, value_parser = parse_delivery_id)]
        ids: Vec<String>,
    },
    /// Cancel pending deliveries of a webhook: all of them, one event's, or those named.
    #[command(after_help = "Examples:
  postrider deliveries cancel --webhook wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --all
  postrider deliveries cancel --webhook wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 dlv_5f0c9b7e31d84a26b0e1f3c758d29a64")]
    Cancel(CancelArgs),
    /// Send events that were accepted before to a webhook again, or for the first time.
    #[command(
        after_help = "A replay goes on in the background, at a rate of its own; see `postrider replays`. With --wait this
ends with exit code 1 if the replay was cancelled or has failed.

Examples:
  postrider deliveries replay --webhook wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --state failed --since 2026-11-22T10:00:00Z
  postrider deliveries replay --webhook wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --event-type NEW_LEAD --per-second 10 --wait"
    )]
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The webhook.
    #[arg(long, value_name = "ID", value_parser = parse_webhook_id)]
    webhook: String,
    /// Only this event's.
    #[arg(long, value_name = "ID", default_value = "")]
    event: String,
    /// All that is pending for the webhook.
    #[arg(long, conflicts_with_all = ["ids", "event"], required_unless_present_any = ["ids", "event"])]
    all: bool,
    /// Only these deliveries.
    #[arg(value_name = "DELIVERY", value_parser = parse_delivery_id)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this webhook's.
    #[arg(long, value_name = "ID", value_parser = parse_webhook_id)]
    webhook: Option<String>,
    /// Only this event's.
    #[arg(long, value_name = "ID", default_value = "")]
    event: String,
    /// Only those in this state: pending, delivered, failed, cancelled or held. Repeatable, or separated by commas.
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',', value_parser = parse_state)]
    states: Vec<DeliveryState>,
    /// Only those of events of this type. Repeatable, or separated by commas.
    #[arg(long = "event-type", value_name = "TYPE", value_delimiter = ',')]
    event_types: Vec<String>,
    /// Only those whose event was accepted at this time (RFC 3339) or later.
    #[arg(long, value_name = "TIME")]
    since: Option<prost_types::Timestamp>,
    /// Only those whose event was accepted before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    until: Option<prost_types::Timestamp>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl DeliveriesCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::List(args) => list(session, args).await,
            Self::Get { id } => get(session, id).await,
            Self::Retry { ids } => retry(session, ids).await,
            Self::Cancel(args) => cancel(session, args).await,
            Self::Replay(args) => replays::start(session, args).await,
        }
    }
}

async fn list(session: &Session, args: ListArgs) -> Result<(), Failure> {
    let request = ListDeliveriesRequest {
        webhook_id: args.webhook.unwrap_or_default(),
        event_id: args.event,
        states: args.states.into_iter().map(Into::into).collect(),
        event_types: args.event_types,
        start_time: args.since,
        end_time: args.until,
        page_size: i32::try_from(args.limit.min(PAGE_SIZE_MAX)).expect("a page is small"),
        ..ListDeliveriesRequest::default()
    };
    let deliveries = session.client.deliveries(request).take(args.limit as usize);
    let deliveries: Vec<Delivery> = deliveries.try_collect().await?;
    match session.format {
        Format::Json => say_json(&json!({ "deliveries": deliveries.iter().map(json::delivery).collect::<Vec<_>>() })),
        Format::Table => {
            let header = ["ID", "EVENT", "TYPE", "WEBHOOK", "STATE", "ATTEMPTS", "LAST", "CREATED", "NEXT ATTEMPT"];
            let mut rows = table(&header);
            for it in &deliveries {
                rows.add_row([
                    printable(&it.id),
                    printable(&it.event_id),
                    printable(&it.event_type),
                    printable(&it.webhook_id),
                    state_name(it.state).to_owned(),
                    it.attempts.to_string(),
                    last_result(it.last_http_status, it.last_error_class),
                    time(it.create_time.as_ref()),
                    time(it.next_attempt_time.as_ref()),
                ]);
            }
            say(rows_or(&rows, "There are no such deliveries."))
        }
    }
}

async fn get(session: &Session, id: String) -> Result<(), Failure> {
    let reply = session.client.delivery(id).await?;
    let delivery = reply.delivery.unwrap_or_default();
    match session.format {
        Format::Json => {
            let attempts: Vec<_> = reply.attempts.iter().map(json::outcome).collect();
            say_json(&json!({ "delivery": json::delivery(&delivery), "attempts": attempts }))
        }
        Format::Table => say(format_args!("{}\n\n{}", describe(&delivery), attempts(&reply.attempts))),
    }
}

async fn retry(session: &Session, ids: Vec<String>) -> Result<(), Failure> {
    for id in ids {
        let delivery = session.client.retry_delivery(id).await?;
        match session.format {
            Format::Json => say_json(&json::delivery(&delivery))?,
            Format::Table => say(describe(&delivery))?,
        }
    }
    Ok(())
}

async fn cancel(session: &Session, args: CancelArgs) -> Result<(), Failure> {
    let request = CancelDeliveriesRequest {
        webhook_id: args.webhook,
        event_id: args.event,
        ids: args.ids,
        ..CancelDeliveriesRequest::default()
    };
    let cancelled = session.client.cancel_deliveries(request).await?;
    match session.format {
        Format::Json => say_json(&json!({ "cancelled_deliveries": cancelled })),
        Format::Table => say(format_args!("{} cancelled", counted(cancelled, "delivery", "deliveries"))),
    }
}

fn describe(delivery: &Delivery) -> String {
    properties(&[
        ("id", delivery.id.clone()),
        ("tenant", delivery.tenant.clone()),
        ("webhook", delivery.webhook_id.clone()),
        ("event", delivery.event_id.clone()),
        ("event type", delivery.event_type.clone()),
        ("state", state_name(delivery.state).into()),
        ("attempts", delivery.attempts.to_string()),
        ("last result", last_result(delivery.last_http_status, delivery.last_error_class)),
        ("created", time(delivery.create_time.as_ref())),
        ("updated", time(delivery.update_time.as_ref())),
        ("next attempt", time(delivery.next_attempt_time.as_ref())),
    ])
}

fn attempts(attempts: &[Outcome]) -> String {
    let mut rows = table(&["ATTEMPT", "TIME", "STATUS", "LATENCY", "LED TO", "NEXT ATTEMPT", "ERROR"]);
    for it in attempts {
        rows.add_row([
            it.attempt.to_string(),
            time(it.time.as_ref()),
            http_status(it.http_status),
            duration(it.latency.as_ref()),
            state_name(it.state).to_owned(),
            time(it.next_attempt_time.as_ref()),
            error(it),
        ]);
    }
    rows_or(&rows, "No attempts yet.")
}

/// The kind of error and what there is to say about it; empty after a success.
pub(crate) fn error(outcome: &Outcome) -> String {
    match (error_name(outcome.error_class), outcome.error.as_str()) {
        ("", text) => printable(text),
        (name, "") => name.to_owned(),
        (name, text) => format!("{name}: {}", printable(text)),
    }
}

/// The status code if there was one, or else the kind of error.
fn last_result(status: i32, error_class: i32) -> String {
    if status == 0 { error_name(error_class).to_owned() } else { http_status(status) }
}

/// A state as people know it, such as `DELIVERED`.
pub(crate) fn state_name(state: i32) -> &'static str {
    let name = DeliveryState::try_from(state).as_ref().map_or("UNKNOWN", DeliveryState::as_str_name);
    name.strip_prefix(STATE_PREFIX).unwrap_or(name)
}

const STATE_PREFIX: &str = "DELIVERY_STATE_";

fn error_name(class: i32) -> &'static str {
    match ErrorClass::try_from(class) {
        Ok(ErrorClass::Unspecified) => "",
        Ok(class) => class.as_str_name().trim_start_matches("ERROR_CLASS_"),
        Err(_) => "UNKNOWN",
    }
}

/// A state by name, in any case, with or without the contract's prefix.
pub(crate) fn parse_state(text: &str) -> Result<DeliveryState, String> {
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with(STATE_PREFIX) { name } else { format!("{STATE_PREFIX}{name}") };
    DeliveryState::from_str_name(&name)
        .filter(|state| *state != DeliveryState::Unspecified)
        .ok_or_else(|| "must be pending, delivered, failed, cancelled or held".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_taken_as_people_write_them() {
        for (text, expected) in [
            ("delivered", Some(DeliveryState::Delivered)),
            ("HELD", Some(DeliveryState::Held)),
            ("delivery_state_failed", Some(DeliveryState::Failed)),
            ("unspecified", None),
            ("", None),
            ("done", None),
        ] {
            assert_eq!(parse_state(text).ok(), expected, "{text}");
        }
        assert_eq!(state_name(DeliveryState::Cancelled.into()), "CANCELLED");
        assert_eq!(state_name(77), "UNKNOWN");
    }

    #[test]
    fn results_for_people() {
        assert_eq!(last_result(503, ErrorClass::HttpStatus.into()), "503");
        assert_eq!(last_result(0, ErrorClass::Timeout.into()), "TIMEOUT");
        assert_eq!(last_result(0, 0), "");
        let outcome = |class: ErrorClass, text: &str| Outcome {
            error_class: class.into(),
            error: text.into(),
            ..Outcome::default()
        };
        assert_eq!(error(&outcome(ErrorClass::Tls, "certificate expired")), "TLS: certificate expired");
        assert_eq!(error(&outcome(ErrorClass::Dns, "")), "DNS");
        assert_eq!(error(&outcome(ErrorClass::Unspecified, "")), "");
        assert!(attempts(&[outcome(ErrorClass::Dns, "")]).contains("DNS"));
        assert_eq!(attempts(&[]), "No attempts yet.");
    }
}
