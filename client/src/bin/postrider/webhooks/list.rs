//! `postrider webhooks list`, and the counters of a webhook.

use clap::{Args, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _};
use postrider_client::v1::{DisableReason, ListWebhooksRequest, Webhook, WebhookStats};
use serde_json::json;

use super::status;
use crate::{
    cli::Session,
    failure::Failure,
    json,
    output::{Format, counted, printable, rows_or, say, say_json, table, time},
    publish::parse_label,
};

/// Largest page the server gives.
const PAGE_SIZE_MAX: u32 = 1000;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those that receive events of this type, by its name or by `*`.
    #[arg(long, value_name = "TYPE", default_value = "")]
    event_type: String,
    /// Only those to which deliveries are made.
    #[arg(long, conflicts_with = "disabled")]
    enabled: bool,
    /// Only those that are disabled.
    #[arg(long)]
    disabled: bool,
    /// Only those that are disabled for this reason.
    #[arg(long, value_enum, value_name = "REASON")]
    disable_reason: Option<Reason>,
    /// Only those in trouble: disabled because they failed or are gone, or whose circuit breaker is not closed.
    #[arg(long)]
    failing: bool,
    /// Only those with this in their name or URL, in upper or lower case.
    #[arg(long, value_name = "TEXT", default_value = "")]
    text: String,
    /// Only those that have this among their notes. Repeatable; all of them must be there.
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = parse_label)]
    metadata: Vec<(String, String)>,
    /// In which order; by name only for one tenant.
    #[arg(long, value_enum, default_value_t = Order::Oldest)]
    order: Order,
    /// How many at most; all if missing.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Reason {
    /// Its owner wanted it so.
    Requested,
    /// The receiver answered 410 Gone.
    Gone,
    /// It failed for too long.
    Failing,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// Oldest first.
    Oldest,
    /// Newest first.
    Newest,
    /// By name, those without one first.
    Name,
    /// The reverse of that.
    NameDesc,
}

impl ListArgs {
    fn request(self) -> ListWebhooksRequest {
        let reason = match self.disable_reason {
            None => DisableReason::Unspecified,
            Some(Reason::Requested) => DisableReason::Requested,
            Some(Reason::Gone) => DisableReason::Gone,
            Some(Reason::Failing) => DisableReason::Failing,
        };
        let order_by = match self.order {
            Order::Oldest => "",
            Order::Newest => "create_time desc",
            Order::Name => "display_name",
            Order::NameDesc => "display_name desc",
        };
        let page_size = self.limit.unwrap_or(PAGE_SIZE_MAX).min(PAGE_SIZE_MAX);
        ListWebhooksRequest {
            page_size: i32::try_from(page_size).expect("a page is small"),
            event_type: self.event_type,
            enabled: (self.enabled || self.disabled).then_some(self.enabled),
            disable_reason: reason.into(),
            failing: self.failing,
            text: self.text,
            metadata: self.metadata.into_iter().collect(),
            order_by: order_by.into(),
            ..ListWebhooksRequest::default()
        }
    }
}

pub(super) async fn list(session: &Session, args: ListArgs) -> Result<(), Failure> {
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let found = session.client.find_webhooks(args.request()).take(limit);
    let webhooks: Vec<Webhook> = found.try_collect().await?;
    match session.format {
        Format::Json => say_json(&json!({ "webhooks": webhooks.iter().map(json::webhook).collect::<Vec<_>>() })),
        Format::Table => {
            let mut rows = table(&[
                "ID",
                "NAME",
                "URL",
                "TRIGGERS",
                "STATUS",
                "EVENTS",
                "DELIVERED",
                "FAILED",
                "PENDING",
                "CREATED",
            ]);
            for it in &webhooks {
                let stats = it.stats.unwrap_or_default();
                rows.add_row([
                    printable(&it.id),
                    printable(&it.display_name),
                    printable(&it.url),
                    triggers(&it.event_types),
                    status(it),
                    stats.events.to_string(),
                    stats.delivered.to_string(),
                    stats.failed.to_string(),
                    it.pending_deliveries.to_string(),
                    time(it.create_time.as_ref()),
                ]);
            }
            say(rows_or(&rows, "There are no such webhooks."))
        }
    }
}

/// How many event types it receives.
fn triggers(event_types: &[String]) -> String {
    match event_types {
        [all] if all == "*" => "all".into(),
        several => several.len().to_string(),
    }
}

/// Where its deliveries stand.
pub(super) fn deliveries(stats: Option<&WebhookStats>) -> String {
    let Some(stats) = stats else { return String::new() };
    let parts = [(stats.delivered, "delivered"), (stats.failed, "failed"), (stats.cancelled, "cancelled")];
    let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    let events = counted(stats.events, "event", "events");
    format!("{events}: {} pending{}", stats.pending, parts.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_for_people() {
        let types = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(triggers(&types(&["*"])), "all");
        assert_eq!(triggers(&types(&["ADD_TAG"])), "1");
        assert_eq!(triggers(&types(&["A", "B"])), "2");
        let stats = WebhookStats { events: 7, delivered: 4, pending: 1, cancelled: 2, ..WebhookStats::default() };
        assert_eq!(deliveries(Some(&stats)), "7 events: 1 pending, 4 delivered, 2 cancelled");
        assert_eq!(deliveries(Some(&WebhookStats::default())), "0 events: 0 pending");
        assert_eq!(deliveries(None), "");
    }
}
