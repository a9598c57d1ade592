//! How webhooks are laid out and events spread over them.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Event types of the built-in catalogue; a place is one of them in one tenant.
const EVENT_TYPES: [&str; 10] = [
    "MESSAGE_RECEIVED",
    "MESSAGE_STATUS_UPDATE",
    "CHAT_ASSIGNED_TO_AGENT",
    "CHAT_UNASSIGNED",
    "WIDGET_LEAD_RECEIVED",
    "VERIFIED_WIDGET_LEAD_RECEIVED",
    "NEW_LEAD",
    "TEMPLATE_UPDATE",
    "ADD_TAG",
    "REMOVE_TAG",
];

/// Webhooks in *places*: an event goes to one place, and there to every webhook. Ten places make a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// What the tenants' names start with. Spreads of one daemon differ in it.
    pub(crate) tenants: String,
    /// Over how many places events are spread.
    pub(crate) places: u32,
    /// Webhooks in each.
    pub(crate) copies: u32,
    /// Over how many addresses of the loopback interface, from 127.0.0.1 on, their URLs are spread.
    pub(crate) hosts: u8,
}

impl Spread {
    /// One webhook.
    pub(crate) fn one() -> Self {
        Self::over(1)
    }

    /// As many webhooks, each event for one of them.
    pub(crate) fn over(webhooks: u32) -> Self {
        Self { tenants: "main".into(), places: webhooks, copies: 1, hosts: 1 }
    }

    /// As many webhooks, each event for all of them.
    pub(crate) fn fan(webhooks: u32) -> Self {
        Self { copies: webhooks, ..Self::one() }
    }

    /// The same over several addresses.
    pub(crate) fn hosts(self, hosts: u8) -> Self {
        Self { hosts, ..self }
    }

    /// The same of other tenants.
    pub(crate) fn of(self, tenants: &str) -> Self {
        Self { tenants: tenants.into(), ..self }
    }

    /// The tenant of an event's place.
    pub(crate) fn tenant(&self, event: u64) -> String {
        format!("{}-{}", self.tenants, self.place(event) / EVENT_TYPES.len() as u64)
    }

    /// The event type of an event's place.
    pub(crate) fn event_type(&self, event: u64) -> &'static str {
        let kinds = EVENT_TYPES.len() as u64;
        EVENT_TYPES[usize::try_from(self.place(event) % kinds).expect("ten at most")]
    }

    /// The URL of a place's webhook at a receiver's port.
    pub(crate) fn url(&self, place: u32, copy: u32, port: u16) -> String {
        let turn = (u64::from(place) * u64::from(self.copies) + u64::from(copy)) % u64::from(self.hosts.max(1));
        let host = host(u8::try_from(turn).expect("less than hosts"));
        format!("http://{host}:{port}/{}/{place}/{copy}", self.tenants)
    }

    fn place(&self, event: u64) -> u64 {
        event % u64::from(self.places)
    }
}

/// The `index`-th address of the loopback interface.
pub(crate) fn host(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, index + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn places_differ_and_repeat_after_the_last() {
        let spread = Spread::over(25);
        let place = |event| (spread.tenant(event), spread.event_type(event));
        assert_eq!((0..25).map(place).collect::<HashSet<_>>().len(), 25);
        assert_eq!(place(3), place(28));
    }

    #[test]
    fn urls_take_turns_over_the_hosts() {
        let spread = Spread::over(4).hosts(3);
        let hosts = (0..4).map(|place| spread.url(place, 0, 80)).collect::<Vec<_>>();
        assert!(hosts[0].starts_with("http://127.0.0.1:80/"));
        assert!(hosts[2].starts_with("http://127.0.0.3:80/"));
        assert!(hosts[3].starts_with("http://127.0.0.1:80/"));
    }
}
