//! `postrider audit`.

use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _};
use postrider_client::{
    Code, code_name,
    v1::{AuditEntry, ListAuditEntriesRequest, Principal, PrincipalKind},
};
use serde_json::json;

use crate::{
    cli::Session,
    deliveries::PAGE_SIZE_MAX,
    failure::Failure,
    json,
    output::{Format, printable, rows_or, say, say_json, table, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List calls that changed something, or were refused, newest first. Needs the right to operate.
    #[command(after_help = "Examples:
  postrider audit list --tenant - --api-key-file admin.key
  postrider audit list --tenant acme --method UpdateWebhook --since 2026-11-22T10:00:00Z
  postrider audit list --tenant - --principal key_0193a5e2c4b87d3f9a1c5e7b --failed --output json")]
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those of this key (by its id) or certificate (by its name), or of all who are anonymous, unauthenticated or offline.
    #[arg(long, value_name = "WHO", default_value = "")]
    principal: String,
    /// Only those of this method, such as `CreateWebhook` or `postrider.v1.WebhookService/CreateWebhook`.
    #[arg(long, value_name = "NAME", default_value = "")]
    method: String,
    /// Only those of this time (RFC 3339) or later.
    #[arg(long, value_name = "TIME")]
    since: Option<prost_types::Timestamp>,
    /// Only those before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    until: Option<prost_types::Timestamp>,
    /// Only those that failed or were refused.
    #[arg(long)]
    failed: bool,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl AuditCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::List(args) => list(session, args).await,
        }
    }
}

async fn list(session: &Session, args: ListArgs) -> Result<(), Failure> {
    let ListArgs { principal, method, since, until, failed, limit } = args;
    let request = ListAuditEntriesRequest {
        principal,
        method,
        start_time: since,
        end_time: until,
        failed,
        page_size: i32::try_from(limit.min(PAGE_SIZE_MAX)).expect("a page is small"),
        ..ListAuditEntriesRequest::default()
    };
    let entries = session.client.audit_entries(request).take(limit as usize);
    let entries: Vec<AuditEntry> = entries.try_collect().await?;
    match session.format {
        Format::Json => say_json(&json!({ "entries": entries.iter().map(json::audit_entry).collect::<Vec<_>>() })),
        Format::Table => {
            let mut rows = table(&["TIME", "WHO", "FROM", "CALL", "TENANT", "RESOURCE", "FIELDS", "RESULT"]);
            for it in &entries {
                rows.add_row([
                    time(it.time.as_ref()),
                    printable(&who(it.principal.as_ref())),
                    printable(&it.peer),
                    printable(&it.method),
                    tenant(it),
                    printable(&it.resource),
                    printable(&it.fields.join(",")),
                    result(it),
                ]);
            }
            say(rows_or(&rows, "There are no such entries."))
        }
    }
}

/// What people know them by, and what tells them apart.
fn who(principal: Option<&Principal>) -> String {
    let Some(Principal { id, name, .. }) = principal else { return String::new() };
    match principal.map(Principal::kind) {
        Some(PrincipalKind::Key) => format!("{name} ({id})"),
        Some(PrincipalKind::Certificate) => id.clone(),
        Some(PrincipalKind::Anonymous) => "anonymous".into(),
        Some(PrincipalKind::Unauthenticated) if id.is_empty() => "unauthenticated".into(),
        Some(PrincipalKind::Unauthenticated) => format!("unauthenticated (claims {id})"),
        Some(PrincipalKind::Offline) => "offline".into(),
        Some(PrincipalKind::Withheld) => "(not this tenant's)".into(),
        Some(PrincipalKind::Unspecified) | None => String::new(),
    }
}

fn tenant(entry: &AuditEntry) -> String {
    if entry.tenant_erased { "(erased)".into() } else { printable(&entry.tenant) }
}

/// How it ended, and how many that were refused before are not shown.
fn result(entry: &AuditEntry) -> String {
    let result = entry.code.map_or("not known", |code| code_name(Code::from(code)));
    if entry.omitted == 0 { result.to_owned() } else { format!("{result}, and {} more before", entry.omitted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_for_people() {
        let by = |kind: PrincipalKind, id: &str, name: &str| {
            who(Some(&Principal { kind: kind.into(), id: id.into(), name: name.into(), ..Principal::default() }))
        };
        assert_eq!(by(PrincipalKind::Key, "key_1", "ci"), "ci (key_1)");
        assert_eq!(by(PrincipalKind::Certificate, "a.example", ""), "a.example");
        assert_eq!(by(PrincipalKind::Unauthenticated, "", ""), "unauthenticated");
        assert_eq!(by(PrincipalKind::Withheld, "", ""), "(not this tenant's)");
        assert_eq!(by(PrincipalKind::Unauthenticated, "key_1", ""), "unauthenticated (claims key_1)");
        assert_eq!((by(PrincipalKind::Unspecified, "", ""), who(None)), (String::new(), String::new()));
        let entry = |code, omitted| AuditEntry { code, omitted, ..AuditEntry::default() };
        assert_eq!((result(&entry(Some(0), 0)), result(&entry(None, 0))), ("OK".into(), "not known".into()));
        assert_eq!(result(&entry(Some(16), 3)), "UNAUTHENTICATED, and 3 more before");
        let erased = AuditEntry { tenant_erased: true, ..AuditEntry::default() };
        assert_eq!(tenant(&erased), "(erased)");
    }
}
