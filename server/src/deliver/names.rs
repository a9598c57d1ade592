//! Judging a webhook's host name when it is registered, as every attempt will judge it again.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    Config,
    own::OwnPorts,
    resolver::{Dns, ResolveError, admit_all, hosts_file_only, system_config},
};
use crate::model::target::{Target, TargetHost, TargetRules};

/// How long registering a webhook waits for name servers; who answers later is judged at the first attempt.
const JUDGEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks names up as delivery does, on the runtime of whoever asks.
pub struct Names {
    dns: Dns,
    rules: TargetRules,
    own: OwnPorts,
}

impl Config {
    /// A judge of names by the same rules and name servers.
    pub fn names(&self) -> Names {
        let dns = system_config().unwrap_or_else(|_| hosts_file_only());
        Names::new(Dns::new(&dns, self.connect_timeout), self.rules.clone(), self.own.clone())
    }
}

impl Names {
    pub(super) fn new(dns: Dns, rules: TargetRules, own: OwnPorts) -> Self {
        Self { dns, rules, own }
    }

    /// Fails, saying why, if the host is a name that resolves to an address that may not be called, or if it leads to a port of
    /// this server. A name that does not resolve passes: it may have been registered just now.
    pub async fn judge(&self, target: &Target) -> Result<(), String> {
        self.own.check(target).map_err(|refusal| refusal.to_string())?;
        let TargetHost::Name(name) = target.host() else { return Ok(()) };
        let Ok(Ok(addresses)) = timeout(JUDGEMENT_TIMEOUT, self.dns.lookup(name)).await else { return Ok(()) };
        admit_all(&self.rules, target.scheme(), &addresses).map_err(|refusal: ResolveError| refusal.to_string())?;
        if self.own.has(target.port()) {
            OwnPorts::refuse_own(&addresses).map_err(|refusal| refusal.to_string())?;
        }
        Ok(())
    }
}
