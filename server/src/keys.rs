//! `postriderd keys`: API keys without a running daemon. What a daemon holds open is managed through it, with `postrider keys`.

use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Parser, Subcommand};
use tokio::runtime::Builder;
use tonic::Code;

use crate::{
    clock::Clock,
    config::{self, Environment},
    flow::News,
    limits::API_KEY_TENANTS_MAX,
    model::{
        audit::{AuditEnd, AuditEntry, OK, Principal},
        credentials::{ApiKeyId, ApiKeySecret, ApiKeySpec, Right, Rights, TenantScope, key_name},
        ids::Tenant,
        time::Timestamp,
    },
    store::{
        AuditStep, ConfigAnswer, ConfigChange, KeyAnswer, KeyChange, KnownKey, Store, StoreError,
        redb::{self, OpenError},
    },
};

/// Manages API keys in a data directory that no daemon has open. With a running daemon, use `postrider keys` instead.
#[derive(Debug, Parser)]
#[command(
    name = "postriderd keys",
    after_help = "Examples:
  postriderd keys create --name ci --rights publish --tenants acme --expires 90d
  postriderd keys create --name admin --rights publish,manage,read,operate --all-tenants
  postriderd keys list
  postriderd keys revoke key_0193a5e2c4b87d3f9a1c5e7b

Exit codes: as those of postriderd; 1 if there is no such key, or no more may be."
)]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which data directory, as for the daemon.
#[derive(Debug, Args)]
struct Place {
    /// The data directory [default: ./postrider-data] [env: `POSTRIDER_DATA`]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// Read settings from this TOML file, as the daemon does [env: `POSTRIDER_CONFIG`]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a key and write it to standard output, this once. Makes the data directory if there is none.
    Create(CreateArgs),
    /// List keys, oldest first, those that have expired included.
    List,
    /// Revoke a key for good.
    Revoke {
        /// The key's id.
        id: ApiKeyId,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// What people know it by.
    #[arg(long, value_name = "TEXT", value_parser = key_name)]
    name: Box<str>,
    /// What it may do: publish, manage, read, operate. Repeatable, or separated by commas.
    #[arg(long, value_name = "RIGHT", value_delimiter = ',', required = true)]
    rights: Vec<Right>,
    /// For which tenants it speaks. Repeatable, or separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',', required_unless_present = "all_tenants", value_parser = parse_tenant)]
    tenants: Vec<Tenant>,
    /// It speaks for all tenants.
    #[arg(long, conflicts_with = "tenants")]
    all_tenants: bool,
    /// How long it lives, such as `90d` [default: it does not expire]
    #[arg(long, value_name = "DURATION", value_parser = parse_life)]
    expires: Option<Duration>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The command line, or the configuration; or what the command line asks for, such as help.
    #[error("{text}")]
    Usage {
        /// What to say.
        text: String,
        /// It is what was asked for.
        is_help: bool,
    },
    /// The data directory is in use, damaged, of a newer version, or cannot be reached.
    #[error("{error}{hint}", error = .0, hint = hint(.0))]
    Open(#[from] OpenError),
    /// There is no such data directory.
    #[error("{0} holds no data of a daemon")]
    Nothing(PathBuf),
    /// There is no such key.
    #[error("there is no such key, or it was revoked before")]
    NotFound,
    /// No more keys fit.
    #[error("there are as many keys as may be; revoke some")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something of this process failed.
    #[error("the runtime cannot be started: {0}")]
    Runtime(#[from] std::io::Error),
}

/// What to do about it, if that is known.
fn hint(error: &OpenError) -> &'static str {
    if matches!(error, OpenError::InUse(_)) { ": a daemon has it; manage its keys with `postrider keys`" } else { "" }
}

/// What to write: to standard output, and for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// To standard output.
    pub output: String,
    /// To standard error.
    pub note: String,
}

/// Runs what `args`, without the program's name and `keys`, ask for. Blocks.
pub fn run(args: impl IntoIterator<Item = OsString>, environment: Environment<'_>) -> Result<Said, KeysError> {
    let args = [OsString::from("postriderd keys")].into_iter().chain(args);
    let Cli { place, command } = Cli::try_parse_from(args)
        .map_err(|error| KeysError::Usage { text: error.render().to_string(), is_help: !error.use_stderr() })?;
    let config::Config { data, store, .. } = place.config(environment)?;
    let makes = matches!(command, Command::Create(_));
    if !makes && !data.join("hot.redb").exists() {
        return Err(KeysError::Nothing(data));
    }
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let clock = Clock::start();
        let store = redb::open(&data, store, Arc::new(News::default()), clock)?;
        let said = command.audited(&store, clock).await;
        store.close().await?;
        said
    })
}

impl Place {
    /// The daemon's own settings: where its data is, and what opens that.
    fn config(&self, environment: Environment<'_>) -> Result<config::Config, KeysError> {
        let mut args = vec![OsString::from("postriderd")];
        for (flag, value) in [("--data", &self.data), ("--config", &self.config)] {
            args.extend(value.iter().flat_map(|value| [flag.into(), value.clone().into_os_string()]));
        }
        match config::Command::read(args, environment) {
            Ok(
                config::Command::Run(config)
                | config::Command::RotateMasterKey(config, _)
                | config::Command::Backup(config, _)
                | config::Command::Restore(config, _),
            ) => Ok(*config),
            Ok(config::Command::Check(_)) => unreachable!("no such command was given"),
            Ok(config::Command::Print(text)) => Err(KeysError::Usage { text, is_help: true }),
            Err(problems) => Err(KeysError::Usage { text: format!("postriderd: {problems}\n"), is_help: false }),
        }
    }
}

impl Command {
    /// Carries it out between two entries of the audit log: nothing is done that is not written there.
    async fn audited(self, store: &dyn Store, clock: Clock) -> Result<Said, KeysError> {
        let (method, id) = match &self {
            Self::Create(_) => ("postriderd keys create", None),
            Self::List => ("postriderd keys list", None),
            Self::Revoke { id } => ("postriderd keys revoke", Some(*id)),
        };
        let resource = |id: Option<ApiKeyId>| id.map_or_else(Box::default, |id| id.to_string().into());
        let entry = AuditEntry::new(method, Principal::Offline, clock.now());
        let entry = AuditEntry { resource: resource(id), ..entry };
        let no = store.audit(AuditStep::Begin(entry.into())).await?;
        let done = self.carry_out(store, clock.now()).await;
        let code = done.as_ref().map_or_else(code, |_| OK);
        let made = done.as_ref().ok().and_then(|(_, made)| *made);
        let end = AuditEnd { resource: resource(made), ..AuditEnd::new(code, clock.now()) };
        let ended = store.audit(AuditStep::End(no, end.into())).await;
        let (mut said, _) = done?;
        if let Err(error) = ended {
            // It is done, and its key is shown this once.
            said.note = format!("{}How this ended is not in the audit log: {error}.\n", said.note);
        }
        Ok(said)
    }

    /// What is to be said, and the key that was made.
    async fn carry_out(self, store: &dyn Store, now: Timestamp) -> Result<(Said, Option<ApiKeyId>), KeysError> {
        match self {
            Self::Create(args) => create(store, args, now).await.map(|(said, id)| (said, Some(id))),
            Self::List => Ok((list(store, now), None)),
            Self::Revoke { id } => match change(store, KeyChange::Revoke { id }).await? {
                KeyAnswer::Revoked => Ok((Said { note: format!("Revoked {id}.\n"), ..Said::default() }, None)),
                KeyAnswer::Created(_) | KeyAnswer::NotFound | KeyAnswer::TooMany => Err(KeysError::NotFound),
            },
        }
    }
}

/// What the audit log says of a command that failed: what the same call of a daemon would be answered.
fn code(error: &KeysError) -> i32 {
    let code = match error {
        KeysError::Usage { .. } => Code::InvalidArgument,
        KeysError::NotFound | KeysError::Nothing(_) => Code::NotFound,
        KeysError::TooMany => Code::ResourceExhausted,
        KeysError::Open(_) | KeysError::Store(_) | KeysError::Runtime(_) => Code::Unavailable,
    };
    code.into()
}

async fn create(store: &dyn Store, args: CreateArgs, now: Timestamp) -> Result<(Said, ApiKeyId), KeysError> {
    if args.tenants.len() > API_KEY_TENANTS_MAX {
        let text = format!("postriderd keys: one key speaks for at most {API_KEY_TENANTS_MAX} tenants, or for all\n");
        return Err(KeysError::Usage { text, is_help: false });
    }
    let secret = ApiKeySecret::generate(&mut rand::rng());
    let spec = ApiKeySpec {
        name: args.name,
        // Without a list it is for all, which was then said.
        tenants: TenantScope::only(args.tenants).unwrap_or(TenantScope::All),
        rights: args.rights.into_iter().collect::<Rights>(),
        expire_time: args.expires.map(|life| now + life),
    };
    let create = KeyChange::Create { id: secret.id(), digest: secret.digest(), spec, time: now };
    let KeyAnswer::Created(key) = change(store, create).await? else { return Err(KeysError::TooMany) };
    let (tenants, rights) = (&key.spec.tenants, key.spec.rights);
    let note = format!("{}: {rights} for {tenants}. It is shown this once.\n", key.id);
    Ok((Said { output: format!("{}\n", secret.reveal()), note }, key.id))
}

fn list(store: &dyn Store, now: Timestamp) -> Said {
    let keys = store.catalog().keys().list(0, usize::MAX);
    let output = keys.iter().map(|known| line(known, now)).collect();
    let note = if keys.is_empty() { "There are no keys.\n".to_owned() } else { String::new() };
    Said { output, note }
}

/// Id, rights, tenants, when it expires, and name, separated by tabs.
fn line(known: &KnownKey, now: Timestamp) -> String {
    let key = &known.key;
    let ApiKeySpec { name, tenants, rights, expire_time } = &key.spec;
    let written = |time: Timestamp| humantime::format_rfc3339_seconds(time.system_time());
    let expiry = match expire_time {
        None => "does not expire".to_owned(),
        Some(time) if key.has_expired(now) => format!("expired {}", written(*time)),
        Some(time) => format!("expires {}", written(*time)),
    };
    format!("{}\t{rights}\t{tenants}\t{expiry}\t{name}\n", key.id)
}

async fn change(store: &dyn Store, change: KeyChange) -> Result<KeyAnswer, KeysError> {
    let answer = store.put_config(ConfigChange::Key(change)).await?;
    let ConfigAnswer::Key(answer) = answer else { unreachable!("a store answers what it was asked: {answer:?}") };
    Ok(answer)
}

fn parse_tenant(text: &str) -> Result<Tenant, String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    text.parse().map_err(|error: crate::model::ids::InvalidId| error.to_string())
}

fn parse_life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if life.is_zero() { Err("must be longer than zero".into()) } else { Ok(life) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_in(data: &tempfile::TempDir, line: &str) -> Result<Said, KeysError> {
        let data = [OsString::from("--data"), data.path().as_os_str().to_owned()];
        run(line.split(' ').map(OsString::from).chain(data), &|_| None)
    }

    #[test]
    fn keys_are_created_listed_and_revoked_without_a_daemon() {
        let data = tempfile::tempdir().unwrap();
        assert!(matches!(run_in(&data, "list"), Err(KeysError::Nothing(_))), "a slip makes no directory");
        let made = run_in(&data, "create --name ci --rights publish,read --tenants b,a --expires 1h").unwrap();
        let secret = ApiKeySecret::parse(made.output.trim_end()).unwrap();
        assert!(made.note.contains(&secret.id().to_string()) && made.note.contains("publish,read for a,b"), "{made:?}");
        assert!(!made.note.contains(&secret.reveal()[30..]));
        run_in(&data, "create --name all --rights operate --all-tenants").unwrap();

        let listed = run_in(&data, "list").unwrap().output;
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0][..3], [secret.id().to_string().as_str(), "publish,read", "a,b"]);
        assert!(lines[0][3].starts_with("expires 2") && lines[0][4] == "ci", "{lines:?}");
        assert_eq!(lines[1][1..], ["operate", "all tenants", "does not expire", "all"]);
        assert!(!listed.contains(&secret.reveal()[30..]));

        let revoke = format!("revoke {}", secret.id());
        assert!(run_in(&data, &revoke).unwrap().note.contains("Revoked"));
        assert!(matches!(run_in(&data, &revoke), Err(KeysError::NotFound)));
        assert_eq!(run_in(&data, "list").unwrap().output.lines().count(), 1);
    }

    #[test]
    fn a_directory_in_use_is_left_to_its_daemon() {
        let data = tempfile::tempdir().unwrap();
        let _held =
            redb::open(data.path(), redb::Config::default(), Arc::new(News::default()), Clock::start()).unwrap();
        let refused = run_in(&data, "create --name ci --rights read --all-tenants").unwrap_err();
        assert!(refused.to_string().contains("`postrider keys`"), "{refused}");
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        let data = tempfile::tempdir().unwrap();
        for line in [
            "",
            "create",
            "create --name x --rights read",
            "create --name x --all-tenants",
            "create --name x --rights all --all-tenants",
            "create --name x --rights read --tenants a --all-tenants",
            "create --name x --rights read --tenants A",
            "create --name x --rights read --tenants a,",
            "create --name x --rights read --all-tenants --expires 0s",
            "revoke key_1",
        ] {
            assert!(matches!(run_in(&data, line), Err(KeysError::Usage { is_help: false, .. })), "{line}");
        }
        assert!(matches!(run_in(&data, "--help"), Err(KeysError::Usage { is_help: true, .. })));
    }
}
