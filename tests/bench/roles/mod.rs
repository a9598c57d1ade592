//! What the benchmark's child processes do.

pub(crate) mod committer;
pub(crate) mod poster;
pub(crate) mod publisher;
pub(crate) mod receiver;
pub(crate) mod watchers;
