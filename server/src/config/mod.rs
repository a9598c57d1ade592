//! Settings: flags over environment over file over defaults, checked as a whole before anything is opened or bound.
//!
//! ```text
//! flags  environment  file          layers.rs    who gave which texts for a setting; the uppermost layer counts
//!    └───────┼─────────┘
//!         Layers                    settings.rs  the table of all settings: names, help, defaults
//!            │
//!         Reader                    reader.rs    texts to values, each on its own
//!            │
//!         Config                    mod.rs       values that fit each other, in the stages' own Config types
//! ```
//!
//! All problems are found in one go, and each says where its value was given.
//!
//! Deliberately absent: a check for unknown `POSTRIDER_…` variables. Container platforms define such variables of their own
//! accord for every service they know by name.

mod egress;
mod layers;
mod master_key;
mod reader;
mod settings;

use std::{ffi::OsString, fmt, net::SocketAddr, ops::RangeInclusive, path::PathBuf, sync::Arc, thread, time::Duration};

use ipnet::IpNet;

use self::{
    layers::{Layers, Request},
    reader::Reader,
};
use crate::{
    accept, api, deliver, dispatch,
    limits::{
        ACCEPT_BYTES_IN_FLIGHT_MAX, ATTEMPT_TIMEOUT_MAX, ATTEMPT_TIMEOUT_MIN, AUTO_DISABLE_AFTER_MAX,
        DELIVER_AHEAD_MAX, QUOTA_BYTES_PER_DAY_MIN, RETRY_ATTEMPTS_MAX, RETRY_DELAY_MAX, RETRY_DELAYS_MAX,
        RETRY_ELAPSED_MAX, RETRY_ELAPSED_MIN,
    },
    model::{
        address::AddressPolicy,
        credentials::Grant,
        ids::Tenant,
        ownership::{InvalidOrigin, Origin},
        protection::Rates,
        quota::Limits,
        rate::{PER_SECOND_MAX, PER_SECOND_MIN, RateLimit},
        retry::RetryPolicy,
        target::TargetRules,
    },
    ops, outcomes, retention, serve, shutdown,
    store::redb::{self, BackupPlan, KeySource},
    telemetry::{self, LogFormat},
    tls, watch,
};

pub use self::layers::{Environment, process_environment};

/// Everything the daemon can be told: the sum of its parts' own settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where and how gRPC is served.
    pub serve: serve::Config,
    /// Where metrics and health are served, if anywhere.
    pub ops: ops::Config,
    /// Where everything is kept.
    pub data: PathBuf,
    /// How it is kept.
    pub store: redb::Config,
    /// What webhooks may point at.
    pub targets: TargetRules,
    /// The address ranges that were opened, as they were written.
    pub opened: Vec<IpNet>,
    /// How much may wait for its commit.
    pub accept: accept::Config,
    /// How much may be under way.
    pub dispatch: dispatch::Config,
    /// How attempts are made.
    pub deliver: deliver::Config,
    /// What follows from them.
    pub outcomes: outcomes::Config,
    /// How outcomes are followed.
    pub watch: watch::Config,
    /// How often the store is tended.
    pub retention: retention::Config,
    /// How the daemon stops.
    pub shutdown: shutdown::Config,
    /// What is logged, and how.
    pub telemetry: telemetry::Config,
    /// How long and how often webhooks may have deliveries attempted.
    pub policy_limits: api::PolicyLimits,
    /// The sender's name to receivers that are asked for their consent.
    pub origin: Origin,
    /// Whether callers need credentials even if no API key was ever created.
    pub require_auth: bool,
    /// What clients' certificates are good for.
    pub grants: Vec<Grant>,
    /// Threads of the runtime that everything but deliveries and commits runs on.
    pub workers: usize,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Command {
    /// To run the daemon so.
    Run(Box<Config>),
    /// To replace the master key, by this one or by one that is made in the data directory.
    RotateMasterKey(Box<Config>, Option<KeySource>),
    /// To make a backup.
    Backup(Box<Config>, BackupPlan),
    /// To make a data directory of the backup in this folder.
    Restore(Box<Config>, PathBuf),
    /// To look through what is in this folder.
    Check(PathBuf),
    /// To print this and end: help, the version, or completions for a shell.
    Print(String),
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A flag, a variable, or a place in a file.
    pub source: String,
    /// What is wrong with it.
    pub message: String,
}

impl Problem {
    fn new(source: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { source: source.to_string(), message: message.to_string() }
    }
}

/// Everything that is wrong with the configuration; never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is wrong:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {}: {}", problem.source, problem.message))
    }
}

impl Command {
    /// Reads the command line, whose first argument is the program's name, the environment and the configuration file.
    pub fn read(args: impl IntoIterator<Item = OsString>, environment: Environment<'_>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let command = match layers::read(args, environment, &mut problems) {
            Request::Print(text) => return Ok(Self::Print(text)),
            Request::Run(layers) => Self::Run(Box::new(Config::check(&layers, &mut problems))),
            Request::RotateMasterKey(layers, new) => {
                let config = Config::check(&layers, &mut problems);
                let new = master_key::new_source(&config.store.master_key, new, &mut problems);
                Self::RotateMasterKey(Box::new(config), new)
            }
            Request::Backup(layers, dir, master_key) => {
                let config = Config::check(&layers, &mut problems);
                Self::Backup(Box::new(config), BackupPlan { dir, master_key })
            }
            Request::Restore(layers, from) => Self::Restore(Box::new(Config::check(&layers, &mut problems)), from),
            Request::Check(layers, folder) => {
                let config = Config::check(&layers, &mut problems);
                Self::Check(folder.unwrap_or(config.data))
            }
        };
        if problems.is_empty() { Ok(command) } else { Err(Problems(problems)) }
    }
}

impl Config {
    /// What these flags say, such as `["--data", "/tmp/x"]`, the environment left aside: for a daemon inside another program.
    pub fn from_flags<F: Into<OsString>>(flags: impl IntoIterator<Item = F>) -> Result<Self, Problems> {
        let args = [OsString::from("postriderd")].into_iter().chain(flags.into_iter().map(Into::into));
        match Command::read(args, &|_| None)? {
            Command::Run(config) => Ok(*config),
            Command::RotateMasterKey(..) | Command::Backup(..) | Command::Restore(..) | Command::Check(_) => {
                Err(Problems(vec![Problem::new("command line", "is not that of a daemon")]))
            }
            Command::Print(text) => Err(Problems(vec![Problem::new("command line", text)])),
        }
    }

    /// Reads every setting and relates them. The result is good only if no problem was added.
    fn check(layers: &Layers, problems: &mut Vec<Problem>) -> Self {
        let mut reader = Reader::new(layers, problems);
        let reader = &mut reader;
        let opened = reader.many("allow-cidr", reader::range);
        let targets =
            TargetRules { allow_http: reader.switch("allow-http"), policy: AddressPolicy::new(opened.clone()) };
        let dispatch = check_dispatch(reader);
        let store = check_store(reader);
        let deliver = check_deliver(reader, dispatch.in_flight_max, &targets);
        let outcomes = check_outcomes(reader, dispatch.in_flight_max);
        let insecure = reader.switch("insecure-listen");
        // What comes in between two looks is on top of the limit.
        let interval = if store.retention_bytes.is_some() { MILLISECOND * 100 } else { SECOND };
        let require_auth = reader.switch("require-auth");
        Self {
            serve: check_serve(reader, insecure, require_auth),
            ops: check_ops(reader, insecure),
            data: reader.one("data", |text| Ok(PathBuf::from(text))),
            accept: accept::Config {
                bytes_in_flight_max: ACCEPT_BYTES_IN_FLIGHT_MAX,
                deliver_ahead_max: store.retention.min(DELIVER_AHEAD_MAX),
            },
            store,
            policy_limits: api::PolicyLimits {
                attempt_timeout_max: deliver.attempt_timeout_max,
                attempts_max: outcomes.retry.attempts_max,
                elapsed_max: outcomes.retry.elapsed_max,
                per_second_max: dispatch.rates.ceiling.map_or(PER_SECOND_MAX, |ceiling| ceiling.per_second()),
            },
            origin: reader.one("origin", |text| text.parse().map_err(|error: InvalidOrigin| error.to_string())),
            deliver,
            outcomes,
            dispatch,
            watch: watch::Config { heartbeat: reader.duration("watch-heartbeat", MILLISECOND * 100..=MINUTE * 5) },
            retention: retention::Config { interval },
            shutdown: shutdown::Config { grace: reader.duration("shutdown-grace", Duration::ZERO..=HOUR) },
            telemetry: check_telemetry(reader),
            grants: check_grants(reader),
            require_auth,
            workers: reader.one("worker-threads", threads),
            targets,
            opened,
        }
    }
}

/// What `retention-bytes` may be: at least so much that the portions in which history goes, and files by which they grow, are
/// small beside it.
const RETENTION_BYTES: RangeInclusive<usize> = 64 << 20..=1 << 50;
/// What `quota-bytes-per-day` may be: at least so much that the largest event fits.
const QUOTA_BYTES_PER_DAY: RangeInclusive<usize> = QUOTA_BYTES_PER_DAY_MIN..=1 << 50;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// An answer that takes longer than this makes a receiver a slow one.
const SLOW_AFTER: Duration = Duration::from_secs(5);
/// The share of all permits that slow receivers may hold together, so that the others always find some.
const SLOW_SHARE: f64 = 0.5;

fn check_serve(reader: &mut Reader<'_>, insecure: bool, require_auth: bool) -> serve::Config {
    let address = reader.one("listen", reader::address);
    let tls = check_tls(reader);
    let guarded = tls.is_some() && require_auth;
    let how = "give it --tls-cert, --tls-key and --require-auth";
    check_reach(reader, "listen", address, insecure || guarded, how);
    let address_connections_max = reader.count("connections-per-address", 0..=65_536);
    serve::Config { address, address_connections_max, tls, ..serve::Config::default() }
}

fn check_grants(reader: &mut Reader<'_>) -> Vec<Grant> {
    let grants = reader.many("tls-client-rights", str::parse);
    if !grants.is_empty() && !reader.is_given("tls-client-ca") {
        reader.refuse("tls-client-rights", "means nothing without tls-client-ca");
    }
    grants
}

/// Certificates are read here, so that what is wrong with them is known before anything else happens.
fn check_tls(reader: &mut Reader<'_>) -> Option<tls::Files> {
    let mut path = |name| reader.one(name, |text| Ok((text != "none").then(|| PathBuf::from(text))));
    let [certificate, key, client_ca] = ["tls-cert", "tls-key", "tls-client-ca"].map(&mut path);
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => {
            if client_ca.is_some() {
                reader.refuse("tls-client-ca", "means nothing without tls-cert and tls-key");
            }
            return None;
        }
        (Some(_), None) => {
            reader.refuse("tls-cert", "needs tls-key");
            return None;
        }
        (None, Some(_)) => {
            reader.refuse("tls-key", "needs tls-cert");
            return None;
        }
    };
    let files = tls::Files { certificate, key, client_ca };
    if let Err(error) = files.check() {
        let name = match error.which {
            tls::Which::Certificate => "tls-cert",
            tls::Which::Key => "tls-key",
            tls::Which::ClientCa => "tls-client-ca",
        };
        reader.refuse(name, error);
    }
    Some(files)
}

fn check_ops(reader: &mut Reader<'_>, insecure: bool) -> ops::Config {
    let address = reader.one("ops", |text| match text {
        "none" => Ok(None),
        text => reader::address(text).map(Some).map_err(|problem| format!("{problem}, or none")),
    });
    if let Some(address) = address {
        check_reach(reader, "ops", address, insecure, "it has neither, so put a proxy in front");
    }
    ops::Config { address, ..ops::Config::default() }
}

/// Refuses an address that other machines can reach, unless it is guarded or the operator wants that. `how` says what would help.
fn check_reach(reader: &mut Reader<'_>, name: &'static str, address: SocketAddr, allowed: bool, how: &str) {
    if !allowed && !address.ip().to_canonical().is_loopback() {
        reader.refuse(
            name,
            format_args!(
                "{address} can be reached by other machines without TLS and credentials: {how}, listen on a loopback address, or \
                 accept the risk with --insecure-listen"
            ),
        );
    }
}

fn check_store(reader: &mut Reader<'_>) -> redb::Config {
    redb::Config {
        master_key: master_key::source(reader),
        confirm_clock: reader.switch("confirm-clock"),
        hot_bytes_max: reader.one("store-hot", |text| reader::bytes(text, &(64 << 10..=1 << 40))),
        disk_reserve: reader
            .one("disk-reserve", |text| reader::bytes(text, &(0..=1 << 40)))
            .try_into()
            .unwrap_or(u64::MAX),
        cache_bytes: reader.one("store-cache", |text| reader::bytes(text, &(4 << 20..=1 << 40))),
        retention: reader.duration("retention", MINUTE..=DAY * 3650),
        retention_bytes: reader.one("retention-bytes", |text| match text {
            "none" => Ok(None),
            text => reader::bytes(text, &RETENTION_BYTES).map(|bytes| Some(bytes as u64)),
        }),
        audit_retention: reader.duration("audit-retention", HOUR..=DAY * 3650),
        pending_max: reader.count("max-pending", 1..=u64::MAX),
        quotas: check_quotas(reader),
        webhooks_max: reader.count("max-webhooks", 1..=10_000_000),
        operator: reader.one("operator-tenant", |text| match text {
            "none" => Ok(None),
            text => text.parse::<Tenant>().map(Some).map_err(|error| error.to_string()),
        }),
        ..redb::Config::default()
    }
}

fn check_dispatch(reader: &mut Reader<'_>) -> dispatch::Config {
    let in_flight_max = reader.count("in-flight", 1..=65_536);
    let mut webhook_in_flight_max = reader.count("in-flight-per-webhook", 1..=65_536);
    if webhook_in_flight_max > in_flight_max {
        if reader.is_given("in-flight-per-webhook") {
            reader.refuse("in-flight-per-webhook", format_args!("is more than in-flight, {in_flight_max}"));
        }
        webhook_in_flight_max = in_flight_max;
    }
    let rates = check_rates(reader);
    let slow_share = SLOW_SHARE;
    dispatch::Config { in_flight_max, webhook_in_flight_max, rates, slow_share, ..dispatch::Config::default() }
}

/// What holds for tenants without a quota of their own.
fn check_quotas(reader: &mut Reader<'_>) -> Limits {
    let count = |text: &str| match text {
        "none" => Ok(None),
        text => reader::count(text, &(0..=i64::MAX as u64)).map(Some).map_err(|problem| format!("{problem}, or none")),
    };
    Limits {
        events: reader.one("quota-events-per-second", rate),
        pending: reader.one("quota-pending", count),
        webhooks: reader.one("quota-webhooks", count),
        bytes_per_day: reader.one("quota-bytes-per-day", |text| match text {
            "none" => Ok(None),
            text => reader::bytes(text, &QUOTA_BYTES_PER_DAY).map(|bytes| Some(bytes as u64)),
        }),
    }
}

/// A rate, or none.
fn rate(text: &str) -> Result<Option<RateLimit>, String> {
    if text == "none" {
        return Ok(None);
    }
    let limit = text.parse().ok().and_then(|per_second| RateLimit::new(per_second, 0));
    limit.map(Some).ok_or_else(|| format!("is neither a number from {PER_SECOND_MIN} to {PER_SECOND_MAX} nor none"))
}

fn check_rates(reader: &mut Reader<'_>) -> Rates {
    let mut rates = Rates { default: reader.one("rate-limit", rate), ceiling: reader.one("rate-limit-max", rate) };
    if let (Some(default), Some(ceiling)) = (rates.default, rates.ceiling)
        && default.per_second() > ceiling.per_second()
    {
        reader.refuse("rate-limit", format_args!("is more than rate-limit-max, {}", ceiling.per_second()));
        rates.default = Some(ceiling);
    }
    rates
}

fn check_deliver(reader: &mut Reader<'_>, in_flight_max: usize, targets: &TargetRules) -> deliver::Config {
    let attempt_timeout = reader.duration("attempt-timeout", ATTEMPT_TIMEOUT_MIN..=ATTEMPT_TIMEOUT_MAX);
    let attempt_timeout_max = reader.duration("attempt-timeout-max", ATTEMPT_TIMEOUT_MIN..=ATTEMPT_TIMEOUT_MAX);
    if attempt_timeout_max < attempt_timeout {
        let attempt_timeout = humantime::format_duration(attempt_timeout);
        reader.refuse("attempt-timeout-max", format_args!("is shorter than attempt-timeout, {attempt_timeout}"));
    }
    let mut connect_timeout = reader.duration("connect-timeout", MILLISECOND * 100..=ATTEMPT_TIMEOUT_MAX);
    if connect_timeout > attempt_timeout {
        if reader.is_given("connect-timeout") {
            let attempt_timeout = humantime::format_duration(attempt_timeout);
            reader.refuse("connect-timeout", format_args!("is longer than attempt-timeout, {attempt_timeout}"));
        }
        connect_timeout = attempt_timeout;
    }
    let loops = reader.one("delivery-loops", threads);
    deliver::Config {
        attempt_timeout,
        attempt_timeout_max,
        connect_timeout,
        loops,
        idle_per_host: in_flight_max.div_ceil(loops),
        rules: targets.clone(),
        // Known when they are taken.
        own: deliver::OwnPorts::default(),
        user_agent: format!("Postrider/{}", env!("CARGO_PKG_VERSION")),
        authorities: egress::authorities(reader),
        http_client: reader.one("http-client", |text| match text {
            "reqwest" => Ok(deliver::HttpClient::Reqwest),
            "hyper" => Ok(deliver::HttpClient::Hyper),
            _ => Err("is neither reqwest nor hyper".into()),
        }),
        proxy: egress::proxy(reader).map(Arc::new),
    }
}

/// A number of threads; two kinds share the processors, so each gets one for every two of them.
fn threads(text: &str) -> Result<usize, String> {
    match text {
        "auto" => Ok((thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 64)),
        text => reader::count(text, &(1..=64)),
    }
}

fn check_outcomes(reader: &mut Reader<'_>, in_flight_max: usize) -> outcomes::Config {
    let schedule = reader.many("retry-schedule", |text| reader::duration(text, &(Duration::ZERO..=RETRY_DELAY_MAX)));
    if schedule.len() > RETRY_DELAYS_MAX {
        reader.refuse("retry-schedule", format_args!("has {} entries, more than {RETRY_DELAYS_MAX}", schedule.len()));
    }
    let retry = RetryPolicy {
        schedule,
        jitter: reader.one("retry-jitter", reader::fraction),
        retry_after_max: reader.duration("retry-after-max", Duration::ZERO..=RETRY_DELAY_MAX),
        attempts_max: reader.count("retry-attempts-max", 1..=RETRY_ATTEMPTS_MAX),
        elapsed_max: reader.duration("retry-elapsed-max", RETRY_ELAPSED_MIN..=RETRY_ELAPSED_MAX),
    };
    let auto_disable_after = reader.duration("auto-disable-after", Duration::ZERO..=AUTO_DISABLE_AFTER_MAX);
    outcomes::Config { retry, slow_after: SLOW_AFTER, group_outcomes: in_flight_max.div_ceil(4), auto_disable_after }
}

fn check_telemetry(reader: &mut Reader<'_>) -> telemetry::Config {
    telemetry::Config {
        filter: reader.one("log", telemetry::Filter::parse),
        format: reader.one("log-format", |text| match text {
            "auto" => Ok(LogFormat::Auto),
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("is none of auto, text and json".into()),
        }),
    }
}

#[cfg(test)]
mod tests;
