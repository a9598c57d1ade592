//! The pure core: what Postrider's nouns are and what is decided about them.
//!
//! Invariant: nothing here sleeps, sends, writes, reads a clock or draws from a global random source; `now` and `rng` are
//! arguments, and decisions are return values.

pub mod address;
pub mod audit;
pub mod audit_shares;
pub mod breaker;
pub mod catalogue;
pub mod credentials;
pub mod delivery;
pub mod erasure;
pub mod event;
pub mod event_type;
pub mod exchange;
pub mod failing;
pub mod ids;
pub mod json_object;
pub mod keyring;
pub mod master_key;
pub mod operational;
pub mod ordering;
pub mod ownership;
pub mod policy;
pub mod protection;
pub mod quota;
pub mod rate;
pub mod replay;
pub mod request;
mod reserved;
pub mod retry;
pub mod schema;
pub mod scope;
pub mod seal;
pub mod signing;
#[cfg(test)]
pub mod spellings;
pub mod target;
pub mod time;
pub mod tls;
pub mod webhook;
