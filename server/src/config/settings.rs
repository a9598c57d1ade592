//! Every setting, declared once: its flag, variable, file key, help text and default all come from this table.

/// What a setting looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One value; the word for it in the help text.
    One(&'static str),
    /// Any number of values, separated by commas or given repeatedly; `none` stands for no value at all.
    Many(&'static str),
    /// On or off.
    Switch,
    /// A value that nobody else may read: neither a flag, which every process can see, nor a key of a file, but a variable alone.
    Secret,
}

/// One setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// Its flag without the dashes, and its key in the file.
    pub(super) name: &'static str,
    /// What it looks like.
    pub(super) kind: Kind,
    /// The value it has when no layer gives one, as somebody would write it.
    pub(super) default: &'static str,
    /// What it does, for people.
    pub(super) help: &'static str,
    /// Under which heading it stands.
    pub(super) group: &'static str,
}

impl Setting {
    /// Its environment variable.
    pub(super) fn variable(&self) -> String {
        format!("POSTRIDER_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

/// The setting of that name, or the problem that there is none, with the name that was probably meant.
pub(super) fn find(name: &str) -> Result<&'static Setting, String> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
        return Ok(setting);
    }
    let meant = SETTINGS
        .iter()
        .map(|setting| (strsim::jaro_winkler(&name.to_lowercase().replace('_', "-"), setting.name), setting.name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.8);
    Err(match meant {
        Some((_, meant)) => format!("there is no such setting; did you mean `{meant}`?"),
        None => "there is no such setting; `postriderd --help` lists all of them".into(),
    })
}

/// A setting the code asks for.
pub(super) fn known(name: &str) -> &'static Setting {
    find(name).unwrap_or_else(|problem: String| unreachable!("{name}: {problem}"))
}

const SERVING: &str = "Serving";
const RECEIVERS: &str = "Receivers";
const DELIVERING: &str = "Delivering";
const KEEPING: &str = "Keeping";
const PROCESS: &str = "Process";

/// The table. Its order is that of the help text.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "listen",
        kind: Kind::One("ADDRESS"),
        default: "127.0.0.1:50051",
        help: "Where gRPC is served: an IP address and a port; port 0 takes a free one, which the log names",
        group: SERVING,
    },
    Setting {
        name: "ops",
        kind: Kind::One("ADDRESS"),
        default: "none",
        help: "Where /metrics, /livez and /readyz are served over plain http: an IP address and a port, as for listen, or none",
        group: SERVING,
    },
    Setting {
        name: "insecure-listen",
        kind: Kind::Switch,
        default: "false",
        help: "Allow an address for --ops that other machines can reach, and one for --listen without TLS and --require-auth: \
               whoever reaches that port reads along, and does everything as long as there are no keys",
        group: SERVING,
    },
    Setting {
        name: "require-auth",
        kind: Kind::Switch,
        default: "false",
        help: "Take no call without credentials, not even before the first API key is created; from then on they are needed \
               anyway",
        group: SERVING,
    },
    Setting {
        name: "tls-cert",
        kind: Kind::One("FILE"),
        default: "none",
        help: "Serve gRPC over TLS with this certificate (PEM, with those between it and its authority); loaded again when it \
               changes, and on SIGHUP",
        group: SERVING,
    },
    Setting {
        name: "tls-key",
        kind: Kind::One("FILE"),
        default: "none",
        help: "The private key of tls-cert (PEM)",
        group: SERVING,
    },
    Setting {
        name: "tls-client-ca",
        kind: Kind::One("FILE"),
        default: "none",
        help: "Take only clients that show a certificate of one of these authorities (PEM), in addition to their API keys",
        group: SERVING,
    },
    Setting {
        name: "tls-client-rights",
        kind: Kind::Many("NAME=RIGHTS@TENANTS"),
        default: "none",
        help: "What a client may do without an API key if its certificate is for this DNS name or URI, such as \
               billing.internal=publish+read@acme, or @* for all tenants",
        group: SERVING,
    },
    Setting {
        name: "connections-per-address",
        kind: Kind::One("COUNT"),
        default: "512",
        help: "Most connections at a time from one IP address, or from one /64 of IPv6, of the 1,024 there may be; one more is \
               closed at once. Loopback and proxies are addresses like any other; 0: any number (0 to 65536)",
        group: SERVING,
    },
    Setting {
        name: "watch-heartbeat",
        kind: Kind::One("DURATION"),
        default: "15s",
        help: "An idle watch stream says where it stands this often (100ms to 5m)",
        group: SERVING,
    },
    Setting {
        name: "allow-cidr",
        kind: Kind::Many("CIDR"),
        default: "none",
        help: "Address range that webhooks may point at although it is not public, such as 127.0.0.0/8; plain http is \
               allowed there too",
        group: RECEIVERS,
    },
    Setting {
        name: "allow-http",
        kind: Kind::Switch,
        default: "false",
        help: "Allow plain http to public addresses as well; events then travel readable",
        group: RECEIVERS,
    },
    Setting {
        name: "ca-file",
        kind: Kind::One("FILE"),
        default: "none",
        help: "Authorities that receivers' certificates may come from besides those this machine trusts (PEM), for all webhooks \
               that name none themselves; read at start",
        group: RECEIVERS,
    },
    Setting {
        name: "egress-proxy",
        kind: Kind::One("URL"),
        default: "none",
        help: "Connect to receivers through this proxy, by CONNECT to addresses that were looked up and judged here: \
               http://HOST:PORT; proxies that the environment names are not used",
        group: RECEIVERS,
    },
    Setting {
        name: "egress-proxy-credentials",
        kind: Kind::One("FILE"),
        default: "none",
        help: "File with USER:PASSWORD for the egress proxy, readable by its owner alone",
        group: RECEIVERS,
    },
    Setting {
        name: "origin",
        kind: Kind::One("NAME"),
        default: "postrider",
        help: "DNS name by which receivers know this sender, all its machines together: WebHook-Request-Origin, for webhooks with \
               verify_ownership",
        group: RECEIVERS,
    },
    Setting {
        name: "attempt-timeout",
        kind: Kind::One("DURATION"),
        default: "15s",
        help: "Longest an attempt may take, from looking up the name to the end of the answer, unless its webhook has an \
               attempt_timeout (1s to 60s)",
        group: DELIVERING,
    },
    Setting {
        name: "attempt-timeout-max",
        kind: Kind::One("DURATION"),
        default: "60s",
        help: "Longest attempt_timeout a webhook may have; at least attempt-timeout (1s to 60s)",
        group: DELIVERING,
    },
    Setting {
        name: "connect-timeout",
        kind: Kind::One("DURATION"),
        default: "5s",
        help: "Longest an attempt may take to connect; at most attempt-timeout, and that if it is shorter (100ms to 60s)",
        group: DELIVERING,
    },
    Setting {
        name: "retry-schedule",
        kind: Kind::Many("DURATION"),
        default: "5s,5m,30m,2h,5h,10h,14h,20h,24h",
        help: "How long to wait after the first, second, … failed attempt, unless the webhook has a retry policy; there is one \
               attempt more than delays (at most 100, 30d each)",
        group: DELIVERING,
    },
    Setting {
        name: "retry-jitter",
        kind: Kind::One("FRACTION"),
        default: "0.2",
        help: "Stretch or shrink each delay at random by up to this fraction (0 to 1)",
        group: DELIVERING,
    },
    Setting {
        name: "retry-after-max",
        kind: Kind::One("DURATION"),
        default: "24h",
        help: "Longest delay that a receiver's Retry-After can ask for (0s to 30d)",
        group: DELIVERING,
    },
    Setting {
        name: "retry-attempts-max",
        kind: Kind::One("COUNT"),
        default: "100",
        help: "Most attempts by a webhook's own retry policy (1 to 1000)",
        group: DELIVERING,
    },
    Setting {
        name: "retry-elapsed-max",
        kind: Kind::One("DURATION"),
        default: "30d",
        help: "How long after a delivery was due a webhook's own retry policy may repeat it (1s to 365d)",
        group: DELIVERING,
    },
    Setting {
        name: "in-flight",
        kind: Kind::One("COUNT"),
        default: "512",
        help: "Most attempts under way at once (1 to 65536)",
        group: DELIVERING,
    },
    Setting {
        name: "in-flight-per-webhook",
        kind: Kind::One("COUNT"),
        default: "10",
        help: "Most attempts under way at once to one webhook; at most in-flight, and that if it is fewer",
        group: DELIVERING,
    },
    Setting {
        name: "rate-limit",
        kind: Kind::One("PER-SECOND"),
        default: "none",
        help: "Most attempts per second to a webhook that has no rate_limit, retries included (0.1 to 10000), or none",
        group: DELIVERING,
    },
    Setting {
        name: "rate-limit-max",
        kind: Kind::One("PER-SECOND"),
        default: "none",
        help: "Most attempts per second to any webhook, at most one second's worth of them at once, and the highest rate_limit \
               one may have (0.1 to 10000), or none",
        group: DELIVERING,
    },
    Setting {
        name: "auto-disable-after",
        kind: Kind::One("DURATION"),
        default: "5d",
        help: "Disable a webhook that has failed continuously for so long, unless it says otherwise itself; 0s: never (0s to \
               365d)",
        group: DELIVERING,
    },
    Setting {
        name: "http-client",
        kind: Kind::One("LIBRARY"),
        default: "reqwest",
        help: "Library that sends requests: reqwest, or hyper, the one it stands on, with which no receiver can keep others waiting by \
               sending without an end. With egress-proxy it is always hyper",
        group: DELIVERING,
    },
    Setting {
        name: "delivery-loops",
        kind: Kind::One("COUNT"),
        default: "auto",
        help: "Threads that deliver, each with its own connections; auto: one for every two processors (1 to 64)",
        group: DELIVERING,
    },
    Setting {
        name: "worker-threads",
        kind: Kind::One("COUNT"),
        default: "auto",
        help: "Threads for gRPC and scheduling; auto: one for every two processors (1 to 64)",
        group: DELIVERING,
    },
    Setting {
        name: "operator-tenant",
        kind: Kind::One("NAME"),
        default: "none",
        help: "Publish what happens to webhooks (postrider.webhook.disabled, .breaker_opened, .breaker_closed) and deliveries \
               (postrider.delivery.exhausted) of all other tenants as events of this one, or none",
        group: DELIVERING,
    },
    Setting {
        name: "data",
        kind: Kind::One("DIRECTORY"),
        default: "./postrider-data",
        help: "Where everything is kept; made if it is missing, and used by one daemon at a time",
        group: KEEPING,
    },
    Setting {
        name: "master-key-file",
        kind: Kind::One("FILE"),
        default: "none",
        help: "File with the master key, which secrets are encrypted with: the base64 of 32 bytes, readable by its owner alone; \
               none: master.key in the data directory, made at the first start",
        group: KEEPING,
    },
    Setting {
        name: "master-key",
        kind: Kind::Secret,
        default: "none",
        help: "The master key itself, instead of its file; as a variable only",
        group: KEEPING,
    },
    Setting {
        name: "require-master-key",
        kind: Kind::Switch,
        default: "false",
        help: "Refuse to start unless --master-key-file or POSTRIDER_MASTER_KEY gives the master key, so that it never lies \
               beside what it opens",
        group: KEEPING,
    },
    Setting {
        name: "confirm-clock",
        kind: Kind::Switch,
        default: "false",
        help: "Go by the machine's clock at this start, though it is before the last commit, or more than 31 days after it; for \
               one start, never for all",
        group: KEEPING,
    },
    Setting {
        name: "retention",
        kind: Kind::One("DURATION"),
        default: "30d",
        help: "How long finished deliveries, their events and the outcome log are kept; for as long, publishing an event's id \
               again changes nothing (1m to 3650d)",
        group: KEEPING,
    },
    Setting {
        name: "retention-bytes",
        kind: Kind::One("SIZE"),
        default: "none",
        help: "While the data directory holds more than this, the oldest history goes before its time, and with it the memory of \
               event ids; what is pending stays, and the newest (64MiB to 1024TiB), or none",
        group: KEEPING,
    },
    Setting {
        name: "audit-retention",
        kind: Kind::One("DURATION"),
        default: "90d",
        help: "How long it is kept who did what, of at most 100000 calls (1h to 3650d)",
        group: KEEPING,
    },
    Setting {
        name: "max-pending",
        kind: Kind::One("COUNT"),
        default: "10000000",
        help: "Most deliveries pending; beyond, publishing is refused with RESOURCE_EXHAUSTED",
        group: KEEPING,
    },
    Setting {
        name: "max-webhooks",
        kind: Kind::One("COUNT"),
        default: "1000000",
        help: "Most webhooks, of all tenants together (1 to 10000000)",
        group: KEEPING,
    },
    Setting {
        name: "quota-events-per-second",
        kind: Kind::One("PER-SECOND"),
        default: "none",
        help: "Most events per second of any tenant that has no quota of its own, as many at once after a rest (0.1 to 10000), or none",
        group: KEEPING,
    },
    Setting {
        name: "quota-pending",
        kind: Kind::One("COUNT"),
        default: "none",
        help: "Most deliveries pending of any such tenant, or none",
        group: KEEPING,
    },
    Setting {
        name: "quota-webhooks",
        kind: Kind::One("COUNT"),
        default: "none",
        help: "Most webhooks of any such tenant, or none",
        group: KEEPING,
    },
    Setting {
        name: "quota-bytes-per-day",
        kind: Kind::One("SIZE"),
        default: "none",
        help: "Most bytes of events accepted from any such tenant in one day, UTC (2MiB to 1024TiB), or none",
        group: KEEPING,
    },
    Setting {
        name: "store-hot",
        kind: Kind::One("SIZE"),
        default: "128MiB",
        help: "How much of the newest events and outcomes stays in hot.redb; the rest moves to segments (64KiB to 1TiB)",
        group: KEEPING,
    },
    Setting {
        name: "store-cache",
        kind: Kind::One("SIZE"),
        default: "16MiB",
        help: "Memory in which the store keeps pages of hot.redb; some 50MiB more go to segments and to what is new (4MiB to 1TiB)",
        group: KEEPING,
    },
    Setting {
        name: "disk-reserve",
        kind: Kind::One("SIZE"),
        default: "128MiB",
        help: "While the data directory's file system has less free, publishing is refused with RESOURCE_EXHAUSTED and \
               deliveries go on (0B to 1TiB)",
        group: KEEPING,
    },
    Setting {
        name: "shutdown-grace",
        kind: Kind::One("DURATION"),
        default: "10s",
        help: "Longest that attempts under way may take to end after SIGTERM or SIGINT; the daemon exits within a second \
               of it (0s to 1h)",
        group: PROCESS,
    },
    Setting {
        name: "log",
        kind: Kind::One("FILTER"),
        default: "info",
        help: "What is logged: a level, or directives such as info,postrider_server::deliver=debug",
        group: PROCESS,
    },
    Setting {
        name: "log-format",
        kind: Kind::One("FORMAT"),
        default: "auto",
        help: "text or json, on standard error; auto: text on a terminal, JSON otherwise",
        group: PROCESS,
    },
];

/// The one thing that is no key of the file: where the file is.
pub(super) const CONFIG_FILE: &str = "config";

/// Refuses what an operator probably did not mean to write: the file key of the file itself, and secrets.
pub(super) fn in_file(key: &str) -> Result<&'static Setting, String> {
    if key == CONFIG_FILE {
        return Err("a configuration file cannot name another one".into());
    }
    let setting = find(key)?;
    if setting.kind == Kind::Secret {
        return Err(format!("is not taken from a file that others may read: use the variable {}", setting.variable()));
    }
    Ok(setting)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_speak_for_themselves() {
        let names: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
        assert!(!names.contains(CONFIG_FILE));
        assert_eq!(known("allow-cidr").variable(), "POSTRIDER_ALLOW_CIDR");
    }

    #[test]
    fn a_slip_gets_a_hint() {
        for (written, meant) in [("listn", "`listen`"), ("attempt_timeout", "`attempt-timeout`"), ("LOG", "`log`")] {
            let problem = in_file(written).unwrap_err();
            assert!(problem.contains(meant), "{written}: {problem}");
        }
        assert!(in_file("zzz").unwrap_err().contains("--help"));
        assert!(in_file("config").unwrap_err().contains("another"));
        assert!(in_file("master-key").unwrap_err().contains("POSTRIDER_MASTER_KEY"));
        assert!(in_file("master-key-file").is_ok());
    }
}
