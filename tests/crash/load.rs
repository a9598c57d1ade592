//! What goes on while the daemon is killed: publishers that never lose count, and a watcher that resumes.

use std::collections::{HashMap, VecDeque};

use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use postrider_proto::v1::{
    DeliveryState, Event, ListDeliveriesRequest, Outcome, PublishEventsRequest, WatchDeliveriesRequest,
    delivery_update::Update, watch_deliveries_request::Start,
};
use postrider_tests::{
    client::{Client, Verdict, verdict},
    events::event,
};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::ledger::{Ledger, Seen};

/// Most events published and not yet delivered everywhere: enough to keep the daemon busy, few enough to end soon.
const WINDOW: usize = 300;

/// The load, over the lives of all daemons.
pub(crate) struct Load {
    /// The path of each webhook, by its id.
    paths: HashMap<String, String>,
    window: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    epoch: u64,
    published: usize,
    /// By publisher: sent and not answered, oldest first.
    unanswered: HashMap<String, VecDeque<Event>>,
    acknowledged: HashMap<String, i32>,
    outcomes: Vec<Seen>,
    /// By webhook path.
    delivered: HashMap<String, usize>,
    cursor: Option<String>,
}

impl Load {
    pub(crate) fn new(paths: HashMap<String, String>) -> Self {
        Self { paths, window: Semaphore::new(0), state: Mutex::default() }
    }

    /// Begins the life of the daemon of `epoch`.
    pub(crate) fn start_epoch(&self, epoch: u64) {
        let mut state = self.state.lock();
        state.epoch = epoch;
        let unfinished = state.published - self.finished(&state);
        self.window.forget_permits(Semaphore::MAX_PERMITS);
        self.window.add_permits(WINDOW.saturating_sub(unfinished));
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.state.lock().acknowledged.len()
    }

    pub(crate) fn outcomes(&self) -> usize {
        self.state.lock().outcomes.len()
    }

    /// What was acknowledged and what the resuming watcher saw.
    pub(crate) fn ledger(&self) -> Ledger {
        let state = self.state.lock();
        Ledger { acknowledged: state.acknowledged.clone(), resumed_log: state.outcomes.clone(), ..Ledger::default() }
    }

    /// Publishes until the daemon is gone: first again what was not answered, then new events.
    pub(crate) async fn publish(&self, client: &Client, publisher: &str) {
        let again = self.unanswered(publisher);
        // A client task polls the request stream, so it cannot borrow; permits and events come over a channel.
        let (sender, requests) = tokio::sync::mpsc::channel(1);
        let produce = async move {
            let fresh = stream::unfold((), |()| async { Some((self.fresh(publisher).await, ())) });
            let mut events = std::pin::pin!(stream::iter(again).chain(fresh));
            while let Some(event) = events.next().await {
                if sender.send(PublishEventsRequest { event: Some(event) }).await.is_err() {
                    return;
                }
            }
        };
        let consume = async {
            let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
            let mut replies = client.events.clone().publish_events(requests).await?.into_inner();
            while let Some(reply) = replies.message().await? {
                self.acknowledge(publisher, &reply.event_id, &verdict(&reply));
            }
            Ok::<_, Status>(())
        };
        tokio::select! {
            () = produce => {}
            // Ends with an error when the daemon is killed; what it did not answer is sent again in the next round.
            _ = consume => {}
        }
    }

    /// Publishes again whatever is not answered, undisturbed.
    pub(crate) async fn publish_unanswered(&self, client: &Client) {
        for publisher in ["a", "b"] {
            let (replies, ended) = client.publish_all(self.unanswered(publisher)).await;
            ended.expect("nobody kills this daemon");
            for reply in replies {
                self.acknowledge(publisher, &reply.event_id, &verdict(&reply));
            }
        }
    }

    /// Follows outcomes from the last cursor until the daemon is gone.
    pub(crate) async fn follow(&self, client: &Client) {
        // Ends with an error when the daemon is killed.
        let _ = self.follow_while(client, async |_| true).await;
    }

    /// Follows outcomes from the last cursor until nothing is pending: what is not delivered then is lost.
    pub(crate) async fn follow_to_the_end(&self, client: &Client) {
        let mut settled = false;
        let unsettled = async |idle| {
            if idle && settled {
                return false;
            }
            if idle {
                // Outcomes committed before this answer are in the log; the next idle message comes after all of them.
                settled = self.nothing_is_pending(client).await;
            }
            true
        };
        self.follow_while(client, unsettled).await.expect("nobody kills this daemon");
    }

    /// That every webhook's counters say that it was given each acknowledged event, once.
    pub(crate) async fn check_counters(&self, client: &Client) {
        let events = i64::try_from(self.acknowledged()).expect("a few");
        for (id, path) in &self.paths {
            let stats = client.webhook(id).await.stats.expect("always set");
            let counted = (stats.events, stats.delivered, stats.pending);
            assert_eq!(counted, (events, events, 0), "events, delivered and pending of {path}: {stats:?}");
        }
    }

    /// What is still pending, for the message of a failure.
    pub(crate) async fn unfinished(&self, client: &Client) -> String {
        let mut lines = Vec::new();
        for (id, path) in &self.paths {
            lines.push(format!("{path} has {} deliveries pending", client.webhook(id).await.pending_deliveries));
        }
        let states = vec![DeliveryState::Pending.into()];
        for delivery in client.deliveries(ListDeliveriesRequest { states, ..Default::default() }).await {
            let path = &self.paths[&delivery.webhook_id];
            lines.push(format!("{path}: {:?}", client.delivery(&delivery.id).await));
        }
        lines.join("\n")
    }

    async fn nothing_is_pending(&self, client: &Client) -> bool {
        for id in self.paths.keys() {
            if client.webhook(id).await.pending_deliveries > 0 {
                return false;
            }
        }
        true
    }

    /// Follows outcomes from the last cursor as long as `go_on` says so, which is asked after each message whether it was an
    /// idle one.
    async fn follow_while(&self, client: &Client, mut go_on: impl AsyncFnMut(bool) -> bool) -> Result<(), Status> {
        let start = match self.state.lock().cursor.clone() {
            Some(cursor) => Start::Cursor(cursor),
            None => Start::FromBeginning(true),
        };
        let request = WatchDeliveriesRequest { start: Some(start), ..WatchDeliveriesRequest::default() };
        let mut stream = client.deliveries.clone().watch_deliveries(request).await?.into_inner();
        let mut idle = false;
        while go_on(idle).await {
            let Some(message) = stream.message().await? else { return Ok(()) };
            idle = message.updates.is_empty();
            let mut state = self.state.lock();
            let before = self.finished(&state);
            for update in message.updates {
                let Some(Update::Outcome(outcome)) = update.update else { panic!("no webhook is deleted") };
                let seen = Seen::new(&self.paths[&outcome.webhook_id], &outcome, state.epoch);
                *state.delivered.entry(seen.webhook.clone()).or_default() += usize::from(seen.delivered);
                state.outcomes.push(seen);
            }
            state.cursor = Some(message.cursor);
            self.window.add_permits(self.finished(&state) - before);
        }
        Ok(())
    }

    /// How many events the slowest webhook has got, so that no webhook's backlog grows from kill to kill.
    fn finished(&self, state: &State) -> usize {
        self.paths.values().map(|path| state.delivered.get(path).copied().unwrap_or_default()).min().unwrap_or_default()
    }

    /// The next event that was never sent, when the window has room.
    async fn fresh(&self, publisher: &str) -> Event {
        self.window.acquire().await.expect("the window is never closed").forget();
        let mut state = self.state.lock();
        state.published += 1;
        let id = format!("{publisher}-{}", state.published);
        let event = event(&id, "MESSAGE_RECEIVED", format!(r#"{{"n":{}}}"#, state.published));
        state.unanswered.entry(publisher.to_owned()).or_default().push_back(event.clone());
        event
    }

    fn unanswered(&self, publisher: &str) -> VecDeque<Event> {
        self.state.lock().unanswered.get(publisher).cloned().unwrap_or_default()
    }

    /// An outcome as evidence.
    pub(crate) fn seen(&self, outcome: &Outcome) -> Seen {
        Seen::new(&self.paths[&outcome.webhook_id], outcome, self.state.lock().epoch)
    }

    fn acknowledge(&self, publisher: &str, id: &str, verdict: &Verdict) {
        let Verdict::Accepted { deliveries, duplicate: _ } = verdict else { panic!("{id}: {verdict:?}") };
        let mut state = self.state.lock();
        let answered = state.unanswered.get_mut(publisher).and_then(VecDeque::pop_front);
        assert_eq!(answered.map(|event| event.id).as_deref(), Some(id), "replies come in request order");
        state.acknowledged.insert(id.to_owned(), *deliveries);
    }
}
