//! `postrider events`.

use clap::Subcommand;
use postrider_client::v1::event::Payload;

use crate::{
    cli::Session,
    failure::Failure,
    json,
    output::{Format, printable, properties, say, say_json, time, written},
};

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Show one event with its body, as long as it is retained.
    #[command(after_help = "Example: postrider events get evt_0193a5e2d1f07c4b8e6a9d3c5b7f1e24")]
    Get {
        /// The event's id.
        id: String,
    },
}

impl EventsCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Get { id } => get(session, id).await,
        }
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
