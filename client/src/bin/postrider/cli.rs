//! Arguments, and which command they mean.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::exit,
    time::Duration,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use postrider_client::Client;

use crate::{
    audit::AuditCommand,
    clock::ClockCommand,
    completions::CompletionsArgs,
    deliveries::DeliveriesCommand,
    erasures::TenantsCommand,
    event_types::EventTypesArgs,
    events::EventsCommand,
    failure::{EXIT_CODES, Failure},
    keys::KeysCommand,
    listen::ListenArgs,
    output::Format,
    publish::PublishArgs,
    quotas::QuotasCommand,
    replays::ReplaysCommand,
    triggers::TriggersArgs,
    watch::WatchArgs,
    webhooks::WebhooksCommand,
};

/// Talks to a Postrider server: manages webhooks, publishes events, follows deliveries; and `listen` receives them.
#[derive(Debug, Parser)]
#[command(name = "postrider", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct GlobalArgs {
    /// The server, as http://HOST:PORT or https://HOST:PORT.
    #[arg(long, global = true, env = "POSTRIDER_SERVER", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    server: String,
    /// Read the API key from this file; without it, from the variable `POSTRIDER_API_KEY`.
    #[arg(long, global = true, value_name = "PATH")]
    api_key_file: Option<PathBuf>,
    /// Trust an https server if its certificate comes from this authority (PEM), and not from those that this machine trusts.
    #[arg(long, global = true, value_name = "PATH", env = "POSTRIDER_CA_CERT")]
    ca_cert: Option<PathBuf>,
    /// Show an https server this certificate (PEM).
    #[arg(long, global = true, value_name = "PATH", env = "POSTRIDER_CLIENT_CERT", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The private key of that certificate (PEM).
    #[arg(long, global = true, value_name = "PATH", env = "POSTRIDER_CLIENT_KEY", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// Whose webhooks and events. Lists and `watch` take `-` for all tenants.
    #[arg(long, global = true, value_name = "NAME", default_value = "default", allow_hyphen_values = true)]
    tenant: String,
    /// Tables for people, or JSON (named as in the API) for programs.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// How long to wait for the server, such as `5s` or `1m`; for `watch`, until it says the first word.
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_timeout, default_value = "30s")]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, show, list and delete webhooks.
    #[command(subcommand)]
    Webhooks(WebhooksCommand),
    /// List what can happen: the event types that webhooks subscribe to.
    Triggers(TriggersArgs),
    /// List, register, change and delete event types.
    EventTypes(EventTypesArgs),
    /// Publish one event, or many from NDJSON.
    Publish(PublishArgs),
    /// Show and erase events, and explain which webhooks one goes to, and why.
    #[command(subcommand)]
    Events(EventsCommand),
    /// Erase everything of a tenant.
    #[command(subcommand)]
    Tenants(TenantsCommand),
    /// Show, list, retry, cancel and replay deliveries.
    #[command(subcommand)]
    Deliveries(DeliveriesCommand),
    /// Show, list, follow and stop replays.
    #[command(subcommand)]
    Replays(ReplaysCommand),
    /// Create, list and revoke API keys: who may speak to the server.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Show the server's clock, and confirm that its machine's is right.
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Set, show and list quotas: how much of the server a tenant may use, and does.
    #[command(subcommand)]
    Quotas(QuotasCommand),
    /// Show who did what, when, from where, and how that ended.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Follow what becomes of deliveries.
    Watch(WatchArgs),
    /// Receive webhooks on this machine: verify them and print what arrives.
    Listen(ListenArgs),
    /// Print a script that completes these commands in a shell.
    Completions(CompletionsArgs),
}

/// What every command that talks to a server needs.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) format: Format,
    pub(crate) timeout: Duration,
}

/// Runs the command and exits.
pub(crate) fn run() -> ! {
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    let format = cli.global.output;
    let code = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(async {
            match dispatch(cli).await {
                Ok(()) => 0,
                Err(failure) => failure.report(format),
            }
        }),
        Err(error) => Failure::from(error).report(format),
    };
    // Not a return from main: a read of standard input that is still blocked would hold the runtime up.
    exit(code)
}

/// Says what is wrong with the command line, or what was asked for, such as the help, and exits.
fn refuse(error: &clap::Error) -> ! {
    if error.use_stderr() && asks_for_json(std::env::args_os()) {
        // Nothing can be said where it could not be said.
        let _unsaid = error.print();
        exit(Failure::Usage(first_paragraph(&error.to_string())).report_json())
    }
    error.exit()
}

/// Whether a command line, though it cannot be understood, asks for JSON.
fn asks_for_json(args: impl IntoIterator<Item = OsString>) -> bool {
    let args: Vec<OsString> = args.into_iter().take_while(|arg| arg != "--").collect();
    let apart = args.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json");
    apart || args.iter().any(|arg| arg == "-ojson" || arg == "-o=json" || arg == "--output=json")
}

/// What clap says before it explains the usage, on one line.
fn first_paragraph(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    lines.collect::<Vec<_>>().join(" ")
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let session = || {
        let mut builder = Client::builder(server_url(&global.server)).tenant(&global.tenant).timeout(global.timeout);
        if let Some(key) = api_key(global.api_key_file.as_deref())? {
            builder = builder.api_key(key);
        }
        if let Some(path) = &global.ca_cert {
            builder = builder.ca_certificates(read(path)?);
        }
        if let (Some(certificate), Some(key)) = (&global.client_cert, &global.client_key) {
            builder = builder.client_certificate(read(certificate)?, read(key)?);
        }
        let client = builder.connect_lazy().map_err(|error| Failure::Usage(error.message().to_owned()))?;
        Ok::<_, Failure>(Session { client, format: global.output, timeout: global.timeout })
    };
    match command {
        Command::Webhooks(command) => command.run(&session()?).await,
        Command::Triggers(args) => args.run(&session()?).await,
        Command::EventTypes(args) => args.run(&session()?).await,
        Command::Publish(args) => args.run(&session()?).await,
        Command::Events(command) => command.run(&session()?).await,
        Command::Tenants(command) => command.run(&session()?).await,
        Command::Deliveries(command) => command.run(&session()?).await,
        Command::Keys(command) => command.run(&session()?).await,
        Command::Clock(command) => command.run(&session()?).await,
        Command::Quotas(command) => command.run(&session()?).await,
        Command::Replays(command) => command.run(&session()?).await,
        Command::Audit(command) => command.run(&session()?).await,
        Command::Watch(args) => args.run(&session()?).await,
        Command::Listen(args) => args.run(global.output).await,
        Command::Completions(args) => args.run(Cli::command()),
    }
}

/// The key to show: that in the file, or else that in the environment, if it has one. Never an argument, which everybody on
/// this machine can see.
fn api_key(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(file) = file else { return Ok(key_in_environment()) };
    let text = String::from_utf8(read(file)?);
    let text = text.map_err(|_| Failure::Local(format!("{} is not text", file.display())))?;
    Ok(Some(text.trim().to_owned()))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::Local(format!("cannot read {}: {error}", file.display())))
}

#[expect(
    clippy::disallowed_methods,
    reason = "clap would take it as an argument, too, and this is where arguments are read"
)]
fn key_in_environment() -> Option<String> {
    std::env::var("POSTRIDER_API_KEY").ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty())
}

/// A duration that leaves time for an answer.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than zero".into()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(error.to_string()),
    }
}

/// `HOST:PORT` is enough.
fn server_url(server: &str) -> String {
    if server.contains("://") { server.to_owned() } else { format!("http://{server}") }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            let has_subcommands = command.get_subcommands().next().is_some();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(has_subcommands || help.contains("postrider "), "`{}` has no example", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn examples_can_be_typed_in() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.split("Example").last().unwrap_or_default();
            for line in examples.lines().filter_map(|line| line.find("postrider ").map(|at| &line[at..])) {
                let words = line.replace('\'', "");
                let parsed = Cli::try_parse_from(words.split(' '));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    const WEBHOOK: &str = "wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80";
    const DELIVERY: &str = "dlv_5f0c9b7e31d84a26b0e1f3c758d29a64";

    #[track_caller]
    fn check(line: &str, expected: Option<ErrorKind>) {
        let full = line.replace("WEBHOOK", WEBHOOK).replace("DELIVERY_ID", DELIVERY);
        let result = Cli::try_parse_from(full.split(' '));
        assert_eq!(result.err().map(|error| error.kind()), expected, "{line}");
    }

    const LINES: &[(&str, Option<ErrorKind>)] = {
        use ErrorKind::{ArgumentConflict, InvalidValue, MissingRequiredArgument, ValueValidation};
        &[
            ("postrider webhooks create --url https://a.example --event-type ADD_TAG,NEW_LEAD", None),
            ("postrider webhooks create --url https://a.example --event-type A --event-type B -o json", None),
            ("postrider webhooks create --url https://a.example --event-type *", None),
            ("postrider webhooks create --url https://a.example", Some(MissingRequiredArgument)),
            ("postrider webhooks create --event-type *", Some(MissingRequiredArgument)),
            (
                "postrider webhooks create --url https://a.example --event-type * --retry-delays 5s,1m --max-attempts 9",
                None,
            ),
            (
                "postrider webhooks create --url https://a.example --event-type * --retry-factor 3",
                Some(MissingRequiredArgument),
            ),
            ("postrider webhooks delete WEBHOOK --yes --etag 7 --tenant acme", None),
            ("postrider webhooks delete", Some(MissingRequiredArgument)),
            ("postrider webhooks delete DELIVERY_ID --yes", Some(ValueValidation)),
            ("postrider webhooks get wh_0193", Some(ValueValidation)),
            ("postrider webhooks get WEBHOOK", None),
            (
                "postrider webhooks update WEBHOOK --url https://a.example --event-type A,B --metadata a=b --etag 7",
                None,
            ),
            ("postrider webhooks update WEBHOOK --clear metadata,description", None),
            ("postrider webhooks update --url https://a.example", Some(MissingRequiredArgument)),
            ("postrider webhooks update WEBHOOK --metadata a", Some(ValueValidation)),
            ("postrider webhooks enable WEBHOOK", None),
            ("postrider webhooks test WEBHOOK --event-type ADD_TAG", None),
            ("postrider webhooks test WEBHOOK", Some(MissingRequiredArgument)),
            ("postrider webhooks disable DELIVERY_ID", Some(ValueValidation)),
            ("postrider deliveries get dlv_0193", Some(ValueValidation)),
            ("postrider deliveries list --webhook WEBHOOK --event any", None),
            ("postrider deliveries list --webhook any", Some(ValueValidation)),
            ("postrider watch --webhook WEBHOOK,wh_1", Some(ValueValidation)),
            ("postrider watch --timeout 0s", Some(ValueValidation)),
            ("postrider triggers --timeout 0ms", Some(ValueValidation)),
            ("postrider webhooks rotate-secret WEBHOOK", None),
            ("postrider webhooks rotate-secret WEBHOOK --overlap 0s --secret - --etag 1", None),
            ("postrider webhooks rotate-secret WEBHOOK --secret whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", None),
            ("postrider webhooks rotate-secret WEBHOOK --secret nonsense", Some(ValueValidation)),
            ("postrider webhooks rotate-secret WEBHOOK --overlap soon", Some(ValueValidation)),
            ("postrider webhooks rotate-secret", Some(MissingRequiredArgument)),
            ("postrider webhooks update WEBHOOK --signature-scheme standard-v1a", None),
            (
                "postrider webhooks create --url U --event-type A --secret - --signature-scheme stripe --signature-header X-Sig",
                None,
            ),
            ("postrider webhooks create --url U --event-type A --signature-scheme sha1", Some(InvalidValue)),
            ("postrider webhooks update WEBHOOK --signature-header-prefix svix", Some(MissingRequiredArgument)),
            ("postrider keys create --name ci --rights publish,read --tenants a,b --expires 90d", None),
            ("postrider keys create --name ci --rights operate --all-tenants", None),
            ("postrider keys create --name ci --rights all --all-tenants", Some(InvalidValue)),
            ("postrider keys create --name ci --rights read", Some(MissingRequiredArgument)),
            ("postrider keys create --name ci --rights read --tenants a --all-tenants", Some(ArgumentConflict)),
            ("postrider keys create --name ci --rights read --all-tenants --expires soon", Some(ValueValidation)),
            ("postrider keys list --api-key-file key.txt", None),
            ("postrider keys list --server https://h --ca-cert ca.pem --client-cert c.pem --client-key k.pem", None),
            ("postrider keys list --client-cert c.pem", Some(MissingRequiredArgument)),
            ("postrider keys revoke key_0193a5e2c4b87d3f9a1c5e7b", None),
            ("postrider keys revoke WEBHOOK", Some(ValueValidation)),
            ("postrider audit list --tenant - --principal offline --method CreateKey --failed --limit 7", None),
            ("postrider audit list --since 2026-11-22T10:00:00Z --until 2026-11-22T11:00:00Z", None),
            ("postrider audit list --since yesterday", Some(ValueValidation)),
            ("postrider audit list --limit 0", Some(ValueValidation)),
            ("postrider triggers --timeout 1ms", None),
            ("postrider webhooks list --tenant -", None),
            (
                "postrider webhooks list --event-type ADD_TAG --enabled --failing --text crm --metadata a=b --order name --limit 3",
                None,
            ),
            ("postrider webhooks list --disabled --disable-reason gone --order newest", None),
            ("postrider webhooks list --disabled --enabled", Some(ArgumentConflict)),
            ("postrider webhooks list --disable-reason bored", Some(InvalidValue)),
            ("postrider webhooks list --order url", Some(InvalidValue)),
            ("postrider webhooks list --limit 0", Some(ValueValidation)),
            ("postrider completions zsh", None),
            ("postrider completions", Some(MissingRequiredArgument)),
            ("postrider completions tcsh", Some(InvalidValue)),
            ("postrider --server 127.0.0.1:1 --timeout 5s triggers --examples", None),
            ("postrider event-types", None),
            ("postrider event-types list --examples", None),
            ("postrider event-types create order.created --title Order --schema order.json --all-tenants", None),
            ("postrider event-types create", Some(MissingRequiredArgument)),
            ("postrider event-types update order.created --title Order --clear json_schema --etag 1", None),
            ("postrider event-types delete order.created --etag 1", None),
            ("postrider events explain evt_1", None),
            ("postrider events explain --type ADD_TAG --body {} --label waba=1", None),
            ("postrider events explain evt_1 --type ADD_TAG", Some(ArgumentConflict)),
            ("postrider events explain", Some(MissingRequiredArgument)),
            ("postrider events erase evt_1 --yes --wait", None),
            ("postrider events erase --yes", Some(MissingRequiredArgument)),
            ("postrider tenants erase acme --yes --request-id r-1", None),
            ("postrider tenants erase --yes", Some(MissingRequiredArgument)),
            ("postrider tenants erasure DELIVERY_ID", Some(ValueValidation)),
            (
                "postrider webhooks create --url https://a.example --event-type A --label-filter waba=1,2 --payload-filter true",
                None,
            ),
            ("postrider webhooks update WEBHOOK --label-filter waba", Some(ValueValidation)),
            ("postrider event-types --timeout soon", Some(ValueValidation)),
            ("postrider triggers --output yaml", Some(InvalidValue)),
            ("postrider publish --type A --body {}", None),
            (
                "postrider publish --type A --body {} --label a=b --label c=d=e --occur-time 2026-11-22T10:00:00+01:00",
                None,
            ),
            ("postrider publish --type A --body-file -", None),
            ("postrider publish --type A --example --id e-1", None),
            ("postrider publish --ndjson -", None),
            ("postrider publish --type A", Some(MissingRequiredArgument)),
            ("postrider publish --body {}", Some(MissingRequiredArgument)),
            ("postrider publish --type A --body {} --example", Some(ArgumentConflict)),
            ("postrider publish --type A --ndjson -", Some(ArgumentConflict)),
            ("postrider publish --ndjson - --id e-1", Some(ArgumentConflict)),
            ("postrider publish --ndjson - --max-age 1h", Some(ArgumentConflict)),
            ("postrider publish --type A --body {} --deliver-in 10m --max-age 1h", None),
            ("postrider publish --type A --body {} --deliver-at 2026-11-22T10:00:00Z", None),
            ("postrider publish --type A --body {} --deliver-at 10m", Some(ValueValidation)),
            (
                "postrider publish --type A --body {} --deliver-at 2026-11-22T10:00:00Z --deliver-in 1s",
                Some(ArgumentConflict),
            ),
            ("postrider publish --type A --body {} --label a", Some(ValueValidation)),
            ("postrider publish --type A --body {} --occur-time 2026-11-22", Some(ValueValidation)),
            ("postrider publish --type A --body {} --occur-time 2026-11-22T10:00:00", Some(ValueValidation)),
            ("postrider deliveries list --state delivered,FAILED --state DELIVERY_STATE_HELD --limit 5", None),
            ("postrider deliveries list --state lost", Some(ValueValidation)),
            ("postrider deliveries list --limit 0", Some(ValueValidation)),
            ("postrider deliveries get DELIVERY_ID", None),
            (
                "postrider watch --webhook WEBHOOK,WEBHOOK --event-type A,B --state failed --from-beginning --count 3",
                None,
            ),
            ("postrider watch --cursor abc --until-idle 5s", None),
            ("postrider watch --cursor abc --from-beginning", Some(ArgumentConflict)),
            (
                "postrider listen --secret whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD --status 500 --count 1 --delay 1s",
                None,
            ),
            ("postrider deliveries replay --webhook WEBHOOK --state failed,cancelled --event-type A,B --wait", None),
            ("postrider deliveries replay --webhook WEBHOOK --since 2026-11-22T10:00:00Z --per-second 5", None),
            ("postrider deliveries replay", Some(MissingRequiredArgument)),
            ("postrider deliveries replay --webhook WEBHOOK --per-second 0", Some(ValueValidation)),
            ("postrider deliveries replay --webhook WEBHOOK --since yesterday", Some(ValueValidation)),
            ("postrider replays list --webhook WEBHOOK --limit 5 --tenant -", None),
            ("postrider replays cancel rpl_0193a5e2c4b87d3f9a1c5e7b2d4f6a80 --pending", None),
            ("postrider replays get WEBHOOK", Some(ValueValidation)),
            ("postrider replays watch", Some(MissingRequiredArgument)),
            ("postrider listen --secret nonsense", Some(ValueValidation)),
            ("postrider listen --status 99", Some(ValueValidation)),
            ("postrider listen --status 1000", Some(ValueValidation)),
            ("postrider listen --address nowhere", Some(ValueValidation)),
        ]
    };

    #[test]
    fn command_lines() {
        for &(line, expected) in LINES {
            check(line, expected);
        }
    }

    #[test]
    fn json_is_asked_for_even_where_the_rest_is_wrong() {
        for (line, asks) in [
            ("postrider webhooks get wh_1 -o json", true),
            ("postrider --output json nonsense", true),
            ("postrider --output=json", true),
            ("postrider -ojson", true),
            ("postrider -o=json", true),
            ("postrider -o table", false),
            ("postrider -o", false),
            ("postrider json -- -o json", false),
        ] {
            assert_eq!(asks_for_json(line.split(' ').map(OsString::from)), asks, "{line}");
        }
    }

    #[test]
    fn usage_errors_are_said_on_one_line() {
        let error = Cli::try_parse_from(["postrider", "webhooks", "get", "wh_1"]).unwrap_err();
        let text = first_paragraph(&error.to_string());
        assert!(text.starts_with("invalid value 'wh_1' for '<ID>': must be a webhook's id"), "{text}");
        assert!(!text.contains('\n') && !text.contains("--help"), "{text}");
        let error = Cli::try_parse_from(["postrider", "webhooks", "create"]).unwrap_err();
        let text = first_paragraph(&error.to_string());
        assert!(text.contains("--url <URL>") && text.contains("--event-type"), "{text}");
    }

    #[test]
    fn a_server_needs_no_scheme() {
        assert_eq!(server_url("localhost:50051"), "http://localhost:50051");
        assert_eq!(server_url("http://[::1]:1"), "http://[::1]:1");
    }
}
