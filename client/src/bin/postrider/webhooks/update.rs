//! `postrider webhooks update`, `enable` and `disable`.

use clap::Args;
use postrider_client::v1::{HeldDeliveries, UpdateWebhookRequest, Webhook};
use prost_types::FieldMask;
use serde_json::json;

use super::{describe, settings::SettingsArgs};
use crate::{
    cli::Session,
    failure::Failure,
    ids::parse_webhook_id,
    json,
    output::{Format, say, say_json},
};

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The webhook's id.
    #[arg(value_parser = parse_webhook_id)]
    id: String,
    /// Where deliveries are sent.
    #[arg(long)]
    url: Option<String>,
    /// An event type it receives, or `*` for all. Repeatable, or separated by commas; all of them together replace those there
    /// were.
    #[arg(long = "event-type", value_name = "TYPE", value_delimiter = ',')]
    event_types: Vec<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// A field to set back to its default, as the contract names it (`metadata`). Repeatable, or separated by commas.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    clear: Vec<String>,
    /// Update it only if this is still its etag.
    #[arg(long, default_value = "")]
    etag: String,
}

pub(super) async fn update(session: &Session, args: UpdateArgs) -> Result<(), Failure> {
    let mut webhook = Webhook { id: args.id, etag: args.etag, ..Webhook::default() };
    let mut paths: Vec<String> = args.settings.apply(&mut webhook).into_iter().map(Into::into).collect();
    if let Some(url) = args.url {
        webhook.url = url;
        paths.push("url".into());
    }
    if !args.event_types.is_empty() {
        webhook.event_types = args.event_types;
        paths.push("event_types".into());
    }
    if let Some(twice) = args.clear.iter().find(|field| paths.contains(field)) {
        return Err(Failure::Usage(format!("{twice} is both set and cleared")));
    }
    paths.extend(args.clear);
    if paths.is_empty() {
        return Err(Failure::Usage("say what to update, or which fields to --clear".into()));
    }
    send(session, webhook, paths, HeldDeliveries::Unspecified).await
}

/// Switches deliveries on or off.
pub(super) async fn switch(session: &Session, id: String, enabled: bool, held: HeldDeliveries) -> Result<(), Failure> {
    let webhook = Webhook { id, enabled: Some(enabled), ..Webhook::default() };
    send(session, webhook, vec!["enabled".into()], held).await
}

async fn send(session: &Session, webhook: Webhook, paths: Vec<String>, held: HeldDeliveries) -> Result<(), Failure> {
    let update_mask = Some(FieldMask { paths });
    let request = UpdateWebhookRequest { webhook: Some(webhook), update_mask, held_deliveries: held.into() };
    let webhook = session.client.update_webhook(request).await?;
    match session.format {
        Format::Json => say_json(&json!({ "webhook": json::webhook(&webhook) })),
        Format::Table => say(describe(&webhook)),
    }
}
