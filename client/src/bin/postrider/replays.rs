//! `postrider replays`, and `postrider deliveries replay`, which starts one.

use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _};
use postrider_client::v1::{DeliveryState, ListReplaysRequest, Replay, ReplayEventsRequest, ReplayState};
use serde_json::json;

use crate::{
    cli::Session,
    deliveries::{PAGE_SIZE_MAX, parse_state, state_name},
    failure::Failure,
    ids::{parse_replay_id, parse_webhook_id},
    json,
    output::{Format, printable, properties, rows_or, say, say_json, say_json_line, table, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ReplaysCommand {
    /// List replays, newest first.
    #[command(after_help = "Example: postrider replays list --webhook wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80")]
    List(ListArgs),
    /// Show one replay.
    #[command(after_help = "Example: postrider replays get rpl_0193a5e2c4b87d3f9a1c5e7b2d4f6a80")]
    Get {
        /// The replay's id.
        #[arg(value_parser = parse_replay_id)]
        id: String,
    },
    /// Follow a replay until it has ended.
    #[command(after_help = "Ends with exit code 1 if the replay was cancelled or has failed.

Example: postrider replays watch rpl_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --output json")]
    Watch {
        /// The replay's id.
        #[arg(value_parser = parse_replay_id)]
        id: String,
    },
    /// Stop a replay.
    #[command(after_help = "Examples:
  postrider replays cancel rpl_0193a5e2c4b87d3f9a1c5e7b2d4f6a80
  postrider replays cancel rpl_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --pending")]
    Cancel {
        /// The replay's id.
        #[arg(value_parser = parse_replay_id)]
        id: String,
        /// Cancel its pending deliveries, too.
        #[arg(long)]
        pending: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those to this webhook.
    #[arg(long, value_name = "ID", value_parser = parse_webhook_id)]
    webhook: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The webhook to send to.
    #[arg(long, value_name = "ID", value_parser = parse_webhook_id)]
    webhook: String,
    /// Only events of this type. Repeatable, or separated by commas.
    #[arg(long = "event-type", value_name = "TYPE", value_delimiter = ',')]
    event_types: Vec<String>,
    /// Only events whose first delivery to the webhook stands so: delivered, failed or cancelled. Repeatable, or separated by commas.
    /// Without it: all events that the webhook wants, also those from before it was created.
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',', value_parser = parse_state)]
    states: Vec<DeliveryState>,
    /// Only events accepted at this time (RFC 3339) or later; the oldest retained if missing.
    #[arg(long, value_name = "TIME")]
    since: Option<prost_types::Timestamp>,
    /// Only events accepted before this time (RFC 3339); now if missing.
    #[arg(long, value_name = "TIME")]
    until: Option<prost_types::Timestamp>,
    /// Deliveries to make per second, at most; 100 if missing.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    per_second: Option<i32>,
    /// Guards against starting it twice: the same request under the same id has the same reply for 24 h.
    #[arg(long, value_name = "ID", default_value = "")]
    request_id: String,
    /// Follow it until it has ended, as `replays watch` does.
    #[arg(long)]
    wait: bool,
}

impl ReplaysCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::List(args) => list(session, args).await,
            Self::Get { id } => show(session.format, &session.client.replay(id).await?),
            Self::Watch { id } => watch(session, id).await,
            Self::Cancel { id, pending } => show(session.format, &session.client.cancel_replay(id, pending).await?),
        }
    }
}

/// `postrider deliveries replay`.
pub(crate) async fn start(session: &Session, args: ReplayArgs) -> Result<(), Failure> {
    let request = ReplayEventsRequest {
        webhook_id: args.webhook,
        event_types: args.event_types,
        states: args.states.into_iter().map(Into::into).collect(),
        start_time: args.since,
        end_time: args.until,
        per_second: args.per_second.unwrap_or(0),
        request_id: args.request_id,
        ..ReplayEventsRequest::default()
    };
    let replay = session.client.replay_events(request).await?;
    if args.wait {
        if session.format == Format::Table {
            say(describe(&replay))?;
        }
        return watch(session, replay.id).await;
    }
    show(session.format, &replay)
}

async fn list(session: &Session, args: ListArgs) -> Result<(), Failure> {
    let request = ListReplaysRequest {
        webhook_id: args.webhook.unwrap_or_default(),
        page_size: i32::try_from(args.limit.min(PAGE_SIZE_MAX)).expect("a page is small"),
        ..ListReplaysRequest::default()
    };
    let replays = session.client.replays(request).take(args.limit as usize);
    let replays: Vec<Replay> = replays.try_collect().await?;
    if session.format == Format::Json {
        return say_json(&json!({ "replays": replays.iter().map(json::replay).collect::<Vec<_>>() }));
    }
    let mut rows = table(&["ID", "WEBHOOK", "STATE", "DONE", "MADE", "PENDING", "DELIVERED", "STARTED", "FINISHED"]);
    for it in &replays {
        let progress = it.progress.unwrap_or_default();
        rows.add_row([
            printable(&it.id),
            printable(&it.webhook_id),
            replay_state(it.state).to_owned(),
            format!("{}%", progress.percent),
            progress.created_deliveries.to_string(),
            progress.pending_deliveries.to_string(),
            progress.delivered_deliveries.to_string(),
            time(it.create_time.as_ref()),
            time(it.finish_time.as_ref()),
        ]);
    }
    say(rows_or(&rows, "There are no such replays."))
}

async fn watch(session: &Session, id: String) -> Result<(), Failure> {
    let mut watch = session.client.watch_replay(id).await?;
    if session.format == Format::Table {
        say(HEADER)?;
    }
    let mut last = None;
    while let Some(replay) = watch.try_next().await? {
        match session.format {
            Format::Json => say_json_line(&json::replay(&replay))?,
            Format::Table => say(line(&replay))?,
        }
        last = Some(replay);
    }
    match last.map(|replay| (replay.state(), replay.reason)) {
        Some((ReplayState::Succeeded, _)) | None => Ok(()),
        Some((_, reason)) if session.format == Format::Table => {
            Err(Failure::Local(format!("the replay was ended: {}", printable(&reason))))
        }
        // The last line says so.
        Some(_) => Err(Failure::Said),
    }
}

fn show(format: Format, replay: &Replay) -> Result<(), Failure> {
    match format {
        Format::Json => say_json(&json::replay(replay)),
        Format::Table => say(describe(replay)),
    }
}

fn describe(replay: &Replay) -> String {
    let progress = replay.progress.unwrap_or_default();
    let states: Vec<_> = replay.states.iter().map(|state| state_name(*state)).collect();
    properties(&[
        ("id", replay.id.clone()),
        ("tenant", replay.tenant.clone()),
        ("webhook", replay.webhook_id.clone()),
        ("event types", replay.event_types.join(", ")),
        ("states", states.join(", ")),
        ("since", time(replay.start_time.as_ref())),
        ("until", time(replay.end_time.as_ref())),
        ("per second", replay.per_second.to_string()),
        ("state", replay_state(replay.state).to_owned()),
        ("reason", replay.reason.clone()),
        ("done", format!("{}%", progress.percent)),
        ("reached", time(progress.position_time.as_ref())),
        ("examined", progress.examined_events.to_string()),
        ("made", progress.created_deliveries.to_string()),
        ("skipped", progress.skipped_events.to_string()),
        ("expired", progress.expired_events.to_string()),
        ("pending", progress.pending_deliveries.to_string()),
        ("delivered", progress.delivered_deliveries.to_string()),
        ("failed", progress.failed_deliveries.to_string()),
        ("cancelled", progress.cancelled_deliveries.to_string()),
        ("started", time(replay.create_time.as_ref())),
        ("finished", time(replay.finish_time.as_ref())),
    ])
}

const HEADER: &str = "STATE      DONE   EXAMINED       MADE    SKIPPED    PENDING  DELIVERED     FAILED  REACHED";

/// One message on one line, in fixed columns.
fn line(replay: &Replay) -> String {
    let it = replay.progress.unwrap_or_default();
    format!(
        "{:<9}  {:>3}%  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {}",
        replay_state(replay.state),
        it.percent,
        it.examined_events,
        it.created_deliveries,
        it.skipped_events,
        it.pending_deliveries,
        it.delivered_deliveries,
        it.failed_deliveries,
        time(it.position_time.as_ref()),
    )
}

/// A state as people know it, such as `RUNNING`.
fn replay_state(state: i32) -> &'static str {
    let name = ReplayState::try_from(state).as_ref().map_or("UNKNOWN", ReplayState::as_str_name);
    name.strip_prefix("REPLAY_STATE_").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use postrider_client::v1::ReplayProgress;

    use super::*;

    #[test]
    fn columns_stand_below_their_heads() {
        let progress = ReplayProgress {
            percent: 7,
            examined_events: 1_000_001,
            created_deliveries: 12,
            skipped_events: 999_989,
            pending_deliveries: 3,
            delivered_deliveries: 8,
            failed_deliveries: 1,
            position_time: Some(prost_types::Timestamp { seconds: 1_763_802_000, nanos: 0 }),
            ..ReplayProgress::default()
        };
        let state = ReplayState::Running.into();
        let line = line(&Replay { state, progress: Some(progress), ..Replay::default() });
        for (head, value) in [("STATE", "RUNNING"), ("REACHED", "2025-")] {
            assert_eq!(HEADER.find(head), line.find(value), "{head}\n{HEADER}\n{line}");
        }
        for (head, value) in [("DONE", " 7%"), ("EXAMINED", "1000001"), ("MADE", " 12"), ("FAILED", " 1 ")] {
            let end = |text: &str, part: &str| text.find(part).map(|at| at + part.trim_end().len());
            assert_eq!(end(HEADER, head), end(&line, value), "{head}\n{HEADER}\n{line}");
        }
        assert_eq!(replay_state(77), "UNKNOWN");
    }
}
