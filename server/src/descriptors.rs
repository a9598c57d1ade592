//! File descriptors: every connection is one, and what most systems grant at first is too little for the daemon's limits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

use crate::config::Config;

/// What is open besides connections: files of the store, sockets of the resolver, the runtime's own.
const OTHERS: u64 = 256;

/// Raises this process' limit to what the configuration can need, or warns if the system does not allow as much.
///
/// A daemon that runs short anyway goes on: it accepts later, and attempts that cannot connect are repeated.
pub fn provide(config: &Config) {
    let needed = needed(config.serve.connections_max, config.dispatch.in_flight_max);
    let limit = getrlimit(Resource::Nofile);
    let Some(raised) = raised(limit, needed) else { return };
    let current = raised.current.unwrap_or(u64::MAX);
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => debug!(descriptors.limit = current, "the limit of open files is raised"),
        Err(error) => warn!(%error, descriptors.limit = current, "the limit of open files cannot be raised"),
    }
    if current < needed {
        warn!(
            descriptors.limit = current,
            descriptors.needed = needed,
            "fewer files may be open than the configured limits need (ulimit -n)"
        );
    }
}

/// One for each client, one for each attempt under way, and as many idle connections to receivers.
fn needed(connections_max: usize, in_flight_max: usize) -> u64 {
    let connections = connections_max.saturating_add(in_flight_max.saturating_mul(2));
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHERS)
}

/// The limit to ask for; `None` if the present one will do. `None` in a limit means that there is none.
fn raised(limit: Rlimit, needed: u64) -> Option<Rlimit> {
    let current = limit.current.filter(|current| *current < needed)?;
    let most = limit.maximum.unwrap_or(u64::MAX);
    Some(Rlimit { current: Some(needed.min(most).max(current)), maximum: limit.maximum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_needed_and_allowed() {
        let check = |current, maximum, needed, expect: Option<u64>| {
            let raised = raised(Rlimit { current, maximum }, needed);
            assert_eq!(raised.and_then(|limit| limit.current), expect, "{current:?} {maximum:?} {needed}");
        };
        check(Some(1024), Some(4096), 2304, Some(2304));
        check(Some(1024), Some(2000), 2304, Some(2000));
        check(Some(1024), None, 2304, Some(2304));
        check(Some(4096), Some(4096), 2304, None);
        check(None, None, 2304, None);
        assert_eq!(needed(1024, 512), 2304);
    }
}
