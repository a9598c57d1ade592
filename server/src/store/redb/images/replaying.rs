//! Replays: each goes on from where it was, makes each delivery once, and never steps back past what was shown.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, seq::IteratorRandom as _};

use super::{
    super::RedbStore,
    driver::{Broken, Driver, label_of, wrong},
    model::{Attempt, Delivery, Fate, Hook, Model, RETENTION, event},
    verify::Violation,
};
use crate::{
    limits::{REPLAY_CANCEL_DELIVERIES_MAX, REPLAY_STEP_DELIVERIES_MAX, REPLAYS_PER_WEBHOOK_MAX},
    model::{
        delivery::DeliveryState,
        ids::EventSeq,
        replay::{Replay, ReplayProgress, ReplaySpec, ReplayState, ReplayStep, StoppedBy},
        time::Timestamp,
    },
    store::{ReplayAnswer, ReplayChange, ReplayPage, Store as _, StoreError},
};

/// A replay of everything that its webhook may have.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    hook: u32,
    /// Events with a label below this.
    until: u32,
    next: EventSeq,
    last: EventSeq,
    examined: u64,
    state: ReplayState,
    /// Its pending deliveries are being cancelled.
    drops: bool,
    /// All of them were to be.
    dropped: bool,
    /// What it was asked for and has not answered.
    open: Option<Asked>,
}

#[derive(Debug, Clone)]
enum Asked {
    /// Deliveries of these events, by label.
    Step(ReplayStep, Vec<u32>),
    /// To stop; and to cancel what is part of this group.
    Stop(Option<u32>),
    /// To cancel some more.
    Drop,
}

/// The replays that there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Replays {
    /// By number.
    known: BTreeMap<u32, Sent>,
    /// One that may have been started.
    starting: Option<(u32, u32)>,
}

impl Replays {
    /// Nobody remembers those to these webhooks.
    pub(super) fn forget_of(&mut self, is_gone: impl Fn(u32) -> bool) {
        self.known.retain(|_, sent| !is_gone(sent.hook));
    }

    /// Their webhook is deleted.
    pub(super) fn stop_of(&mut self, hook: u32) {
        for sent in self.known.values_mut().filter(|sent| sent.hook == hook) {
            sent.drops = false;
            if sent.is_running() {
                sent.state = ReplayState::Cancelled(StoppedBy::Deletion);
            }
        }
    }
}

impl Sent {
    fn new(hook: u32, until: u32, replay: &Replay) -> Self {
        Self {
            hook,
            until,
            next: replay.first,
            last: replay.last,
            examined: 0,
            state: replay.state.clone(),
            drops: false,
            dropped: false,
            open: None,
        }
    }

    fn is_running(&self) -> bool {
        self.state == ReplayState::Running
    }
}

impl Model {
    /// A step of a replay was made.
    fn stepped(&mut self, no: u32, step: &ReplayStep, events: &[u32]) {
        let sent = self.replays.known.get_mut(&no).expect("it was started");
        sent.next = step.next;
        sent.examined += step.examined;
        if step.next > sent.last {
            sent.state = ReplayState::Succeeded;
        }
        let place = (sent.hook, no);
        for label in events {
            let event = self.events.get_mut(label).expect("it was published");
            let first = step.time.max(Timestamp::from_micros(event.time.micros() + 1));
            event.deliveries.insert(place, Delivery::new(first));
        }
    }

    /// Where the deliveries of a replay stand.
    fn progress(&self, no: u32, sent: &Sent) -> ReplayProgress {
        let lives = self.lives(sent.hook);
        let mut progress = ReplayProgress { examined: sent.examined, ..ReplayProgress::default() };
        for delivery in self.events.values().filter_map(|event| event.deliveries.get(&(sent.hook, no))) {
            progress.created += 1;
            match delivery.state() {
                DeliveryState::Delivered => progress.delivered += 1,
                DeliveryState::Failed => progress.failed += 1,
                DeliveryState::Pending if lives => {}
                DeliveryState::Pending | DeliveryState::Cancelled => progress.cancelled += 1,
            }
        }
        progress
    }

    /// The first pending deliveries of a replay, by event, that one commit cancels: noted as those of a group.
    fn cancel_replayed(&mut self, no: u32, group: u32) {
        let place = (self.replays.known[&no].hook, no);
        let cancelled = Attempt { time: self.now, state: DeliveryState::Cancelled, next: None };
        let all = self.events.values_mut().filter_map(|event| event.deliveries.get_mut(&place));
        for delivery in all.filter(|delivery| delivery.before().is_some()).take(REPLAY_CANCEL_DELIVERIES_MAX) {
            delivery.open = Some((group, cancelled));
        }
    }
}

impl Driver<'_> {
    /// Does something about replays.
    pub(super) async fn replay(&mut self) -> Result<(), Broken> {
        let known = self.known();
        let replays = &known.replays.known;
        if let Some((&no, _)) = replays.iter().find(|(_, sent)| sent.drops) {
            return self.drop_replayed(no).await;
        }
        let running = replays.iter().filter(|(_, sent)| sent.is_running()).map(|(no, _)| *no);
        match running.choose(self.rng) {
            Some(no) if self.rng.random_ratio(1, 8) => self.stop_replay(no).await,
            Some(no) if self.rng.random_ratio(5, 6) => self.step_replay(no).await,
            Some(_) | None => self.start_replay().await,
        }
    }

    async fn start_replay(&mut self) -> Result<(), Broken> {
        let known = self.known();
        let running =
            |hook: u32| known.replays.known.values().filter(|sent| sent.hook == hook && sent.is_running()).count();
        let living =
            known.hooks.iter().filter(|(hook, _)| known.lives(**hook) && running(**hook) < REPLAYS_PER_WEBHOOK_MAX);
        let living: Vec<(u32, &Hook)> = living.map(|(hook, known)| (*hook, known)).collect();
        let Some(&(hook, Hook { tenant, known: Some((no, id)), .. })) = living.iter().choose(self.rng) else {
            return Ok(());
        };
        self.note(format!("start a replay to webhook {hook}"));
        let entry = self.begin("ReplayEvents", tenant).await?;
        let (until, time) = self.write(|model| {
            let until = model.label();
            model.replays.starting = Some((hook, until));
            (until, model.now)
        });
        let spec = ReplaySpec {
            tenant: tenant.parse().expect("a tenant"),
            webhook: *no,
            webhook_id: *id,
            event_types: BTreeSet::new(),
            states: Vec::new(),
            start: None,
            end: Timestamp::from_micros(time.micros() + 1),
            per_second: 1,
        };
        let answer = self.store.replay(ReplayChange::Start { spec, request: None, time }).await?;
        let ReplayAnswer::Put(replay) = answer else { return wrong(format!("a replay was answered {answer:?}")) };
        self.write(|model| {
            model.replays.starting = None;
            model.replays.known.insert(replay.no, Sent::new(hook, until, &replay));
        });
        self.end(entry).await
    }

    async fn step_replay(&mut self, no: u32) -> Result<(), Broken> {
        let Some(replay) = self.store.replays().get(no) else { return wrong(format!("replay {no} is lost")) };
        let page = self.store.replayable(&replay, replay.next, REPLAY_STEP_DELIVERIES_MAX).await?;
        let known = self.known();
        let time = known.now;
        let events = replayable(&known, no, &page).map_err(|Violation(why)| Broken::Wrong(why))?;
        let due = page.events.iter().zip(events).filter(|(stored, _)| stored.due_time() <= time);
        let (seqs, labels): (Vec<_>, Vec<_>) = due.map(|(stored, label)| (stored.seq, label)).unzip();
        let ReplayPage { next, examined, reached, .. } = page;
        let step = ReplayStep { replay: no, from: replay.next, next, examined, reached, events: seqs, time };
        self.note(format!("step of replay {no} from {} to {}: {labels:?}", step.from.0, step.next.0));
        self.ask(no, Asked::Step(step.clone(), labels.clone()));
        let answer = self.store.replay(ReplayChange::Step(step.clone())).await?;
        if answer == ReplayAnswer::Unreadable {
            return Err(StoreError::Failed("an event is unreadable".into()).into());
        }
        if answer != ReplayAnswer::Done {
            return wrong(format!("a step of replay {no} was answered {answer:?}: {step:?}"));
        }
        self.write(|model| model.stepped(no, &step, &labels));
        self.answered(no);
        // The same again is refused.
        let again = self.store.replay(ReplayChange::Step(step)).await?;
        if again != ReplayAnswer::Stale {
            return wrong(format!("a step that was made was answered {again:?}"));
        }
        Ok(())
    }

    async fn stop_replay(&mut self, no: u32) -> Result<(), Broken> {
        self.clear().await?;
        let drop_pending = self.rng.random();
        let (group, time) = self.write(|model| {
            let group = model.label();
            if drop_pending {
                model.cancel_replayed(no, group);
            }
            (group, model.now)
        });
        self.note(format!("stop replay {no}, dropping {drop_pending}"));
        self.ask(no, Asked::Stop(drop_pending.then_some(group)));
        let answer = self.store.replay(ReplayChange::Cancel { replay: no, drop_pending, time }).await?;
        let ReplayAnswer::Put(replay) = answer else { return wrong(format!("a replay was stopped: {answer:?}")) };
        self.write(|model| {
            model.happened(group);
            let sent = model.replays.known.get_mut(&no).expect("it was started");
            (sent.state, sent.drops, sent.dropped) = (replay.state, replay.drops, drop_pending);
        });
        self.answered(no);
        Ok(())
    }

    async fn drop_replayed(&mut self, no: u32) -> Result<(), Broken> {
        self.clear().await?;
        let (group, time) = self.write(|model| {
            let group = model.label();
            model.cancel_replayed(no, group);
            (group, model.now)
        });
        self.note(format!("drop some of replay {no}"));
        self.ask(no, Asked::Drop);
        let answer = self.store.replay(ReplayChange::Drop { replay: no, time }).await?;
        if answer != ReplayAnswer::Done {
            return wrong(format!("what a replay has pending was dropped: {answer:?}"));
        }
        let drops = self.store.replays().get(no).is_some_and(|replay| replay.drops);
        self.write(|model| {
            model.happened(group);
            model.replays.known.get_mut(&no).expect("it was started").drops = drops;
        });
        self.answered(no);
        Ok(())
    }

    fn ask(&self, no: u32, asked: Asked) {
        self.write(|model| model.replays.known.get_mut(&no).expect("it was started").open = Some(asked));
    }

    fn answered(&self, no: u32) {
        self.write(|model| model.replays.known.get_mut(&no).expect("it was started").open = None);
    }
}

/// The labels of events that a replay is offered, which must be those of its tenant's, as they were published, each for the first time.
fn replayable(model: &Model, no: u32, page: &ReplayPage) -> Result<Vec<u32>, Violation> {
    let sent = &model.replays.known[&no];
    let tenant = model.hooks[&sent.hook].tenant;
    let mut labels = Vec::new();
    for stored in &page.events {
        let label = label_of(&stored.event.id.as_str()[1..]).filter(|label| model.events.contains_key(label));
        let Some(label) = label else { return Err(Violation(format!("{:?} was never published", stored.event.id))) };
        let known = &model.events[&label];
        let is_right = known.tenant == tenant && !known.erased && label < sent.until;
        if !is_right || stored.event != event(label, known) {
            return Err(Violation(format!("event {label} is no event for replay {no}: {known:?}")));
        }
        if known.deliveries.contains_key(&(sent.hook, no)) {
            return Err(Violation(format!("event {label} is offered to replay {no} again")));
        }
        labels.push(label);
    }
    Ok(labels)
}

/// Each replay is where it was shown to be, or after what it was asked for. Returns which groups have happened, and which have not.
pub(super) fn settle(store: &RedbStore, model: &mut Model) -> Result<BTreeMap<u32, bool>, Violation> {
    let mut groups = BTreeMap::new();
    let starting = model.replays.starting.take();
    for replay in store.replays().list(None, None, None, usize::MAX) {
        if model.replays.known.contains_key(&replay.no) {
            continue;
        }
        let hook =
            starting.filter(|(hook, _)| model.hooks[hook].known.is_some_and(|(no, _)| no == replay.spec.webhook));
        let Some((hook, until)) = hook else { return Err(Violation(format!("{replay:?} was never started"))) };
        model.replays.known.insert(replay.no, Sent::new(hook, until, &replay));
    }
    for (no, sent) in model.replays.known.clone() {
        let Some(found) = store.replays().get(no) else { return Err(Violation(format!("replay {no} is lost"))) };
        match &sent.open {
            Some(Asked::Step(step, events)) if found.next == step.next && found.next != sent.next => {
                model.stepped(no, step, events);
            }
            Some(Asked::Stop(group)) => {
                groups.extend(group.map(|group| (group, !found.is_running())));
                let known = model.replays.known.get_mut(&no).expect("just seen");
                (known.state, known.drops) = (found.state.clone(), found.drops);
                known.dropped = group.is_some() && !found.is_running();
            }
            Some(Asked::Drop) => model.replays.known.get_mut(&no).expect("just seen").drops = found.drops,
            Some(Asked::Step(..)) | None => {}
        }
        if !model.lives(sent.hook) {
            model.replays.stop_of(sent.hook);
        }
        let known = model.replays.known.get_mut(&no).expect("just seen");
        known.open = None;
        let (is, should) = ((found.next, &found.state, found.drops), (known.next, &known.state, known.drops));
        if is != should {
            return Err(Violation(format!("replay {no} stands {is:?}, not {should:?}")));
        }
    }
    Ok(groups)
}

/// Each has made the deliveries that it says it has, and all it was to make.
pub(super) fn verify(store: &RedbStore, model: &Model) -> Result<(), Violation> {
    for (&no, sent) in &model.replays.known {
        let Some(found) = store.replays().get(no) else { return Err(Violation(format!("replay {no} is lost"))) };
        let (is, should) = (ReplayProgress { reached: None, ..found.progress }, model.progress(no, sent));
        if is != should {
            return Err(Violation(format!("replay {no} is {is:?}, not {should:?}")));
        }
        if sent.dropped && !sent.drops && should.pending() > 0 {
            return Err(Violation(format!("replay {no} was dropped, and has {} pending", should.pending())));
        }
        // What was to be sent later is left out, and what is old may be gone.
        let horizon = if model.cramped { model.now } else { model.now - RETENTION };
        let tenant = model.hooks.get(&sent.hook).map(|hook| hook.tenant);
        let mut wanted = model.events.iter().filter(|(label, event)| {
            let is_its = Some(event.tenant) == tenant && **label < sent.until && event.accepted == Fate::Done;
            is_its && !event.erased && event.time > horizon && event.due() == event.time
        });
        let left_out = wanted.find(|(_, event)| !event.deliveries.contains_key(&(sent.hook, no)));
        if let (ReplayState::Succeeded, Some((label, _))) = (&sent.state, left_out) {
            return Err(Violation(format!(
                "replay {no} has succeeded, and event {label} was not sent again: {found:?}"
            )));
        }
    }
    Ok(())
}
