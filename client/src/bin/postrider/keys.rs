//! `postrider keys`.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use futures::TryStreamExt as _;
use postrider_client::v1::{Key, Right};
use serde_json::json;

use crate::{
    cli::Session,
    failure::Failure,
    ids::parse_key_id,
    json,
    output::{Format, parse_duration, printable, properties, rows_or, say, say_json, table, time},
};

/// What the contract calls every tenant.
const ALL_TENANTS: &str = "-";

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create a key. It is shown this once. From the first one on, every call needs one.
    #[command(after_help = "Examples:
  postrider keys create --name ci --rights publish --tenants acme --expires 90d
  postrider keys create --name admin --rights publish,manage,read,operate --all-tenants --output json")]
    Create(CreateArgs),
    /// List keys, oldest first, those that have expired included.
    #[command(after_help = "Example: postrider keys list --api-key-file admin.key")]
    List,
    /// Revoke a key for good, at once.
    #[command(after_help = "Example: postrider keys revoke key_0193a5e2c4b87d3f9a1c5e7b")]
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What people know it by.
    #[arg(long, value_name = "TEXT")]
    name: String,
    /// What it may do. Repeatable, or separated by commas.
    #[arg(long, value_name = "RIGHT", value_delimiter = ',', required = true, value_enum)]
    rights: Vec<RightArg>,
    /// For which tenants it speaks. Repeatable, or separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',', required_unless_present = "all_tenants")]
    tenants: Vec<String>,
    /// It speaks for all tenants.
    #[arg(long, conflicts_with = "tenants")]
    all_tenants: bool,
    /// How long it lives, such as `90d` [default: it does not expire]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The key's id.
    #[arg(value_parser = parse_key_id)]
    id: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RightArg {
    /// Publish events.
    Publish,
    /// Change webhooks and event types; test, retry and cancel.
    Manage,
    /// See webhooks, events, deliveries and outcomes.
    Read,
    /// Look after the server: its keys, and whatever is not one webhook's.
    Operate,
}

impl From<RightArg> for Right {
    fn from(right: RightArg) -> Self {
        match right {
            RightArg::Publish => Self::Publish,
            RightArg::Manage => Self::Manage,
            RightArg::Read => Self::Read,
            RightArg::Operate => Self::Operate,
        }
    }
}

impl KeysCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Create(args) => create(session, args).await,
            Self::List => list(session).await,
            Self::Revoke(args) => revoke(session, args).await,
        }
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let CreateArgs { name, rights, tenants, all_tenants, expires } = args;
    #[expect(clippy::disallowed_methods, reason = "from now on, as the person who types it sees the clock")]
    let now = SystemTime::now();
    let expire_time =
        expires.map(|life| now.checked_add(life).ok_or_else(|| Failure::Usage("--expires is too long".into())));
    let expire_time = expire_time.transpose()?.map(prost_types::Timestamp::from);
    let tenants = if all_tenants { vec![ALL_TENANTS.to_owned()] } else { tenants };
    let rights = rights.into_iter().map(|right| Right::from(right).into()).collect();
    let created = session.client.create_key(Key { name, tenants, rights, expire_time, ..Key::default() }).await?;
    let key = created.key.unwrap_or_default();
    match session.format {
        Format::Json => say_json(&json!({ "key": json::key(&key), "api_key": created.api_key })),
        Format::Table => {
            say(properties(&[
                ("id", key.id.clone()),
                ("name", key.name.clone()),
                ("rights", rights_of(&key)),
                ("tenants", tenants_of(&key)),
                ("expires", time(key.expire_time.as_ref())),
                ("key", created.api_key),
            ]))?;
            say("The key is shown this once.")
        }
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let keys: Vec<Key> = session.client.keys().try_collect().await?;
    match session.format {
        Format::Json => say_json(&json!({ "keys": keys.iter().map(json::key).collect::<Vec<_>>() })),
        Format::Table => {
            let mut rows = table(&["ID", "NAME", "RIGHTS", "TENANTS", "CREATED", "EXPIRES", "LAST USED"]);
            for it in &keys {
                rows.add_row([
                    printable(&it.id),
                    printable(&it.name),
                    rights_of(it),
                    printable(&tenants_of(it)),
                    time(it.create_time.as_ref()),
                    time(it.expire_time.as_ref()),
                    time(it.last_use_time.as_ref()),
                ]);
            }
            say(rows_or(&rows, "There are no keys."))
        }
    }
}

async fn revoke(session: &Session, args: RevokeArgs) -> Result<(), Failure> {
    session.client.revoke_key(&args.id).await?;
    match session.format {
        Format::Json => say_json(&json!({ "revoked": args.id })),
        Format::Table => say(format_args!("Revoked {}.", args.id)),
    }
}

fn rights_of(key: &Key) -> String {
    let name = |right: Right| right.as_str_name().trim_start_matches("RIGHT_").to_ascii_lowercase();
    key.rights().map(name).collect::<Vec<_>>().join(",")
}

fn tenants_of(key: &Key) -> String {
    match key.tenants.as_slice() {
        [all] if all == ALL_TENANTS => "all".into(),
        some => some.join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_tenants_are_said_as_they_are_typed() {
        let key = |tenants: &[&str], rights: &[Right]| Key {
            tenants: tenants.iter().map(|name| (*name).to_owned()).collect(),
            rights: rights.iter().map(|right| (*right).into()).collect(),
            ..Key::default()
        };
        let some = key(&["a", "b"], &[Right::Publish, Right::Operate]);
        assert_eq!((rights_of(&some), tenants_of(&some)), ("publish,operate".into(), "a,b".into()));
        assert_eq!(tenants_of(&key(&["-"], &[])), "all");
    }
}
