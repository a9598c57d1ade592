//! Replays of an image.

use std::ops::Bound;

use postrider_server::{
    limits::{ACCEPT_DISORDER_MAX, REPLAY_CANCEL_DELIVERIES_MAX, REPLAY_EXAMINED_MAX},
    model::{
        delivery::DeliveryState,
        ids::{DeliveryKey, EventSeq, ReplayId, WebhookNo},
        replay::{Replay, ReplaySpec, ReplayState, ReplayStep, StoppedBy},
        scope::{Verdict, View},
        time::Timestamp,
    },
    store::{CancelReason, ReplayAnswer, ReplayChange, ReplayPage, Replays, RequestKey},
};

use super::image::{Effects, Image, Made, Request, Row, rows_of};

impl Image {
    pub(super) fn replay(&mut self, change: &ReplayChange, effects: &mut Effects) -> ReplayAnswer {
        match change {
            ReplayChange::Start { spec, request, time } => self.start_replay(spec, request.as_ref(), *time, effects),
            ReplayChange::Step(step) => self.step_replay(step, effects),
            ReplayChange::Cancel { replay, drop_pending, time } => {
                let stopped = ReplayState::Cancelled(StoppedBy::Request);
                if !self.put_replay(*replay, effects, |known| known.ended(stopped, *time)) {
                    return ReplayAnswer::Stale;
                }
                if *drop_pending {
                    self.drop_replayed(*replay, *time, effects);
                }
                ReplayAnswer::Put(self.replays[replay].clone())
            }
            ReplayChange::Drop { replay, time } => {
                if !self.replays.get(replay).is_some_and(|known| known.drops) {
                    return ReplayAnswer::Stale;
                }
                self.drop_replayed(*replay, *time, effects);
                ReplayAnswer::Done
            }
            ReplayChange::Fail { replay, why, time } => {
                let failed = ReplayState::Failed(why.clone());
                let known = self.put_replay(*replay, effects, |known| known.ended(failed, *time));
                if known { ReplayAnswer::Done } else { ReplayAnswer::Stale }
            }
            ReplayChange::Forget { replays } => {
                for no in replays {
                    if self.replays.get(no).is_some_and(|known| !known.is_active()) {
                        self.replays.remove(no);
                        effects.replays.insert(*no, None);
                    }
                }
                ReplayAnswer::Done
            }
        }
    }

    fn start_replay(
        &mut self,
        spec: &ReplaySpec,
        request: Option<&RequestKey>,
        time: Timestamp,
        effects: &mut Effects,
    ) -> ReplayAnswer {
        let key = request.map(|request| (spec.tenant.clone(), request.id.clone()));
        if let Some(known) = key.as_ref().and_then(|key| self.known_request(key, time)) {
            return match &known.made {
                Made::Replay(replay) if request.is_some_and(|request| request.hash == known.hash) => {
                    ReplayAnswer::Put(replay.clone())
                }
                Made::Replay(_) | Made::Webhook(_) => ReplayAnswer::RequestReused,
            };
        }
        if !self.webhooks.contains_key(&spec.webhook) {
            return ReplayAnswer::WebhookDeleted;
        }
        let known = Replays::default();
        known.load(self.replays.values().cloned());
        if !known.has_room_for(spec, &[]) {
            return ReplayAnswer::TooMany;
        }
        for no in known.surplus(1) {
            self.replays.remove(&no);
            effects.replays.insert(no, None);
        }
        self.last_replay += 1;
        let mut id = self.key;
        id[..4].copy_from_slice(&self.last_replay.to_be_bytes());
        let first = self.events.first_key_value().map_or(EventSeq(self.next_event), |(seq, _)| *seq);
        let events = (first, EventSeq(self.next_event - 1));
        let replay = Replay::begin(self.last_replay, ReplayId::from_bytes(id), spec.clone(), events, time);
        if let (Some(key), Some(request)) = (key, request) {
            let made = Made::Replay(replay.clone());
            self.requests.insert(key, Request { hash: request.hash, time, made });
        }
        self.replays.insert(replay.no, replay.clone());
        effects.replays.insert(replay.no, Some(replay.clone()));
        ReplayAnswer::Put(replay)
    }

    fn step_replay(&mut self, step: &ReplayStep, effects: &mut Effects) -> ReplayAnswer {
        let Some(replay) = self.replays.get(&step.replay) else { return ReplayAnswer::Stale };
        if !replay.is_running() || replay.next != step.from {
            return ReplayAnswer::Stale;
        }
        let webhook = replay.spec.webhook;
        let pending_max = self.limits.pending_max;
        if self.pending_total + step.events.len() as u64 > pending_max - pending_max / 10 {
            return ReplayAnswer::Busy;
        }
        if step.events.len() as u64 > self.replay_quota_room(webhook) {
            return ReplayAnswer::Busy;
        }
        let mut created = 0;
        for &event in &step.events {
            let Some(stored) = self.events.get(&event) else { continue };
            created += 1;
            let due = step.time.max(Timestamp::from_micros(stored.accept_time.micros() + 1));
            let key = DeliveryKey { webhook, event, replay: step.replay };
            self.deliveries.insert(key, Row::new(due));
            self.pending_total += 1;
            self.arrive(webhook, (event, step.replay), effects);
        }
        let expired = step.events.len() as u64 - created;
        self.put_replay(step.replay, effects, |known| known.stepped(step, created, expired));
        ReplayAnswer::Done
    }

    fn drop_replayed(&mut self, no: u32, time: Timestamp, effects: &mut Effects) {
        let webhook = self.replays[&no].spec.webhook;
        let pending = self.deliveries.range(rows_of(webhook)).filter(|(_, row)| !row.state.is_final());
        let keys: Vec<_> = pending.map(|(key, _)| *key).filter(|key| key.replay == no).collect();
        let some = &keys[..keys.len().min(REPLAY_CANCEL_DELIVERIES_MAX)];
        self.cancel_named(some, CancelReason::Requested, time, effects);
        self.put_replay(no, effects, |known| Replay { drops: some.len() < keys.len(), ..known });
    }

    /// The replays of a webhook that is deleted have come to their end.
    pub(super) fn stop_replays(&mut self, webhook: WebhookNo, time: Timestamp, effects: &mut Effects) {
        let active = self.replays.values().filter(|replay| replay.is_active() && replay.spec.webhook == webhook);
        for no in active.map(|replay| replay.no).collect::<Vec<_>>() {
            let stopped = ReplayState::Cancelled(StoppedBy::Deletion);
            self.put_replay(no, effects, |known| Replay { drops: false, ..known.ended(stopped, time) });
        }
    }

    /// A delivery that stood so now stands so; its replay counts that, if it has one.
    pub(super) fn replayed_moved(
        &mut self,
        key: DeliveryKey,
        before: DeliveryState,
        after: DeliveryState,
        effects: &mut Effects,
    ) {
        if key.replay > 0 {
            self.put_replay(key.replay, effects, |mut known| {
                known.moved(before, after);
                known
            });
        }
    }

    /// Whether it is remembered.
    fn put_replay(&mut self, no: u32, effects: &mut Effects, change: impl FnOnce(Replay) -> Replay) -> bool {
        let Some(known) = self.replays.remove(&no) else { return false };
        let changed = change(known);
        effects.replays.insert(no, Some(changed.clone()));
        self.replays.insert(no, changed);
        true
    }

    /// A replay that has succeeded, with an event that it was to send again and did not.
    pub fn not_replayed(&self) -> Option<(u32, DeliveryKey)> {
        let succeeded = self.replays.values().filter(|replay| replay.state == ReplayState::Succeeded);
        succeeded.filter(|replay| replay.spec.states.is_empty()).find_map(|replay| {
            let (_, webhook) = self.webhooks.get(&replay.spec.webhook)?;
            // The first one comes after the last one if there was nothing to look at.
            let end = EventSeq(replay.last.0 + 1).max(replay.first);
            let wanted = self.events.range(replay.first..end).filter(|(_, stored)| {
                stored.event.tenant == replay.spec.tenant
                    && replay.spec.is_within(stored.accept_time)
                    && stored.due_time() <= replay.create_time
                    && webhook.settings.verdict(&mut View::of(&stored.event)) == Verdict::Admitted
            });
            let key = |event: &EventSeq| DeliveryKey { webhook: webhook.no, event: *event, replay: replay.no };
            let mut missing = wanted.map(|(event, _)| key(event)).filter(|key| !self.deliveries.contains_key(key));
            missing.next().map(|key| (replay.no, key))
        })
    }

    pub(super) fn replayable(&self, replay: &Replay, from: EventSeq, limit: usize) -> ReplayPage {
        let spec = &replay.spec;
        let end = EventSeq(replay.last.0 + 1);
        let mut page = ReplayPage { events: Vec::new(), next: end, examined: 0, reached: None };
        let range = (Bound::Included(from), Bound::Excluded(end.max(from)));
        for (looked, (seq, stored)) in self.events.range(range).enumerate() {
            if page.events.len() == limit || looked == REPLAY_EXAMINED_MAX {
                page.next = *seq;
                break;
            }
            if stored.accept_time >= spec.end + ACCEPT_DISORDER_MAX {
                break;
            }
            if stored.event.tenant != spec.tenant || !spec.is_within(stored.accept_time) {
                continue;
            }
            page.examined += 1;
            page.reached = Some(stored.accept_time);
            let first = DeliveryKey { webhook: spec.webhook, event: *seq, replay: 0 };
            let stands_so = || self.deliveries.get(&first).is_some_and(|row| spec.states.contains(&row.state));
            if spec.names(&stored.event.event_type) && (spec.states.is_empty() || stands_so()) {
                page.events.push(stored.clone());
            }
        }
        page
    }
}
