//! Which events a replay may take: a look at a bounded number of them, in the order of their numbers.

use super::{error::EngineError, reads, records::EventRecord, shared::Shared, tables, views::Viewer};
use crate::{
    limits::{ACCEPT_DISORDER_MAX, REPLAY_EXAMINED_MAX, REPLAY_READ_BYTES_MAX},
    model::{
        ids::{DeliveryKey, EventSeq},
        replay::{Replay, ReplaySpec},
    },
    store::{replays::ReplayPage, types::DeliveryView},
};

/// Events that the replay may take, from `from` on.
pub(super) fn page(shared: &Shared, replay: &Replay, from: EventSeq, limit: usize) -> Result<ReplayPage, EngineError> {
    let viewer = if replay.spec.states.is_empty() { None } else { Some(Viewer::new(shared)?) };
    let page = ReplayPage { events: Vec::new(), next: from, examined: 0, reached: None };
    let mut look = Look { shared, spec: &replay.spec, last: replay.last, viewer, limit, looked: 0, bytes: 0, page };
    while look.goes_on() {
        let Some(seq) = retained(shared, look.page.next, &replay.spec)?.filter(|seq| *seq <= replay.last) else {
            look.page.next = EventSeq(replay.last.0 + 1);
            break;
        };
        look.page.next = seq;
        let Some((first, chunk)) = reads::chunk(shared, seq)? else {
            // Rescued, or removed just now.
            let rescued = reads::event(shared, seq)?;
            rescued.map_or(Ok(()), |event| look.at(seq, event))?;
            look.step();
            continue;
        };
        let skip = usize::try_from(seq.0 - first.0).unwrap_or(usize::MAX);
        for index in skip..chunk.len() {
            if !look.goes_on() {
                break;
            }
            // Nothing is left of one that was erased.
            if let Some(event) = chunk.event(index).transpose()? {
                look.at(look.page.next, event)?;
            }
            look.step();
        }
    }
    Ok(look.page)
}

/// The first event from there on that is retained, but for segments that hold only what is too old for the replay.
fn retained(shared: &Shared, from: EventSeq, spec: &ReplaySpec) -> Result<Option<EventSeq>, EngineError> {
    let mut from = from.0;
    // What leaves the hot store meanwhile is in a segment that is asked for afterwards.
    let hot_from = shared.counters.lock().hot_events_from;
    for segment in shared.segments.all() {
        let record = &segment.record;
        if from >= record.events_until || record.events_from == record.events_until {
            continue;
        }
        if from < record.events_from {
            // Before it are events that were rescued from a segment that is gone, or none.
            break;
        }
        if spec.start.is_none_or(|start| record.latest() >= start.micros()) {
            return Ok(Some(EventSeq(from)));
        }
        from = record.events_until;
    }
    if from >= hot_from {
        let next = shared.counters.lock().next_event;
        return Ok((from < next).then_some(EventSeq(from)));
    }
    let (txn, _) = shared.read()?;
    let rescued = txn.open_table(tables::RESCUED)?.range(from..)?.next().transpose()?.map(|(seq, _)| seq.value());
    let archived = shared.segments.all().iter().map(|segment| segment.record.events_from).find(|first| *first > from);
    Ok([rescued, archived, Some(hot_from)].into_iter().flatten().min().map(EventSeq))
}

/// What was looked at so far.
struct Look<'a> {
    shared: &'a Shared,
    spec: &'a ReplaySpec,
    last: EventSeq,
    /// There if the replay asks how deliveries stand.
    viewer: Option<Viewer<'a>>,
    limit: usize,
    looked: usize,
    bytes: usize,
    page: ReplayPage,
}

impl Look<'_> {
    fn goes_on(&self) -> bool {
        self.page.next <= self.last
            && self.page.events.len() < self.limit
            && self.looked < REPLAY_EXAMINED_MAX
            && self.bytes < REPLAY_READ_BYTES_MAX
    }

    fn step(&mut self) {
        self.page.next.0 += 1;
        self.looked += 1;
    }

    /// Looks at one event.
    fn at(&mut self, seq: EventSeq, event: EventRecord) -> Result<(), EngineError> {
        let accept_time = event.accept_time();
        if accept_time >= self.spec.end + ACCEPT_DISORDER_MAX && self.shared.set_backs.is_in_order(seq.0) {
            // What follows was accepted after the end, too, unless the clock was set back before it.
            let before = |next: u64| EventSeq(next - 1).min(self.last);
            self.page.next = self.shared.set_backs.next_after(seq.0).map_or(self.last, before);
            return Ok(());
        }
        self.bytes += event.body_len();
        let is_concerned = event.tenant() == self.spec.tenant.as_str() && self.spec.is_within(accept_time);
        if !is_concerned || self.shared.erasing.hides_event(seq, event.tenant()) {
            return Ok(());
        }
        self.page.examined += 1;
        self.page.reached = Some(accept_time);
        if self.spec.names(&event.event_type()) && self.stands_so(seq, &event)? {
            self.page.events.push(event.content(seq)?);
        }
        Ok(())
    }

    /// Whether its first delivery to the webhook stands as the replay asks, if it does.
    fn stands_so(&self, event: EventSeq, record: &EventRecord) -> Result<bool, EngineError> {
        let Some(viewer) = &self.viewer else { return Ok(true) };
        let webhook = self.spec.webhook;
        if record.targets()?.binary_search(&webhook).is_err() {
            return Ok(false);
        }
        let state = viewer.state(DeliveryKey { webhook, event, replay: 0 })?;
        Ok(self.spec.states.iter().any(|wanted| state == Some(DeliveryView::State(*wanted))))
    }
}
