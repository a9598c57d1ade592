//! The load on the daemon, over all its lives: publishers that send again what was not answered, and a watcher that goes on
//! from its cursor.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use postrider_proto::v1::{
    Event, Outcome, PublishEventsRequest, WatchDeliveriesRequest, delivery_update::Update,
    watch_deliveries_request::Start,
};
use postrider_tests::{
    client::{Client, Verdict, verdict},
    events::event,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    fleet::{self, EVENT_TYPES},
    ledger::{Ledger, Seen},
};

/// `PublishEvents` streams.
pub(crate) const STREAMS: usize = 2;
/// Events that wait for the transport, on each stream.
const AHEAD: usize = 64;
/// How often publishers look how much is due.
const TICK: Duration = Duration::from_millis(5);
/// Most events of one tick without a fixed rate, on each stream.
const BURST: usize = 64;
/// Most deliveries waiting for their first attempt without a fixed rate: enough to keep the daemon busy.
const WAITING_MAX: u64 = 5_000;
/// The same at a fixed rate: a daemon that falls behind further is waited for.
const BACKLOG_MAX: u64 = 200_000;

/// How fast events are published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// As fast as they are delivered.
    Full,
    /// So many per second, over all streams.
    Rate(f64),
    /// Not at all.
    Rest,
}

/// The load.
pub(crate) struct Load {
    /// What was seen, and what is wrong with it.
    pub(crate) ledger: Mutex<Ledger>,
    began: Instant,
    /// The number of each webhook, by its id.
    webhooks: HashMap<String, usize>,
    pace: Mutex<Pace>,
    /// By stream: sent and not answered, oldest first.
    unanswered: [Mutex<VecDeque<u64>>; STREAMS],
    cursor: Mutex<Option<String>>,
    /// Messages of watch streams without any update.
    idle: AtomicU64,
}

impl Load {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self {
            ledger: Mutex::new(ledger),
            began: Instant::now(),
            webhooks: HashMap::new(),
            pace: Mutex::new(Pace::Rest),
            unanswered: Default::default(),
            cursor: Mutex::default(),
            idle: AtomicU64::new(0),
        }
    }
}
