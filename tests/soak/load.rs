//! The load on the daemon, over all its lives: publishers that send again what was not answered, and a watcher that goes on
//! from its cursor.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
use tokio::{sync::mpsc, time::interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    fleet::{self, EVENT_TYPES},
    ledger::{Ledger, Seen},
};

/// `PublishEvents` streams.
pub(crate) const STREAMS: usize = 2;
const STREAMS_F64: f64 = 2.0;
/// Events that wait for the transport, on each stream.
const AHEAD: usize = 64;
/// How often publishers look how much is due.
const TICK: Duration = Duration::from_millis(5);
/// Most events of one tick without a fixed rate, on each stream.
const BURST: f64 = 64.0;
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
    ledger: Arc<Mutex<Ledger>>,
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
    /// A load that rests, for the webhooks of these ids.
    pub(crate) fn new(ledger: Arc<Mutex<Ledger>>, webhooks: HashMap<String, usize>) -> Self {
        Self {
            ledger,
            began: Instant::now(),
            webhooks,
            pace: Mutex::new(Pace::Rest),
            unanswered: Default::default(),
            cursor: Mutex::default(),
            idle: AtomicU64::new(0),
        }
    }

    /// Seconds since the beginning.
    pub(crate) fn now_secs(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_secs()).expect("nobody soaks for a century")
    }

    /// Publishes at this pace from now on.
    pub(crate) fn set_pace(&self, pace: Pace) {
        *self.pace.lock() = pace;
    }

    /// How many messages of watch streams had no update.
    pub(crate) fn idle_messages(&self) -> u64 {
        self.idle.load(Ordering::Relaxed)
    }

    /// Whether a webhook has deliveries pending.
    pub(crate) async fn is_pending(&self, client: &Client) -> bool {
        for id in self.webhooks.keys() {
            if client.webhook(id).await.pending_deliveries > 0 {
                return true;
            }
        }
        false
    }

    /// Publishes until the daemon is gone: first again what was not answered, then new events.
    pub(crate) async fn publish(&self, client: &Client, stream: usize) {
        let again: Vec<u64> = self.unanswered[stream].lock().iter().copied().collect();
        let resent_until = again.last().copied();
        // A client task polls the request stream, so it cannot borrow; events come over a channel.
        let (sender, requests) = mpsc::channel(AHEAD);
        tokio::select! {
            () = self.produce(stream, again, sender) => {}
            // Ends with an error when the daemon is gone; what it did not answer is sent to the next one.
            _ = self.consume(client, stream, resent_until, requests) => {}
        }
    }

    async fn produce(&self, stream: usize, again: Vec<u64>, sender: mpsc::Sender<PublishEventsRequest>) {
        for number in again {
            let event_type = self.ledger.lock().type_of(number);
            if sender.send(request(number, event_type)).await.is_err() {
                return;
            }
        }
        let mut ticks = interval(TICK);
        let (mut last, mut owed) = (Instant::now(), 0.0);
        loop {
            ticks.tick().await;
            let pace = *self.pace.lock();
            let waiting_max = match pace {
                Pace::Rest => 0,
                Pace::Full => WAITING_MAX,
                Pace::Rate(_) => BACKLOG_MAX,
            };
            let elapsed = std::mem::replace(&mut last, Instant::now()).elapsed();
            match pace {
                Pace::Rest => owed = 0.0,
                Pace::Full => owed = BURST,
                // What a stall of more than a second would have brought is left out.
                Pace::Rate(rate) => owed = (owed + elapsed.as_secs_f64() * rate / STREAMS_F64).min(rate),
            }
            while owed >= 1.0 {
                let Some(request) = self.fresh(stream, waiting_max) else { break };
                owed -= 1.0;
                if sender.send(request).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The next event that was never sent, unless too many deliveries wait already.
    fn fresh(&self, stream: usize, waiting_max: u64) -> Option<PublishEventsRequest> {
        let mut ledger = self.ledger.lock();
        if ledger.untried() >= waiting_max {
            return None;
        }
        let (number, event_type) = ledger.next_event(self.now_secs());
        self.unanswered[stream].lock().push_back(number);
        drop(ledger);
        Some(request(number, event_type))
    }

    async fn consume(
        &self,
        client: &Client,
        stream: usize,
        resent_until: Option<u64>,
        requests: mpsc::Receiver<PublishEventsRequest>,
    ) -> Result<(), Status> {
        let mut replies = client.events.clone().publish_events(ReceiverStream::new(requests)).await?.into_inner();
        while let Some(reply) = replies.message().await? {
            let verdict = verdict(&reply);
            // A daemon that stops may refuse what it did not take any more; that is sent again too.
            if matches!(&verdict, Verdict::Rejected(rejection) if rejection.code == Code::Unavailable) {
                return Ok(());
            }
            let mut ledger = self.ledger.lock();
            let answered = self.unanswered[stream].lock().pop_front();
            let Some(number) = answered.filter(|&number| fleet::event_id(number) == reply.event_id) else {
                ledger.stray_reply(&reply.event_id);
                continue;
            };
            match verdict {
                Verdict::Accepted { deliveries, duplicate } => {
                    let resent = resent_until.is_some_and(|until| number <= until);
                    ledger.acknowledged(number, deliveries, duplicate, resent, self.now_secs());
                }
                Verdict::Rejected(rejection) => ledger.rejected(number, &rejection.message),
            }
        }
        Ok(())
    }

    /// Follows outcomes from the last cursor until the daemon is gone.
    pub(crate) async fn follow(&self, client: &Client) {
        let Err(status) = self.read_outcomes(client).await else { return };
        if matches!(status.code(), Code::OutOfRange | Code::InvalidArgument | Code::FailedPrecondition) {
            self.ledger.lock().watch_broke(status.message());
        }
    }

    async fn read_outcomes(&self, client: &Client) -> Result<(), Status> {
        let start = match self.cursor.lock().clone() {
            Some(cursor) => Start::Cursor(cursor),
            None => Start::FromBeginning(true),
        };
        let request = WatchDeliveriesRequest { start: Some(start), ..WatchDeliveriesRequest::default() };
        let mut stream = client.deliveries.clone().watch_deliveries(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if message.updates.is_empty() {
                self.idle.fetch_add(1, Ordering::Relaxed);
            }
            let mut ledger = self.ledger.lock();
            for update in message.updates {
                match update.update {
                    Some(Update::Outcome(outcome)) => self.see(&mut ledger, &outcome),
                    other @ (Some(Update::WebhookCancelled(_) | Update::OperationalEvent(_)) | None) => {
                        ledger.watch_broke(&format!("no webhook was deleted, and the log says {other:?}"));
                    }
                }
            }
            drop(ledger);
            *self.cursor.lock() = Some(message.cursor);
        }
        Ok(())
    }

    fn see(&self, ledger: &mut Ledger, outcome: &Outcome) {
        let Some(&webhook) = self.webhooks.get(&outcome.webhook_id) else {
            return ledger.watch_broke(&format!("nobody created webhook {}", outcome.webhook_id));
        };
        ledger.outcome(&Seen {
            webhook,
            event: &outcome.event_id,
            attempt: u32::try_from(outcome.attempt).unwrap_or_default(),
            delivery: &outcome.delivery_id,
            state: outcome.state(),
            status: u16::try_from(outcome.http_status).unwrap_or_default(),
        });
    }
}

fn request(number: u64, event_type: usize) -> PublishEventsRequest {
    let event: Event = event(&fleet::event_id(number), EVENT_TYPES[event_type], fleet::body(number));
    PublishEventsRequest { event: Some(event) }
}
