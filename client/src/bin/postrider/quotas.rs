//! `postrider quotas`.

use clap::{Args, Subcommand};
use futures::TryStreamExt as _;
use postrider_client::v1::{Quota, TenantQuota};
use serde_json::{Value, json};

use crate::{
    cli::Session,
    failure::Failure,
    json,
    output::{Format, printable, properties, rows_or, say, say_json, table, time},
};

/// What the contract has for no limit.
const UNLIMITED: i64 = -1;

#[derive(Debug, Subcommand)]
pub(crate) enum QuotasCommand {
    /// Set the quota of a tenant (`--tenant`), all of it: what is not named is as for all tenants.
    #[command(after_help = "Each is a number, `none` for no limit, or `default`: as for all tenants.

Examples:
  postrider quotas set --tenant acme --events-per-second 100 --burst 500 --pending 100000 --webhooks 50 --bytes-per-day 10GiB
  postrider quotas set --tenant acme --pending none
  postrider quotas set --tenant acme")]
    Set(SetArgs),
    /// Show the quota of a tenant (`--tenant`), and what it uses of it.
    #[command(after_help = "Example: postrider quotas get --tenant acme")]
    Get,
    /// List the quotas that tenants have of their own, by name.
    #[command(after_help = "Example: postrider quotas list --output json")]
    List,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Most events per second (0.1 to 10000).
    #[arg(long, value_name = "RATE", value_parser = parse_rate, default_value = "default")]
    events_per_second: Said<f64>,
    /// Most events at once after a rest (1 to 10000) [default: one second's worth]
    #[arg(long, value_name = "COUNT", requires = "events_per_second")]
    burst: Option<i32>,
    /// Most deliveries pending.
    #[arg(long, value_name = "COUNT", value_parser = parse_count, default_value = "default")]
    pending: Said<i64>,
    /// Most webhooks.
    #[arg(long, value_name = "COUNT", value_parser = parse_count, default_value = "default")]
    webhooks: Said<i64>,
    /// Most bytes of events in one day, UTC, such as `10GiB` (at least 2MiB).
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "default")]
    bytes_per_day: Said<i64>,
}

/// A limit as it was typed; `None`: as for all tenants.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Said<T>(Option<T>);

impl QuotasCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Set(args) => {
                let quota = Quota {
                    events_per_second: args.events_per_second.0,
                    events_burst: args.burst,
                    pending_deliveries: args.pending.0,
                    webhooks: args.webhooks.0,
                    bytes_per_day: args.bytes_per_day.0,
                    ..Quota::default()
                };
                show(session, &session.client.set_quota(quota).await?)
            }
            Self::Get => show(session, &session.client.quota().await?),
            Self::List => list(session).await,
        }
    }
}

fn show(session: &Session, quota: &TenantQuota) -> Result<(), Failure> {
    match session.format {
        Format::Json => say_json(&json::tenant_quota(quota)),
        Format::Table => {
            let own = quota.quota.clone().unwrap_or_default();
            let [events, pending, webhooks, bytes] = limits(quota);
            say(properties(&[
                ("tenant", own.tenant),
                ("events per second", events),
                ("pending deliveries", pending),
                ("webhooks", webhooks),
                ("bytes per day", bytes),
                ("set", time(own.update_time.as_ref())),
            ]))
        }
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let quotas: Vec<TenantQuota> = session.client.quotas().try_collect().await?;
    match session.format {
        Format::Json => {
            let all: Vec<Value> = quotas.iter().map(json::tenant_quota).collect();
            say_json(&json!({ "quotas": all }))
        }
        Format::Table => {
            let mut rows = table(&["TENANT", "EVENTS PER SECOND", "PENDING", "WEBHOOKS", "BYTES PER DAY"]);
            for it in &quotas {
                let tenant = it.quota.as_ref().map(|quota| printable(&quota.tenant)).unwrap_or_default();
                let [events, pending, webhooks, bytes] = limits(it);
                rows.add_row([tenant, events, pending, webhooks, bytes]);
            }
            say(rows_or(&rows, "No tenant has a quota of its own."))
        }
    }
}

/// What is used of what holds; a `*` behind what is as for all tenants.
fn limits(quota: &TenantQuota) -> [String; 4] {
    let own = quota.quota.clone().unwrap_or_default();
    let holds = quota.in_force.clone().unwrap_or_default();
    let usage = quota.usage.unwrap_or_default();
    let marked = |text: String, is_own: bool| if is_own { text } else { format!("{text} *") };
    let of = |used: Option<i64>, limit: Option<i64>, is_own: bool| {
        let limit = limit.filter(|limit| *limit != UNLIMITED).map_or("no limit".to_owned(), |limit| limit.to_string());
        marked(used.map_or(limit.clone(), |used| format!("{used} of {limit}")), is_own)
    };
    let events = match (holds.events_per_second, holds.events_burst) {
        (Some(rate), Some(burst)) => format!("{rate}, {burst} at once"),
        (_, _) => "no limit".to_owned(),
    };
    [
        marked(events, own.events_per_second.is_some()),
        of(Some(usage.pending_deliveries), holds.pending_deliveries, own.pending_deliveries.is_some()),
        of(Some(usage.webhooks), holds.webhooks, own.webhooks.is_some()),
        of(usage.bytes_today, holds.bytes_per_day, own.bytes_per_day.is_some()),
    ]
}

/// A word, or what `number` reads.
fn parse<T>(text: &str, unlimited: T, number: impl FnOnce(&str) -> Option<T>) -> Option<Said<T>> {
    match text {
        "default" => Some(Said(None)),
        "none" => Some(Said(Some(unlimited))),
        text => number(text).map(|number| Said(Some(number))),
    }
}

fn parse_rate(text: &str) -> Result<Said<f64>, String> {
    let rate = |text: &str| text.parse().ok().filter(|rate| *rate > 0.0);
    parse(text, -1.0, rate).ok_or_else(|| "is neither a number, nor none, nor default".into())
}

fn parse_count(text: &str) -> Result<Said<i64>, String> {
    let count = |text: &str| text.replace('_', "").parse().ok().filter(|count| *count >= 0);
    parse(text, UNLIMITED, count).ok_or_else(|| "is neither a whole number, nor none, nor default".into())
}

fn parse_size(text: &str) -> Result<Said<i64>, String> {
    parse(text, UNLIMITED, size).ok_or_else(|| "is neither a size such as 512MiB, nor none, nor default".into())
}

/// A number of bytes, with or without a binary unit.
fn size(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: i64 = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    digits.parse::<i64>().ok().filter(|number| *number >= 0)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use postrider_client::v1::QuotaUsage;

    use super::*;

    #[test]
    fn limits_are_numbers_none_or_default() {
        assert_eq!(parse_rate("2.5"), Ok(Said(Some(2.5))));
        assert_eq!((parse_rate("none"), parse_rate("default")), (Ok(Said(Some(-1.0))), Ok(Said(None))));
        assert_eq!((parse_count("10_000"), parse_count("0")), (Ok(Said(Some(10_000))), Ok(Said(Some(0)))));
        assert_eq!(parse_count("none"), Ok(Said(Some(-1))));
        assert_eq!((parse_size("2MiB"), parse_size("7")), (Ok(Said(Some(2 << 20))), Ok(Said(Some(7)))));
        assert_eq!((parse_size("none"), parse_size("default")), (Ok(Said(Some(-1))), Ok(Said(None))));
        for wrong in ["-1", "", "x", "9999999999999999999"] {
            assert!(parse_count(wrong).is_err() && parse_size(wrong).is_err(), "{wrong}");
        }
        assert!(parse_rate("-1").is_err() && parse_rate("NaN").is_err() && parse_size("2MB").is_err());
    }

    #[test]
    fn what_is_used_is_shown_beside_what_holds() {
        let quota = TenantQuota {
            quota: Some(Quota { pending_deliveries: Some(5), ..Quota::default() }),
            in_force: Some(Quota {
                events_per_second: Some(2.5),
                events_burst: Some(3),
                pending_deliveries: Some(5),
                webhooks: Some(-1),
                bytes_per_day: Some(-1),
                ..Quota::default()
            }),
            usage: Some(QuotaUsage { pending_deliveries: 4, webhooks: 2, ..QuotaUsage::default() }),
        };
        assert_eq!(limits(&quota), ["2.5, 3 at once *", "4 of 5", "2 of no limit *", "no limit *"]);
    }
}
