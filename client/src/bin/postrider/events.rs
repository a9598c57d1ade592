//! `postrider events`.

use clap::{Args, Subcommand};
use futures::TryStreamExt as _;
use postrider_client::v1::{
    Event, ExplainEventRequest, MatchVerdict, WebhookMatch, event::Payload, explain_event_request::Subject,
};
use serde_json::json;

use crate::{
    cli::Session,
    erasures::{EraseEventArgs, erase_event},
    failure::Failure,
    json,
    output::{Format, printable, properties, rows_or, say, say_json, table, time, written},
    publish::parse_label,
};

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Say for each webhook whether it wants an event, or why not: one that was published, or a draft.
    #[command(after_help = "Examples:
  postrider events explain evt_0193a5e2c4b87d3f9a1c5e7b2d4f6a80
  postrider events explain --type MESSAGE_RECEIVED --label waba=919100000002 --body '{\"from\":\"919800000001\"}'")]
    Explain(ExplainArgs),
    /// Show one event with its body, as long as it is retained.
    #[command(after_help = "Example: postrider events get evt_0193a5e2d1f07c4b8e6a9d3c5b7f1e24")]
    Get {
        /// The event's id.
        id: String,
    },
    /// Erase one event for good, with its deliveries and what receivers answered.
    #[command(after_help = "Example: postrider events erase evt_0193a5e2d1f07c4b8e6a9d3c5b7f1e24 --yes --wait")]
    Erase(EraseEventArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The event's id.
    #[arg(value_name = "EVENT_ID", required_unless_present = "event_type", conflicts_with = "event_type")]
    id: Option<String>,
    /// A draft's type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// A draft's body.
    #[arg(long, value_name = "TEXT", default_value = "{}", conflicts_with = "id")]
    body: String,
    /// A label of a draft. Repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label, conflicts_with = "id")]
    labels: Vec<(String, String)>,
    /// A draft's media type; `application/json` if missing.
    #[arg(long, value_name = "TYPE", default_value = "", conflicts_with = "id")]
    content_type: String,
}

impl EventsCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Explain(args) => explain(session, args).await,
            Self::Get { id } => get(session, id).await,
            Self::Erase(args) => erase_event(session, args).await,
        }
    }
}

async fn explain(session: &Session, args: ExplainArgs) -> Result<(), Failure> {
    let subject = match args.id {
        Some(id) => Subject::EventId(id),
        None => Subject::Event(Event {
            r#type: args.event_type.unwrap_or_default(),
            labels: args.labels.into_iter().collect(),
            content_type: args.content_type,
            payload: Some(Payload::Body(args.body.into())),
            ..Event::default()
        }),
    };
    let request = ExplainEventRequest { subject: Some(subject), page_size: 1000, ..ExplainEventRequest::default() };
    let matches: Vec<WebhookMatch> = session.client.explanations(request).try_collect().await?;
    match session.format {
        Format::Json => say_json(&json!({ "matches": matches.iter().map(json::webhook_match).collect::<Vec<_>>() })),
        Format::Table => {
            let mut rows = table(&["WEBHOOK", "NAME", "VERDICT", "WHY"]);
            for it in &matches {
                rows.add_row([
                    printable(&it.webhook_id),
                    printable(&it.display_name),
                    verdict(it.verdict).to_owned(),
                    printable(&it.detail),
                ]);
            }
            say(rows_or(&rows, "There are no webhooks."))
        }
    }
}

fn verdict(verdict: i32) -> &'static str {
    match MatchVerdict::try_from(verdict) {
        Ok(MatchVerdict::Matched) => "matched",
        Ok(MatchVerdict::Held) => "held",
        Ok(MatchVerdict::EventType) => "event type",
        Ok(MatchVerdict::Label) => "label",
        Ok(MatchVerdict::Payload) => "payload",
        Ok(MatchVerdict::PayloadError) => "payload error",
        Ok(MatchVerdict::Unspecified) | Err(_) => "unknown",
    }
}

async fn get(session: &Session, id: String) -> Result<(), Failure> {
    let reply = session.client.event(id).await?;
    if session.format == Format::Json {
        return say_json(&json::event(&reply));
    }
    let event = reply.event.unwrap_or_default();
    let labels: Vec<_> = event.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let body = match &event.payload {
        Some(Payload::Body(body)) => printable(&String::from_utf8_lossy(body)),
        Some(Payload::Data(_)) | None => String::new(),
    };
    let about = properties(&[
        ("id", event.id),
        ("tenant", event.tenant),
        ("type", event.r#type),
        ("labels", printable(&labels.join(", "))),
        ("ordering key", printable(&event.ordering_key)),
        ("occurred", time(event.occur_time.as_ref())),
        ("to be sent", time(event.deliver_at.as_ref())),
        ("max age", written(event.max_age.as_ref())),
        ("accepted", time(reply.accept_time.as_ref())),
        ("content type", printable(&event.content_type)),
    ]);
    say(format_args!("{about}\n\n{body}"))
}
