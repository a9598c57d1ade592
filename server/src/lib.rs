//! Postrider's daemon, as a library: `main.rs` is one line, and the tests start the same daemon in their own process.
//!
//! Layers, imports point down only:
//!
//! ```text
//! process   cli, keys, backup, control, config, daemon (composition root), serve, tls, shutdown, telemetry, descriptors
//! edges     api, ops
//! stages    accept, dispatch, deliver, outcomes, watch, replay, retention   (they never import each other)
//! plumbing  store, flow, bodies, metrics, tasks, clock, accepting, peer
//! core      model, limits                                                   (pure: no I/O, no clock, no runtime)
//! ```

pub mod accept;
mod accepting;
pub mod api;
pub mod backup;
pub mod bodies;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod deliver;
pub mod descriptors;
pub mod dispatch;
pub mod flow;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod outcomes;
pub mod peer;
pub mod replay;
pub mod retention;
mod secret_file;
pub mod serve;
mod shares;
pub mod shutdown;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod watch;
