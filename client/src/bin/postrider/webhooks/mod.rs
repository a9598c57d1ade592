//! `postrider webhooks`.

mod list;
mod ordering;
mod ownership;
mod policy;
mod protection;
mod request;
mod scope;
mod settings;
mod signature;
mod test;
mod tls;
mod update;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
};

use clap::{Args, Subcommand};
use postrider_client::v1::{CreateWebhookRequest, DisableReason, HeldDeliveries, Webhook};
use serde_json::json;

use self::{
    list::ListArgs,
    settings::SettingsArgs,
    signature::{RotateSecretArgs, SecretArg},
    test::TestArgs,
    update::UpdateArgs,
};
use crate::{
    cli::Session,
    failure::Failure,
    ids::parse_webhook_id,
    json,
    output::{Format, counted, printable, properties, say, say_json, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum WebhooksCommand {
    /// Register a webhook, and print it with its signing secret.
    #[command(after_help = "Examples:
  postrider webhooks create --url https://example.com/hook --event-type MESSAGE_RECEIVED,NEW_LEAD
  postrider webhooks create --url http://127.0.0.1:8080/ --event-type '*'
  postrider webhooks create --url https://example.com/hook --event-type '*' --label-filter waba=919100000002,919100000003
  postrider webhooks create --url https://example.com/hook --event-type NEW_LEAD --payload-filter 'has(body.referral)'
  postrider webhooks create --url https://example.com/hook --event-type NEW_LEAD --retry-delays 5s,1m,1h --max-age 1d")]
    Create(CreateArgs),
    /// Show one webhook.
    #[command(after_help = "Example: postrider webhooks get wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80")]
    Get {
        /// The webhook's id.
        #[arg(value_parser = parse_webhook_id)]
        id: String,
    },
    /// List webhooks, how many event types they receive, and where their deliveries stand.
    #[command(after_help = "Examples:
  postrider webhooks list --output json
  postrider webhooks list --failing
  postrider webhooks list --event-type NEW_LEAD --metadata team=sales --order name
  postrider webhooks list --tenant - --text example.com --order newest --limit 20")]
    List(ListArgs),
    /// Change a webhook; the next attempt is made as it says then.
    #[command(after_help = "Examples:
  postrider webhooks update wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --url https://example.com/new
  postrider webhooks update wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --display-name CRM --clear metadata")]
    Update(UpdateArgs),
    /// Make deliveries again, those that were held first.
    #[command(after_help = "Examples:
  postrider webhooks enable wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80
  postrider webhooks enable wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --drop-held")]
    Enable {
        /// The webhook's id.
        #[arg(value_parser = parse_webhook_id)]
        id: String,
        /// Cancel what was held; only what comes from now on is sent.
        #[arg(long)]
        drop_held: bool,
    },
    /// Make no deliveries: they are recorded and held.
    #[command(after_help = "Example: postrider webhooks disable wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80")]
    Disable {
        /// The webhook's id.
        #[arg(value_parser = parse_webhook_id)]
        id: String,
    },
    /// Replace what signs a webhook's deliveries, and print the new secret.
    #[command(after_help = "Examples:
  postrider webhooks rotate-secret wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80
  postrider webhooks rotate-secret wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --overlap 0s
  postrider webhooks rotate-secret wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --secret -")]
    RotateSecret(RotateSecretArgs),
    /// Send an event type's example to a webhook, once, and print what it answered. The exit code is 1 if that was not a 2xx.
    #[command(after_help = "Example:
  postrider webhooks test wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --event-type MESSAGE_RECEIVED")]
    Test(TestArgs),
    /// Delete a webhook for good, and cancel what is pending for it.
    #[command(after_help = "Examples:
  postrider webhooks delete wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80
  postrider webhooks delete wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --yes")]
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Where deliveries are sent.
    #[arg(long)]
    url: String,
    /// An event type it receives, or `*` for all. Repeatable, or separated by commas.
    #[arg(long = "event-type", value_name = "TYPE", required = true, value_delimiter = ',')]
    event_types: Vec<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// The secret to sign with, if it is not to be made by the server; `-` reads it from standard input, out of sight of `ps`.
    #[arg(long, value_name = "SECRET", value_parser = signature::parse_secret, allow_hyphen_values = true)]
    secret: Option<SecretArg>,
    /// Create it disabled: its deliveries are recorded and held.
    #[arg(long)]
    disabled: bool,
    /// Makes a retry safe: the same id with the same request within 24 h returns the first reply.
    #[arg(long, value_name = "ID", default_value = "")]
    request_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The webhook's id.
    #[arg(value_parser = parse_webhook_id)]
    id: String,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Delete it only if this is still its etag.
    #[arg(long, default_value = "")]
    etag: String,
}

impl WebhooksCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Create(args) => create(session, args).await,
            Self::Get { id } => get(session, id).await,
            Self::List(args) => list::list(session, args).await,
            Self::Update(args) => update::update(session, args).await,
            Self::Enable { id, drop_held } => {
                let held = if drop_held { HeldDeliveries::Drop } else { HeldDeliveries::Release };
                update::switch(session, id, true, held).await
            }
            Self::Disable { id } => update::switch(session, id, false, HeldDeliveries::Unspecified).await,
            Self::RotateSecret(args) => signature::rotate_secret(session, args).await,
            Self::Test(args) => test::test(session, args).await,
            Self::Delete(args) => delete(session, args).await,
        }
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let mut webhook = Webhook {
        url: args.url,
        event_types: args.event_types,
        enabled: args.disabled.then_some(false),
        ..Webhook::default()
    };
    let _all_of_them = args.settings.apply(&mut webhook);
    let signing_secret = signature::brought(args.secret)?;
    let request = CreateWebhookRequest { webhook: Some(webhook), request_id: args.request_id, signing_secret };
    let reply = session.client.create_webhook(request).await?;
    let webhook = reply.webhook.unwrap_or_default();
    match session.format {
        Format::Json => {
            say_json(&json!({ "webhook": json::webhook(&webhook), "signing_secret": reply.signing_secret }))
        }
        Format::Table => {
            say(format_args!("{}\n\n{}", describe(&webhook), signature::shown_once(&reply.signing_secret, &webhook)))
        }
    }
}

async fn get(session: &Session, id: String) -> Result<(), Failure> {
    let webhook = session.client.webhook(id).await?;
    match session.format {
        Format::Json => say_json(&json!({ "webhook": json::webhook(&webhook) })),
        Format::Table => say(describe(&webhook)),
    }
}

async fn delete(session: &Session, args: DeleteArgs) -> Result<(), Failure> {
    let DeleteArgs { id, yes, mut etag } = args;
    if !yes {
        if !io::stdin().is_terminal() {
            return Err(Failure::Usage("there is no terminal to ask for confirmation; say --yes to delete".into()));
        }
        let webhook = session.client.webhook(&id).await?;
        if !confirmed(&webhook)? {
            return Err(Failure::Local("not deleted".into()));
        }
        if etag.is_empty() {
            // What was confirmed is what was shown.
            etag = webhook.etag;
        }
    }
    let cancelled = session.client.delete_webhook(&id, etag).await?;
    match session.format {
        Format::Json => say_json(&json!({ "cancelled_deliveries": cancelled })),
        Format::Table => {
            let deliveries = counted(cancelled, "pending delivery was", "pending deliveries were");
            say(format_args!("Deleted {}; {deliveries} cancelled.", printable(&id)))
        }
    }
}

/// Shows the webhook on the terminal and asks. Only a clear yes counts.
fn confirmed(webhook: &Webhook) -> io::Result<bool> {
    let mut terminal = io::stderr().lock();
    write!(terminal, "{}\n\n{} ", describe(webhook), question(webhook))?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(is_yes(&answer))
}

fn question(webhook: &Webhook) -> String {
    let pending = counted(webhook.pending_deliveries, "delivery is", "deliveries are");
    format!("Delete this webhook? {pending} pending and will be cancelled. [y/N]")
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn describe(webhook: &Webhook) -> String {
    let [attempt_timeout, retry, max_age] = policy::describe(webhook);
    let [authorities, certificate] = tls::describe(webhook);
    let identity = [
        ("id", webhook.id.clone()),
        ("tenant", webhook.tenant.clone()),
        ("url", webhook.url.clone()),
        ("event types", webhook.event_types.join(", ")),
        ("name", webhook.display_name.clone()),
        ("description", webhook.description.clone()),
        ("metadata", pairs(&webhook.metadata)),
        ("order", ordering::describe(webhook)),
        ("labels", scope::labels(webhook)),
        ("payload", webhook.payload_filter.clone()),
        ("protection", protection::decided(webhook)),
        ("breaker", protection::breaker(webhook)),
        ("ownership", ownership::describe(webhook)),
    ];
    let state = [
        attempt_timeout,
        retry,
        max_age,
        authorities,
        certificate,
        ("signature", signature::described(webhook)),
        ("public key", webhook.public_key.clone()),
        ("old secrets until", time(webhook.previous_secret_expire_time.as_ref())),
        ("status", status(webhook)),
        ("disabled", time(webhook.disable_time.as_ref())),
        ("pending", counted(webhook.pending_deliveries, "delivery", "deliveries")),
        ("deliveries", list::deliveries(webhook.stats.as_ref())),
        ("last delivered", time(webhook.stats.as_ref().and_then(|stats| stats.last_delivered_time.as_ref()))),
        ("last failed", time(webhook.stats.as_ref().and_then(|stats| stats.last_failed_time.as_ref()))),
        ("created", time(webhook.create_time.as_ref())),
        ("updated", time(webhook.update_time.as_ref())),
        ("etag", webhook.etag.clone()),
    ];
    properties(&[&identity[..], &request::properties(webhook), &state].concat())
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn status(webhook: &Webhook) -> String {
    if webhook.enabled() {
        return "enabled".into();
    }
    match webhook.disable_reason() {
        DisableReason::Gone => "disabled (the receiver answered 410 Gone)".into(),
        DisableReason::Failing => "disabled (it failed for too long)".into(),
        DisableReason::Requested | DisableReason::Unspecified => "disabled".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_says_what_is_lost() {
        let ask = |pending_deliveries| question(&Webhook { pending_deliveries, ..Webhook::default() });
        assert_eq!(ask(7), "Delete this webhook? 7 deliveries are pending and will be cancelled. [y/N]");
        assert_eq!(ask(1), "Delete this webhook? 1 delivery is pending and will be cancelled. [y/N]");
    }

    #[test]
    fn only_a_clear_yes_is_a_yes() {
        for (answer, yes) in [("y\n", true), ("YES\n", true), (" y ", true), ("", false), ("\n", false), ("n", false)] {
            assert_eq!(is_yes(answer), yes, "{answer:?}");
        }
    }

    #[test]
    fn descriptions_are_complete() {
        let types = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let webhook = Webhook {
            event_types: types(&["A", "B"]),
            enabled: Some(false),
            disable_reason: DisableReason::Gone.into(),
            ..Webhook::default()
        };
        let text = describe(&webhook);
        assert!(text.contains("A, B") && text.contains("410 Gone") && text.contains("0 deliveries"), "{text}");
    }
}
