//! Names to addresses, with the address policy inside.
//!
//! The client connects to exactly what [`GuardedResolver`] returns, with no second look-up in between: a name that is made to
//! resolve differently a moment later gains nothing. The client does not ask for hosts that are addresses already; those
//! are judged before (see [`super::client`]).
//!
//! Invariant: a host with any forbidden address is refused as a whole.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    system_conf::read_system_conf,
};
use thiserror::Error;
use tokio::time::timeout;

use super::{own::OwnPorts, phases};
use crate::{
    limits::RECEIVER_ADDRESSES_MAX,
    model::target::{NotAllowed, Scheme, TargetRules, is_localhost},
};

/// How long one query may take before it is repeated.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a query is repeated.
const QUERY_REPEATS: usize = 1;
/// Longest use of an answer, however long its owner allows: moved receivers are found within a minute.
const ANSWER_AGE_MAX: Duration = Duration::from_mins(1);
/// Longest use of the news that a name does not exist.
const ABSENCE_AGE_MAX: Duration = Duration::from_secs(10);
/// Most answers kept.
const CACHED_ANSWERS_MAX: u64 = 4096;
/// Most queries under way over one TCP connection to a name server; its default of 32 fails when many hosts are due at once.
const QUERIES_IN_FLIGHT_MAX: usize = 4096;

/// Name servers, and how to ask them.
pub(super) type DnsConfig = (ResolverConfig, ResolverOpts);

/// Why a name has no addresses to connect to. Never names one: tenants see these texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum ResolveError {
    /// It has some, but they may not be called.
    #[error("the host resolves to an address this server may not call")]
    Forbidden,
    /// It has some, but they may not be called without TLS.
    #[error("the host resolves to an address this server may call over https only")]
    PlainHttp,
    /// It has none.
    #[error("the host name does not exist or has no address")]
    Absent,
    /// The name servers did not answer in time.
    #[error("looking up the host name took too long")]
    Timeout,
    /// The name servers could not say.
    #[error("the host name could not be looked up")]
    Failed,
}

impl From<NotAllowed> for ResolveError {
    fn from(refusal: NotAllowed) -> Self {
        match refusal {
            NotAllowed::PlainHttp => Self::PlainHttp,
            NotAllowed::Address(_) | NotAllowed::Localhost | NotAllowed::Port(_) | NotAllowed::OwnListener => {
                Self::Forbidden
            }
        }
    }
}

impl From<NetError> for ResolveError {
    fn from(error: NetError) -> Self {
        if matches!(error, NetError::Dns(DnsError::NoRecordsFound(_))) {
            Self::Absent
        } else if matches!(error, NetError::Timeout) {
            Self::Timeout
        } else {
            Self::Failed
        }
    }
}

/// This machine's DNS configuration.
///
/// Where it cannot be read there is none: asking a public name server instead would tell it our users' internal names.
pub(super) fn system_config() -> Result<DnsConfig, NetError> {
    read_system_conf()
}

/// For a machine without name servers.
pub(super) fn hosts_file_only() -> DnsConfig {
    (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default())
}

/// Looks names up, in the hosts file (as it was at start) and in DNS, and remembers answers. Cheap to clone.
///
/// One per runtime: it runs queries on the runtime of whoever asks first, and their sockets end with that runtime.
#[derive(Clone)]
pub(super) struct Dns {
    resolver: TokioResolver,
    lookup_timeout: Duration,
}

impl Dns {
    pub(super) fn new((servers, options): &DnsConfig, connect_timeout: Duration) -> Self {
        let mut builder = TokioResolver::builder_with_config(servers.clone(), TokioRuntimeProvider::default());
        let set = builder.options_mut();
        *set = options.clone();
        set.timeout = QUERY_TIMEOUT;
        set.attempts = QUERY_REPEATS;
        set.cache_size = CACHED_ANSWERS_MAX;
        set.positive_max_ttl = Some(ANSWER_AGE_MAX);
        set.negative_max_ttl = Some(ABSENCE_AGE_MAX);
        set.max_active_requests = QUERIES_IN_FLIGHT_MAX;
        let resolver = builder.build().expect("without TLS to name servers there is nothing to fail");
        // A little less than connecting may take, so that slow name servers are named as the cause.
        Self { resolver, lookup_timeout: connect_timeout.mul_f64(0.9) }
    }

    pub(super) async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let found = timeout(self.lookup_timeout, self.resolver.lookup_ip(name)).await;
        let addresses: Vec<IpAddr> = found.map_err(|_| ResolveError::Timeout)??.iter().collect();
        if addresses.is_empty() {
            return Err(ResolveError::Absent);
        }
        Ok(addresses)
    }
}

/// Resolves for requests of one scheme and refuses what they may not reach.
#[derive(Clone)]
pub(super) struct GuardedResolver {
    pub(super) dns: Dns,
    pub(super) rules: TargetRules,
    pub(super) scheme: Scheme,
    /// Whether what it resolves is asked at a port of our own, so that this machine's addresses are refused too.
    pub(super) own_port: bool,
}

impl GuardedResolver {
    /// Where to connect to for this name; never nowhere, and never very many places: its owner could name any number of strangers', and
    /// have each attempt knock at all of them.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        if is_localhost(name) {
            let addresses = self.rules.localhost(self.scheme)?.collect();
            return self.connectable(addresses);
        }
        let admitted = async {
            let addresses = self.dns.lookup(name).await?;
            admit_all(&self.rules, self.scheme, &addresses)?;
            self.connectable(few(addresses))
        };
        phases::looking_up(admitted).await
    }

    /// Port 0 stands for the URL's port.
    fn connectable(&self, addresses: Vec<IpAddr>) -> Result<Vec<SocketAddr>, ResolveError> {
        if self.own_port {
            OwnPorts::refuse_own(&addresses)?;
        }
        Ok(addresses.into_iter().map(|address| (address, 0).into()).collect())
    }
}

/// The first of each family.
fn few(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut seen = [0; 2];
    addresses.retain(|address| {
        let seen = &mut seen[usize::from(address.is_ipv6())];
        *seen += 1;
        *seen <= RECEIVER_ADDRESSES_MAX
    });
    addresses
}

/// Refuses all addresses if any one is forbidden: an answer that mixes public and private ones is an attempt to reach the latter.
pub(super) fn admit_all(rules: &TargetRules, scheme: Scheme, addresses: &[IpAddr]) -> Result<(), ResolveError> {
    addresses.iter().try_for_each(|&address| rules.admit(scheme, address)).map_err(ResolveError::from)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::address::AddressPolicy;

    #[test]
    fn one_forbidden_address_refuses_all() {
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let rules = TargetRules { allow_http: false, policy };
        let check = |scheme, addresses: &[&str], expected| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(admit_all(&rules, scheme, &addresses), expected, "{addresses:?}");
        };
        check(Scheme::Https, &["8.8.8.8", "2606:4700::1111"], Ok(()));
        check(Scheme::Https, &["8.8.8.8", "127.0.0.1"], Ok(()));
        check(Scheme::Https, &["8.8.8.8", "10.0.0.1"], Err(ResolveError::Forbidden));
        check(Scheme::Https, &["::ffff:169.254.169.254", "8.8.8.8"], Err(ResolveError::Forbidden));
        check(Scheme::Http, &["127.0.0.1", "::ffff:127.0.0.2"], Ok(()));
        check(Scheme::Http, &["127.0.0.1", "8.8.8.8"], Err(ResolveError::PlainHttp));
    }

    #[test]
    fn of_many_addresses_few_are_tried_of_either_family() {
        let v4 = |n| IpAddr::from([8, 8, 8, n]);
        let v6 = |n| IpAddr::from([0x2606, 0x4700, 0, 0, 0, 0, 0, n]);
        let many: Vec<_> = (0..200).map(v4).chain((0..2).map(v6)).collect();
        let expected: Vec<_> = (0..4).map(v4).chain((0..2).map(v6)).collect();
        assert_eq!(few(many), expected);
        let many: Vec<_> = (0..100).map(v6).chain((0..100).map(v4)).collect();
        let expected: Vec<_> = (0..4).map(v6).chain((0..4).map(v4)).collect();
        assert_eq!(few(many), expected);
    }

    #[tokio::test]
    async fn without_name_servers_names_fail_and_localhost_works() {
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let rules = TargetRules { allow_http: true, policy };
        let dns = Dns::new(&hosts_file_only(), Duration::from_secs(5));
        let resolver = GuardedResolver { dns, rules, scheme: Scheme::Http, own_port: false };
        assert_eq!(resolver.addresses("receiver.example").await, Err(ResolveError::Failed));
        // ::1 is not opened, and left out.
        assert_eq!(resolver.addresses("a.localhost").await, Ok(vec![(Ipv4Addr::LOCALHOST, 0).into()]));
    }
}
