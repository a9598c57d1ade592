//! A publisher: the generated client over as many streams as told, as fast as the daemon takes events or at a fixed rate.

use std::{collections::VecDeque, sync::Arc, thread};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::{Stream, StreamExt as _, future, stream};
use parking_lot::Mutex;
use postrider_proto::v1::{
    Event, PublishEventsRequest, PublishEventsResponse, event::Payload, event_service_client::EventServiceClient,
    publish_events_response::Result as Reply,
};
use tokio::{runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use crate::{
    moment::{now_micros, sleep_until},
    payload::{self, fingerprint},
    protocol::{Publish, Published, serve},
    rig::connect,
    statistics::{Percentiles, number},
};

/// Events that are due and wait for the transport, on each stream; latencies count from when they were due, so it only has
/// to be bounded.
const WAITING_MAX: usize = 65_536;

/// Runs a publisher until stdin is closed.
pub(crate) fn run() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    serve(|publish: Publish| runtime.block_on(publish_all(Arc::new(publish))))
}

async fn publish_all(publish: Arc<Publish>) -> Result<Published> {
    let streams = publish.streams.max(1);
    let tallies = match publish.rate {
        None => {
            let numbers = |index: usize| {
                let (first, end) = (publish.first + number_of(index), publish.first + publish.events);
                stream::iter((first..end).step_by(streams)).map(|number| (number, now_micros()))
            };
            future::try_join_all((0..streams).map(|index| converse(publish.clone(), numbers(index)))).await?
        }
        Some(rate) => {
            let (senders, ends): (Vec<_>, Vec<_>) = (0..streams).map(|_| mpsc::channel(WAITING_MAX)).unzip();
            let settings = publish.clone();
            let pacer = thread::spawn(move || pace(&settings, rate, &senders));
            let numbers = ends.into_iter().map(ReceiverStream::new);
            let tallies = future::try_join_all(numbers.map(|numbers| converse(publish.clone(), numbers))).await?;
            pacer.join().map_err(|_| anyhow!("the pacer panicked"))?;
            tallies
        }
    };
    summary(&publish, tallies)
}

fn number_of(index: usize) -> u64 {
    u64::try_from(index).expect("few streams")
}

/// Hands every event over when it is due. A thread of its own, because the runtime's timers are a millisecond coarse.
fn pace(publish: &Publish, rate: f64, senders: &[mpsc::Sender<(u64, u64)>]) {
    let start = now_micros();
    for (index, sender) in (0..publish.events).zip(senders.iter().cycle()) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes in microseconds")]
        let due = start + (number(index) * 1e6 / rate) as u64;
        sleep_until(due);
        if sender.blocking_send((publish.first + index, due)).is_err() {
            // The stream has failed, and says so itself.
            return;
        }
    }
}

/// What one stream did.
#[derive(Default)]
struct Tally {
    first: Option<u64>,
    last: u64,
    deliveries: u64,
    fingerprint: u64,
    samples: Vec<(u64, u32)>,
}

/// One stream: events in, replies out, in the same order.
async fn converse(publish: Arc<Publish>, numbers: impl Stream<Item = (u64, u64)> + Send + 'static) -> Result<Tally> {
    let sent = Arc::new(Mutex::new(VecDeque::new()));
    let (settings, sending) = (publish.clone(), sent.clone());
    let requests = numbers.map(move |(number, at)| {
        sending.lock().push_back((number, at));
        PublishEventsRequest { event: Some(event(&settings, number, at)) }
    });
    let mut replies =
        EventServiceClient::new(connect(&publish.endpoint).await?).publish_events(requests).await?.into_inner();
    let mut tally = Tally::default();
    while let Some(reply) = replies.message().await? {
        let (number, at) = sent.lock().pop_front().context("a reply to nothing")?;
        tally.take(&reply, number, at)?;
    }
    ensure!(sent.lock().is_empty(), "the stream ended before every event was answered");
    Ok(tally)
}

/// As the client library would send it: with an id, so that it could be sent again.
fn event(publish: &Publish, number: u64, at: u64) -> Event {
    Event {
        id: format!("evt_{}", Uuid::now_v7().simple()),
        tenant: publish.spread.tenant(number),
        r#type: publish.spread.event_type(number).to_owned(),
        payload: Some(Payload::Body(payload::body(number, at, publish.body_bytes))),
        ..Event::default()
    }
}

impl Tally {
    fn take(&mut self, reply: &PublishEventsResponse, number: u64, at: u64) -> Result<()> {
        let deliveries = match &reply.result {
            Some(Reply::Accepted(accepted)) if !accepted.duplicate => u64::try_from(accepted.deliveries)?,
            Some(Reply::Accepted(_)) => bail!("event {} is said to have been published before", reply.event_id),
            Some(Reply::Rejected(status)) => bail!("event {} was rejected: {}", reply.event_id, status.message),
            None => bail!("a reply without a result"),
        };
        let now = now_micros();
        self.first.get_or_insert(at);
        self.last = now;
        self.deliveries += deliveries;
        self.fingerprint = self.fingerprint.wrapping_add(fingerprint(number).wrapping_mul(deliveries));
        self.samples.push((at, u32::try_from(now.saturating_sub(at)).unwrap_or(u32::MAX)));
        Ok(())
    }
}

fn summary(publish: &Publish, tallies: Vec<Tally>) -> Result<Published> {
    let mut published = Published {
        first: tallies.iter().filter_map(|tally| tally.first).min().context("nothing was published")?,
        last: tallies.iter().map(|tally| tally.last).max().unwrap_or_default(),
        ..Published::default()
    };
    for tally in tallies {
        published.deliveries += tally.deliveries;
        published.fingerprint = published.fingerprint.wrapping_add(tally.fingerprint);
        published.samples.extend(tally.samples);
    }
    published.acknowledged = number_of(published.samples.len());
    ensure!(
        published.acknowledged == publish.events,
        "{} of {} events were answered",
        published.acknowledged,
        publish.events
    );
    published.ack = Percentiles::of(published.samples.iter().map(|&(_, micros)| micros).collect());
    if !publish.samples {
        published.samples = Vec::new();
    }
    Ok(published)
}
