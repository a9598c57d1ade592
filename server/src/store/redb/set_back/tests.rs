//! A store is walked through clocks: what they say between two runs, by how much they are wrong, and whether an operator believes them.
//!
//! What must hold is said by a model that knows of each thing only by which clock it was recorded, and when that went back.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::redb::{ReadTransaction, ReadableTableMetadata as _};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

use super::{
    super::{
        Config, RedbStore, check, open, tables,
        tests::{event, outcome, publish_all, turn, webhook},
    },
    *,
};
use crate::{
    clock::Clock,
    model::{
        audit::{AuditEntry, AuditNo, AuditQuery, Principal},
        delivery::{DeliveryState, Outcome},
        event::Event,
        ids::{EventSeq, ReplayId, WebhookNo},
        replay::{Replay, ReplaySpec},
        signing::{Key, Secret},
        target::Target,
        webhook::{Settings, Subscription, WebhookSpec},
    },
    store::{
        AuditStep, ConfigChange, DeliveryQuery, Erase, Erased, OutcomeGroup, Published, RequestKey, Store as _,
        types::Hint,
    },
};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const TEN_YEARS: i64 = 3_650 * DAY;
const RETENTION: i64 = 7 * DAY;
/// How far off a time may be, seconds: clocks go on while a test does something, and small steps are none.
const SLACK: i64 = 600;

thread_local! {
    /// What the machine's clock shows, seconds.
    static WALL: Cell<i64> = const { Cell::new(0) };
}

fn wall() -> SystemTime {
    at(WALL.get()).system_time()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// The machine, and what is on its disk.
struct Machine {
    dir: TempDir,
    config: Config,
    /// The right time, seconds.
    now: i64,
}

impl Machine {
    fn new(hot_bytes_max: usize) -> Self {
        let span = Duration::from_secs(RETENTION.unsigned_abs());
        let config = Config { hot_bytes_max, retention: span, audit_retention: span, ..Config::default() };
        Self { dir: TempDir::new().unwrap(), config, now: 56 * 365 * DAY }
    }

    /// Starts a run by a clock that is wrong by so many seconds, and believed or not; upkeep has had its time.
    async fn run(&self, wrong: i64, confirm_clock: bool) -> RedbStore {
        WALL.set(self.now + wrong);
        let config = Config { confirm_clock, ..self.config.clone() };
        let store = open(self.dir.path(), config, Arc::default(), Clock::following(wall)).unwrap();
        store.shared.clock.look();
        upkeep(&store).await;
        store
    }
}

async fn upkeep(store: &RedbStore) {
    while store.upkeep(store.shared.clock.certain()).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

async fn commit(store: &RedbStore, no: WebhookNo, hint: Hint, next_attempt: Option<Timestamp>) {
    let time = store.shared.clock.now();
    let state = if next_attempt.is_some() { DeliveryState::Pending } else { DeliveryState::Delivered };
    let answered = outcome(store, no, hint).await;
    let outcome = Outcome { attempt: hint.attempts.ended() + 1, state, time, next_attempt, ..answered };
    let group = OutcomeGroup { outcomes: vec![outcome], ..OutcomeGroup::default() };
    store.commit(store.owner(), vec![group]).await.unwrap();
}

/// An event, as far as the model knows it.
#[derive(Debug)]
struct Known {
    event: Event,
    /// When it was accepted, by the clock of that run.
    stamped: Timestamp,
    /// Its age is no less than since then.
    counted: Timestamp,
    /// What was due so long after that; `None`: it has ended.
    pending: Option<(Timestamp, Duration)>,
    /// Some clock that was believed said that it is old enough: what is still pending then goes when it has ended.
    may_go: bool,
}

/// What is in the store, by what was recorded and when the clock went back.
#[derive(Debug, Default)]
struct Model {
    events: BTreeMap<u64, Known>,
    /// Entries of the audit log and erasures: when they count as recorded, and whether they may be gone.
    audited: BTreeMap<u64, (Timestamp, bool)>,
    shown: Timestamp,
}

impl Model {
    /// A run begins, by a clock that shows this.
    fn begins(&mut self, now: Timestamp, certain: Timestamp) {
        if now < self.shown {
            for known in self.events.values_mut() {
                known.counted = known.counted.min(now);
                known.pending = known.pending.map(|(since, delay)| (since.min(now), delay));
            }
            self.audited.values_mut().for_each(|(time, _)| *time = (*time).min(now));
        }
        let old = |time: Timestamp| certain.since(time).as_secs() + SLACK.unsigned_abs() >= RETENTION.unsigned_abs();
        for known in self.events.values_mut() {
            known.may_go |= old(known.counted);
        }
        self.audited.values_mut().for_each(|(time, may_go)| *may_go |= old(*time));
    }

    /// What is due is due, and nothing else is.
    fn check_due(&self, now: Timestamp, hints: &[Hint], what: &impl Debug) {
        let due: Vec<_> = hints.iter().filter(|hint| hint.due <= now).map(|hint| hint.event.0).collect();
        for (seq, known) in &self.events {
            let Some((since, delay)) = known.pending else {
                assert!(!due.contains(seq), "{seq} has ended, and is to be sent again: {known:?}, {what:?}");
                continue;
            };
            let slack = Duration::from_secs(SLACK.unsigned_abs());
            if now + slack < since + delay {
                assert!(!due.contains(seq), "{seq} is early: {known:?} at {now:?}, {what:?}");
            } else if now > since + delay + slack {
                assert!(due.contains(seq), "{seq} is late: {known:?} at {now:?} of {hints:?}, {what:?}");
            }
        }
    }

    /// What is retained is found by its id, in lists of all and of its time, and nothing that is pending goes.
    async fn check_kept(&mut self, store: &RedbStore, what: &impl Debug) {
        let now = store.shared.clock.now();
        assert!(store.retained_since() <= now, "{:?}, {what:?}", store.retained_since());
        let listed = list(store, None, None).await;
        let (until_now, replayed) = (list(store, None, Some(now)).await, replay(store, None, now).await);
        let mut gone = Vec::new();
        for (&seq, known) in &self.events {
            let found = store.find_event(&known.event.tenant, &known.event.id).await.unwrap().is_some();
            assert!(
                found || (known.may_go && known.pending.is_none()),
                "{seq} is lost: {known:?} at {now:?}, {what:?}"
            );
            assert_eq!(listed.contains(&seq), found, "{seq}: {known:?}, {what:?}");
            if found {
                let of_its_time =
                    list(store, Some(known.stamped), Some(known.stamped + Duration::from_micros(1))).await;
                assert!(of_its_time.contains(&seq), "{seq} of {of_its_time:?}: {known:?}, {what:?}");
                let is_past = known.stamped < now;
                let shown = (until_now.contains(&seq), replayed.contains(&seq));
                assert_eq!(shown, (is_past, is_past), "{seq}: {known:?}, {what:?}");
            } else {
                gone.push(seq);
            }
        }
        for seq in gone {
            self.events.remove(&seq);
        }
        let entries = store.audited(&AuditQuery::default(), None, 10_000).await.unwrap().entries;
        self.audited.retain(|&no, (time, may_go)| {
            let found = entries.iter().any(|(entry, _)| *entry == AuditNo(no));
            assert!(found || *may_go, "entry {no} of {time:?} is lost, {what:?}");
            found
        });
    }
}

/// What a replay takes that was accepted from `start` on and before `end`.
async fn replay(store: &RedbStore, start: Option<Timestamp>, end: Timestamp) -> Vec<u64> {
    let webhook = store.catalog().webhook(WebhookNo(1)).unwrap().webhook;
    let spec = ReplaySpec {
        tenant: webhook.tenant.clone(),
        webhook: webhook.no,
        webhook_id: webhook.id,
        event_types: BTreeSet::new(),
        states: Vec::new(),
        start,
        end,
        per_second: 1,
    };
    let last = EventSeq(store.shared.counters.lock().next_event - 1);
    let replay = Replay::begin(1, ReplayId::generate(), spec, (EventSeq(1), last), end);
    let (mut taken, mut next) = (Vec::new(), EventSeq(1));
    while next <= last {
        let page = store.replayable(&replay, next, 100).await.unwrap();
        taken.extend(page.events.iter().map(|stored| stored.seq.0));
        next = page.next;
    }
    taken
}

async fn list(store: &RedbStore, from: Option<Timestamp>, until: Option<Timestamp>) -> Vec<u64> {
    let query = DeliveryQuery { from, until, ..DeliveryQuery::default() };
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(&query, after, 100).await.unwrap();
        listed.extend(page.deliveries.iter().map(|delivery| delivery.key.event.0));
        after = page.next;
        if after.is_none() {
            return listed;
        }
    }
}

/// What one run records: events to be sent now or later, attempts that succeed or fail, and things around them.
async fn live(store: &RedbStore, no: WebhookNo, model: &mut Model, rng: &mut StdRng, run: usize) {
    let now = store.shared.clock.now();
    for n in 0..rng.random_range(1..4_u32) {
        let delay = [0, 0, HOUR, 2 * DAY, 20 * DAY][rng.random_range(0..5)];
        let delay = Duration::from_secs(delay.unsigned_abs());
        let deliver_at = (!delay.is_zero()).then(|| now + delay);
        let event = Event { deliver_at, ..event(&format!("e-{run}-{n}")) };
        let published = publish_all(store, vec![event.clone()], now).await.unwrap();
        assert_eq!(published, [Published::New { deliveries: 2 }]);
        let seq = store.shared.counters.lock().next_event - 1;
        let known = Known { event, stamped: now, counted: now, pending: Some((now, delay)), may_go: false };
        model.events.insert(seq, known);
    }
    let hints = store.due(no, now, 10_000).await.unwrap().hints;
    for hint in hints.into_iter().filter(|hint| hint.due <= now) {
        let known = model.events.get_mut(&hint.event.0).expect("it is pending");
        let delay = rng.random_bool(0.3).then(|| Duration::from_hours(rng.random_range(1..100)));
        commit(store, no, hint, delay.map(|delay| store.shared.clock.now() + delay)).await;
        known.pending = delay.map(|delay| (now, delay));
    }
    let entry = AuditEntry::new("m", Principal::Offline, now);
    let AuditNo(entry) = store.audit(AuditStep::Begin(Box::new(entry))).await.unwrap();
    model.audited.insert(entry, (now, false));
    let spec = WebhookSpec {
        tenant: "other".parse().unwrap(),
        settings: Settings::new(Target::from_stored("https://receiver.example/").unwrap(), Subscription::All),
        enabled: true,
    };
    let request = Some(RequestKey { id: format!("r-{run}"), hash: 1 });
    let keys = Secret::from_bytes(&[7; 32]).unwrap().into();
    store.put_config(ConfigChange::CreateWebhook { spec, keys, request, time: now }).await.unwrap();
    if run.is_multiple_of(3) {
        let erase =
            Erase::Tenant { tenant: format!("gone-{run}").parse().unwrap(), request_id: String::new(), time: now };
        assert!(matches!(store.erase(erase).await.unwrap(), Erased::Decided(_)));
    }
}

/// Rows of what goes with time.
fn rows(read: &ReadTransaction) -> Vec<(&'static str, u64)> {
    vec![
        ("event_chunks", read.open_table(tables::EVENT_CHUNKS).unwrap().len().unwrap()),
        ("event_ids", read.open_table(tables::EVENT_IDS).unwrap().len().unwrap()),
        ("rescued", read.open_table(tables::RESCUED).unwrap().len().unwrap()),
        ("log", read.open_table(tables::LOG).unwrap().len().unwrap()),
        ("deliveries", read.open_table(tables::DELIVERIES).unwrap().len().unwrap()),
        ("scheduled", read.open_table(tables::SCHEDULED).unwrap().len().unwrap()),
        ("segments", read.open_table(tables::SEGMENTS).unwrap().len().unwrap()),
        ("requests", read.open_table(tables::REQUESTS).unwrap().len().unwrap()),
        ("requests_by_time", read.open_table(tables::REQUESTS_BY_TIME).unwrap().len().unwrap()),
        ("audit", read.open_table(tables::AUDIT).unwrap().len().unwrap()),
        ("erasures", read.open_table(tables::ERASURES).unwrap().len().unwrap()),
    ]
}

fn assert_well(dir: &Path) {
    let checked = check(dir).unwrap();
    assert!(checked.findings.is_empty(), "{}", checked.findings);
}

async fn walk(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut machine = Machine::new([1, 64 << 20][usize::from(rng.random_bool(0.5))]);
    let mut model = Model::default();
    let store = machine.run(0, false).await;
    let no = webhook(&store).await;
    let held = webhook(&store).await;
    turn(&store, held, false).await;
    store.close().await.unwrap();
    let mut steps = Vec::new();
    for run in 0..12 {
        machine.now += [HOUR, 10 * HOUR, DAY, 3 * DAY][rng.random_range(0..4)];
        let wrong = [0, 0, HOUR, -HOUR, 20 * DAY, TEN_YEARS, -TEN_YEARS][rng.random_range(0..7)];
        let confirmed = rng.random_bool(0.5);
        steps.push((machine.now, wrong, confirmed));
        let what = (seed, &steps);
        let store = machine.run(wrong, confirmed).await;
        let now = store.shared.clock.now();
        model.begins(now, store.shared.clock.certain());
        let hints = store.due(no, at(i64::MAX / 2_000_000), 10_000).await.unwrap().hints;
        model.check_due(now, &hints, &what);
        model.check_kept(&store, &what).await;
        live(&store, no, &mut model, &mut rng, run).await;
        upkeep(&store).await;
        model.shown = store.shared.clock.now();
        store.close().await.unwrap();
    }
    assert_well(machine.dir.path());
    // Everything is right again, and nothing more comes.
    for rest in 0..15 {
        machine.now += 3 * DAY;
        let store = machine.run(0, rest == 0).await;
        let now = store.shared.clock.now();
        model.begins(now, store.shared.clock.certain());
        let hints = store.due(no, at(i64::MAX / 2_000_000), 10_000).await.unwrap().hints;
        let what = (seed, &steps, rest);
        model.check_due(now, &hints, &what);
        for hint in hints.into_iter().filter(|hint| hint.due <= now) {
            commit(&store, no, hint, None).await;
            model.events.get_mut(&hint.event.0).expect("it is pending").pending = None;
        }
        model.check_kept(&store, &what).await;
        model.shown = store.shared.clock.now();
        if rest == 14 {
            let left = rows(&store.shared.read().unwrap().0);
            assert!(left.iter().all(|(_, rows)| *rows == 0), "{left:?}, {what:?}");
        }
        store.close().await.unwrap();
    }
    assert_well(machine.dir.path());
}

/// What was archived while the clock was ahead is found by its time when it was set right.
#[tokio::test]
async fn a_replay_of_a_time_that_has_not_come_finds_what_bears_it() {
    let mut machine = Machine::new(1);
    let store = machine.run(TEN_YEARS, false).await;
    webhook(&store).await;
    let ahead = store.shared.clock.now();
    publish_all(&store, vec![event("ahead")], ahead).await.unwrap();
    upkeep(&store).await;
    store.close().await.unwrap();
    machine.now += HOUR;
    let store = machine.run(0, true).await;
    let now = store.shared.clock.now();
    assert!(now < ahead);
    publish_all(&store, vec![event("now")], now).await.unwrap();
    upkeep(&store).await;
    let after = Duration::from_secs(1);
    assert_eq!(replay(&store, Some(ahead), ahead + after).await, [1]);
    assert_eq!(replay(&store, Some(now), now + after).await, [2]);
    assert_eq!(replay(&store, None, ahead + after).await, [1, 2]);
    store.close().await.unwrap();
}

/// When it was set back is forgotten in time, and what was accepted by then is found all the same.
#[tokio::test]
async fn what_is_older_than_the_set_backs_that_are_remembered_is_found() {
    let mut machine = Machine::new(1);
    let store = machine.run(0, false).await;
    webhook(&store).await;
    let first = store.shared.clock.now();
    publish_all(&store, vec![event("first")], first).await.unwrap();
    store.close().await.unwrap();
    let store = machine.run(TEN_YEARS, true).await;
    publish_all(&store, vec![event("ahead")], store.shared.clock.now()).await.unwrap();
    store.close().await.unwrap();
    let store = machine.run(0, true).await;
    publish_all(&store, vec![event("last")], store.shared.clock.now()).await.unwrap();
    store.close().await.unwrap();
    let until = first + Duration::from_mins(1);
    for again in 0..=CLOCK_SET_BACKS_MAX {
        let store = machine.run(0, true).await;
        let expected = (again + 1).min(CLOCK_SET_BACKS_MAX);
        assert_eq!(store.shared.set_backs.0.len(), expected);
        if again + 2 >= CLOCK_SET_BACKS_MAX {
            assert_eq!(replay(&store, None, until).await, [1, 3], "{again}");
            assert_eq!(list(&store, None, Some(until)).await, [3, 1], "{again}");
            assert_eq!(list(&store, Some(until), None).await, [2], "{again}");
        }
        store.close().await.unwrap();
        machine.now -= SLACK;
    }
}

/// A secret that was replaced while the clock was ahead signs along for as long as one may at most, and not until that time comes.
#[tokio::test]
async fn no_secret_signs_along_until_a_time_that_never_was() {
    for ahead in [10 * DAY, TEN_YEARS] {
        signs_along_for_a_week(ahead).await;
    }
}

async fn signs_along_for_a_week(ahead: i64) {
    let mut machine = Machine::new(1);
    let store = machine.run(ahead, false).await;
    let no = webhook(&store).await;
    let webhook = store.catalog().webhook(no).unwrap().webhook;
    let rotate = ConfigChange::RotateSecret {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect: webhook.version,
        key: Key::Secret(Secret::from_bytes(&[8; 32]).unwrap()),
        overlap: Duration::from_hours(24),
        time: store.shared.clock.now(),
    };
    store.put_config(rotate).await.unwrap();
    store.close().await.unwrap();
    for (confirmed, signs_along) in [(true, true), (false, true), (false, false)] {
        let store = machine.run(0, confirmed).await;
        let previous = store.catalog().webhook(no).unwrap().webhook.keys.previous().to_vec();
        assert_eq!(
            previous[0].until > store.shared.clock.now(),
            signs_along,
            "{ahead}: {previous:?} at {}",
            machine.now
        );
        store.close().await.unwrap();
        machine.now += 4 * DAY;
    }
}

/// The issue: nothing early, no burst, nothing lost, whatever the clock does; and all goes at last that is to go.
#[tokio::test]
async fn whatever_the_clock_does_things_go_when_they_are_old_enough() {
    for seed in 0..4 {
        walk(seed).await;
    }
}
