//! Erasing: one event, or everything of a tenant; and what becomes of it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::{Args, Subcommand};
use postrider_client::v1::{EraseTenantRequest, Erasure, ErasureSubject};
use tokio::time::sleep;

use crate::{
    cli::Session,
    failure::Failure,
    ids::parse_erasure_id,
    json,
    output::{Format, printable, properties, say, say_json, time},
};

/// How often `--wait` asks.
const WAIT_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum TenantsCommand {
    /// Erase everything of a tenant, for good: webhooks, secrets, event types, events, deliveries, outcomes.
    #[command(after_help = "Examples:
  postrider tenants erase acme
  postrider tenants erase acme --yes --wait --request-id leaving-2026-11")]
    Erase(EraseTenantArgs),
    /// Show how far an erasure has come, of the tenant or of one of its events.
    #[command(
        after_help = "Example: postrider tenants erasure ers_5f0c9b7e31d84a26b0e1f3c758d29a64 --tenant acme --wait"
    )]
    Erasure {
        /// The erasure's id.
        #[arg(value_parser = parse_erasure_id)]
        id: String,
        /// Come back when it is finished.
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EraseTenantArgs {
    /// The tenant.
    #[arg(value_name = "TENANT")]
    name: String,
    #[command(flatten)]
    habits: Habits,
    /// Makes a retry safe: the same id answers with the first erasure, and erases nothing that came afterwards.
    #[arg(long, value_name = "ID", default_value = "")]
    request_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct EraseEventArgs {
    /// The event's id.
    id: String,
    #[command(flatten)]
    habits: Habits,
}

#[derive(Debug, Args)]
struct Habits {
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Come back when no file of the server holds anything of it any more.
    #[arg(long)]
    wait: bool,
}

impl TenantsCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Erase(EraseTenantArgs { name, habits, request_id }) => {
                let what = format!("everything of the tenant {}", printable(&name));
                confirm(&what, habits.yes)?;
                let request = EraseTenantRequest { tenant: name.clone(), request_id };
                let erasure = session.client.erase_tenant(request).await?;
                let client = session.client.for_tenant(name);
                let session = Session { client, format: session.format, timeout: session.timeout };
                follow(&session, erasure, habits.wait).await
            }
            Self::Erasure { id, wait } => {
                let erasure = session.client.erasure(id).await?;
                follow(session, erasure, wait).await
            }
        }
    }
}

/// `postrider events erase`.
pub(crate) async fn erase_event(session: &Session, args: EraseEventArgs) -> Result<(), Failure> {
    let EraseEventArgs { id, habits } = args;
    confirm(&format!("the event {} with its deliveries", printable(&id)), habits.yes)?;
    let erasure = session.client.erase_event(id).await?;
    follow(session, erasure, habits.wait).await
}

/// Asks on the terminal, unless that is not wanted. Only a clear yes counts.
fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask for confirmation; say --yes to erase".into()));
    }
    let mut terminal = io::stderr().lock();
    write!(terminal, "Erase {what}, for good? [y/N] ")?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::Local("not erased".into()))
}

/// Shows an erasure, once it is finished if that is wanted.
async fn follow(session: &Session, mut erasure: Erasure, wait: bool) -> Result<(), Failure> {
    while wait && erasure.finish_time.is_none() {
        sleep(WAIT_INTERVAL).await;
        erasure = session.client.erasure(erasure.id).await?;
    }
    match session.format {
        Format::Json => say_json(&json::erasure(&erasure)),
        Format::Table => {
            let finished = match &erasure.finish_time {
                Some(at) => time(Some(at)),
                None => "not yet: nobody reads it any more, and its bytes leave the disk".to_owned(),
            };
            let subject = match erasure.subject() {
                ErasureSubject::Event => "one event",
                ErasureSubject::Tenant => "a tenant",
                ErasureSubject::Unspecified => "",
            };
            say(properties(&[
                ("erasure", erasure.id),
                ("of", subject.to_owned()),
                ("decided", time(erasure.request_time.as_ref())),
                ("finished", finished),
            ]))
        }
    }
}
