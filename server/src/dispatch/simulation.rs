//! The scheduler against a scripted store, in virtual time: random publishes, retries, slow and failing reads, deletions and
//! disablings, from a seed that is printed when a promise is broken.
//!
//! Deliberately absent: surveys while the script runs, except at its start. They would repair what the triggers miss, and hide it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{
    fairness::Patience,
    orders::{Enabled, Launch, Limits, Refill, Unmade, Webhooks},
    scheduler::Scheduler,
};
use crate::{
    flow::{Board, Settled},
    model::{
        breaker::{Breaker, Change, Health},
        delivery::Attempts,
        ids::{DeliveryKey, EventSeq, Tenant, WebhookNo},
        protection::Pace,
        rate::{Bucket, RateLimit},
        time::Timestamp,
    },
    store::{AsOf, DuePage, Hint, LaneDue, LanePage},
};

/// Small, so that every limit is met often.
pub(super) fn limits() -> Limits {
    Limits {
        in_flight_max: 12,
        webhook_in_flight_max: 4,
        slow_in_flight_max: 6,
        hints_max: 24,
        lane_hints_max: 6,
        horizon: Duration::from_secs(2),
        refills_max: 3,
        failure_pause: Duration::from_secs(1),
        unreadable_pause: Duration::from_mins(1),
        gate_kept: Duration::from_hours(1),
        idle_gates_max: 5,
    }
}

/// Which webhooks there are: enabled ones with their tenants, and what attempts of some keep to.
#[derive(Debug, Default)]
pub(super) struct Known(pub(super) HashMap<WebhookNo, Tenant>, pub(super) HashMap<WebhookNo, Pace>);

impl Webhooks for Known {
    fn if_enabled(&self, webhook: WebhookNo) -> Option<Enabled> {
        let tenant = self.0.get(&webhook).cloned()?;
        Some(Enabled { tenant, pace: self.1.get(&webhook).copied().unwrap_or_default() })
    }
}

type Rows = BTreeMap<(Timestamp, EventSeq, u32), u32>;

/// What is on disk, and the clock.
struct World {
    now: Timestamp,
    commits: u64,
    events: u64,
    rows: BTreeMap<WebhookNo, Rows>,
    enabled: Known,
    disabled: BTreeMap<WebhookNo, Tenant>,
    board: Board,
    /// Hints of one lane the board holds.
    board_lane_max: usize,
}

impl World {
    fn commit(&mut self) -> AsOf {
        self.commits += 1;
        self.board.as_of = AsOf(self.commits);
        self.board.as_of
    }

    fn publish(&mut self, webhook: WebhookNo, due: Timestamp, count: usize) {
        let as_of = self.commit();
        for _ in 0..count {
            self.events += 1;
            let event = EventSeq(self.events);
            self.rows.entry(webhook).or_default().insert((due, event, 0), 0);
            let fresh = self.board.fresh.entry(webhook).or_default();
            if fresh.more_since.is_some() || fresh.hints.len() >= self.board_lane_max {
                fresh.more_since = Some(as_of);
            } else {
                fresh.hints.push(Hint { event, replay: 0, attempts: Attempts::default(), due });
            }
        }
    }

    fn change(&mut self, webhook: WebhookNo) {
        self.commit();
        self.board.changed.insert(webhook);
    }

    fn due(&self, refill: Refill) -> DuePage {
        let none = Rows::new();
        let rows = self.rows.get(&refill.webhook).unwrap_or(&none);
        let hint = |(&(due, event, replay), &attempts): (&(Timestamp, EventSeq, u32), &u32)| Hint {
            event,
            replay,
            attempts: Attempts::new(attempts, None),
            due,
        };
        let within: Vec<_> = rows.iter().map(hint).take_while(|hint| hint.due <= refill.horizon).collect();
        let more = within.len() > refill.limit;
        let next_due = rows.keys().map(|(due, ..)| *due).find(|due| *due > refill.horizon).filter(|_| !more);
        let hints = within.into_iter().take(refill.limit).collect();
        DuePage { hints, more, next_due, as_of: AsOf(self.commits) }
    }

    fn lanes(&self) -> LanePage {
        let first = |(webhook, rows): (&WebhookNo, &Rows)| {
            rows.keys().next().map(|(due, ..)| LaneDue { webhook: *webhook, first_due: *due })
        };
        LanePage { lanes: self.rows.iter().filter_map(first).collect(), next: None, as_of: AsOf(self.commits) }
    }
}

/// A read under way: its page once the snapshot has been taken.
struct Read {
    refill: Refill,
    page: Option<DuePage>,
}

/// What the simulation itself knows of a webhook's gate, from what the scheduler was told.
#[derive(Default)]
struct Mirror {
    breaker: Breaker,
    bucket: Bucket,
    paused_until: Option<Timestamp>,
}

struct Simulation {
    rng: StdRng,
    mirrors: HashMap<WebhookNo, Mirror>,
    /// Receivers that fail for the time being.
    failing: BTreeSet<WebhookNo>,
    opened: usize,
    limits: Limits,
    scheduler: Scheduler,
    world: World,
    launched: BTreeMap<DeliveryKey, (Timestamp, Launch)>,
    reads: Vec<Read>,
    settled: Vec<Settled>,
    patience: Patience,
    attempts: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let webhooks = rng.random_range(1..40);
        let tenant = |no: u64| format!("t{}", no % 5).parse().expect("valid");
        let enabled = (1..=webhooks).map(|no| (WebhookNo(no), tenant(no))).collect();
        let paces = (1..=webhooks).filter(|no| no % 3 == 0).map(|no| (WebhookNo(no), random_pace(&mut rng))).collect();
        let enabled = Known(enabled, paces);
        let world = World {
            now: Timestamp::from_micros(1_000_000_000),
            commits: 0,
            events: 0,
            rows: BTreeMap::new(),
            enabled,
            disabled: BTreeMap::new(),
            board: Board::default(),
            board_lane_max: rng.random_range(1..8),
        };
        // With very little room tenants take it from each other all the time.
        let limits = Limits { hints_max: [24, 12, 5][rng.random_range(0..3)], ..limits() };
        Self {
            rng,
            mirrors: HashMap::new(),
            failing: BTreeSet::new(),
            opened: 0,
            scheduler: Scheduler::new(limits.clone()),
            limits,
            world,
            launched: BTreeMap::new(),
            reads: Vec::new(),
            settled: Vec::new(),
            patience: Patience::default(),
            attempts: 0,
        }
    }

    /// Returns how many breakers opened.
    fn run(mut self, steps: usize) -> usize {
        self.recover();
        for _ in 0..steps {
            self.step();
            self.turn();
        }
        self.drain()
    }

    /// What an earlier life left behind.
    fn recover(&mut self) {
        for _ in 0..self.rng.random_range(0..10) {
            self.publish();
        }
        self.world.board = Board::default();
        self.scheduler.surveyed(&self.world.lanes());
        self.turn();
    }

    /// One thing happens.
    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..15 => self.publish(),
            15..35 => self.snapshot(),
            35..55 => self.finish_read(),
            55..75 => self.conclude(),
            75..85 => self.hand_over(),
            85..93 => self.pass_time(),
            93..96 => self.fail_load(),
            96 => self.switch(),
            97 => self.sicken(),
            98 => self.delete(),
            _ => self.retry_now(),
        }
    }

    /// The dispatcher's reaction: time, then launches and reads until there are none.
    fn turn(&mut self) {
        let now = self.world.now;
        self.scheduler.tick(now, &self.world.enabled);
        loop {
            let waiting = self.scheduler.waiting(now);
            self.patience.look(&waiting);
            let Some(launch) = self.scheduler.next_launch(now, &self.world.enabled) else { break };
            let webhook = launch.key.webhook;
            self.launch(launch);
            self.patience.served(webhook, &self.world.enabled.0[&webhook], &waiting);
        }
        while let Some(refill) = self.scheduler.next_refill(now) {
            self.reads.push(Read { refill, page: None });
        }
        assert!(self.reads.len() <= self.limits.refills_max);
        self.scheduler.check(now);
        self.scheduler.check_shares();
    }

    fn launch(&mut self, launch: Launch) {
        let key = launch.key;
        assert!(self.world.enabled.0.contains_key(&key.webhook), "{key:?} of a webhook that is not enabled");
        let rows = &self.world.rows[&key.webhook];
        let row = rows.iter().find(|((_, event, replay), _)| (*event, *replay) == (key.event, key.replay));
        let (&(due, ..), &attempts) = row.unwrap_or_else(|| panic!("{key:?} is not pending"));
        assert!(due <= self.world.now, "{key:?} is launched before it is due");
        assert_eq!(launch.attempts, Attempts::new(attempts, None), "{key:?}: an attempt is skipped or repeated");
        assert!(self.launched.insert(key, (due, launch)).is_none(), "{key:?} is launched twice at once");
        assert!(self.launched.len() <= self.limits.in_flight_max);
        let of_webhook = self.launched.keys().filter(|other| other.webhook == key.webhook).count();
        assert!(of_webhook <= self.limits.webhook_in_flight_max);
        self.judge(key.webhook);
        self.attempts += 1;
    }

    /// Whether what is known of the webhook allows the attempt that has just been launched.
    fn judge(&mut self, webhook: WebhookNo) {
        let now = self.world.now;
        let pace = self.world.enabled.1.get(&webhook).copied().unwrap_or_default();
        let unanswered = self.launched.keys().filter(|key| key.webhook == webhook).count();
        // Those that are over and the scheduler has not heard of count, unless it has heard that they were answered.
        let unknown = self.settled.iter().filter(|settled| settled.key.webhook == webhook).count();
        let mirror = self.mirrors.entry(webhook).or_default();
        assert!(mirror.paused_until.is_none_or(|until| until <= now), "{webhook:?} is attempted in a pause");
        assert_eq!(mirror.breaker.open_until(now), None, "{webhook:?} is attempted while its breaker is open");
        if let Some(allowed) = mirror.breaker.allowed() {
            assert!(unanswered + unknown <= allowed as usize, "{webhook:?}: too many at once for {:?}", mirror.breaker);
        }
        mirror.breaker.attempt();
        if let Some(limit) = pace.rate_limit {
            assert_eq!(mirror.bucket.next(&limit, now), None, "{webhook:?} is attempted too often");
            mirror.bucket.take(&limit, now);
        }
        assert!(
            pace.max_in_flight.is_none_or(|most| unanswered <= most.get() as usize),
            "{webhook:?}: too many at once"
        );
    }

    /// The scheduler is told of an outcome.
    fn tell(&mut self, settled: &Settled) {
        let webhook = settled.key.webhook;
        let (now, ceiling) = (self.world.now, self.limits.webhook_in_flight_max);
        if self.world.enabled.0.contains_key(&webhook) {
            let wanted = self.world.enabled.1.get(&webhook).and_then(|pace| pace.max_in_flight);
            let cap = u32::try_from(super::gate::cap(ceiling, wanted)).expect("few");
            let mirror = self.mirrors.entry(webhook).or_default();
            let change = mirror.breaker.ended(settled.health, cap, now);
            self.opened += usize::from(change == Some(Change::Opened));
            mirror.paused_until = mirror.paused_until.max(settled.pause_until);
        }
        self.scheduler.settled(settled, now, &self.world.enabled);
    }

    /// A receiver begins to fail all the time, or is well again.
    fn sicken(&mut self) {
        let Some(webhook) = self.any_webhook() else { return };
        if !self.failing.remove(&webhook) {
            self.failing.insert(webhook);
        }
    }

    fn publish(&mut self) {
        let Some(webhook) = self.any_webhook() else { return };
        let delay = if self.rng.random_bool(0.1) { self.rng.random_range(0..9_000) } else { 0 };
        let count = if self.rng.random_bool(0.1) { 40 } else { self.rng.random_range(1..4) };
        let due = self.world.now + Duration::from_millis(delay);
        self.world.publish(webhook, due, count);
    }

    fn any_webhook(&mut self) -> Option<WebhookNo> {
        let all: BTreeSet<_> = self.world.enabled.0.keys().chain(self.world.disabled.keys()).copied().collect();
        all.into_iter().choose(&mut self.rng)
    }

    fn snapshot(&mut self) {
        if let Some(read) = self.reads.iter_mut().filter(|read| read.page.is_none()).choose(&mut self.rng) {
            read.page = Some(self.world.due(read.refill));
        }
    }

    fn finish_read(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        let Read { refill, page } = self.reads.remove(self.rng.random_range(0..self.reads.len()));
        let failed = self.rng.random_bool(0.1);
        let page = page.unwrap_or_else(|| self.world.due(refill));
        self.listen();
        let page = (!failed).then_some(&page);
        self.scheduler.refilled(refill.webhook, page, self.world.now, &self.world.enabled);
    }

    /// An attempt ends and its outcome is committed; the dispatcher may hear of it later.
    fn conclude(&mut self) {
        let Some(&key) = self.launched.keys().choose(&mut self.rng) else { return };
        let retry = match self.rng.random_range(0..4) {
            0 => Some(Duration::from_millis(self.rng.random_range(0..2_000))),
            1 => Some(Duration::from_millis(self.rng.random_range(2_000..60_000))),
            _ => None,
        };
        let slow = self.rng.random_bool(0.3);
        let sick = self.failing.contains(&key.webhook);
        let retry = if sick { Some(retry.unwrap_or(Duration::from_secs(1))) } else { retry };
        let health = if retry.is_some() { Health::Failing } else { Health::Well };
        let overloaded = retry.is_some() && !sick && self.rng.random_bool(0.2);
        let pause_until = overloaded.then(|| self.world.now + Duration::from_millis(self.rng.random_range(0..20_000)));
        self.settle(key, retry, slow, health, pause_until);
    }

    fn settle(
        &mut self,
        key: DeliveryKey,
        retry: Option<Duration>,
        slow: bool,
        health: Health,
        pause_until: Option<Timestamp>,
    ) {
        let (due, launch) = self.launched.remove(&key).expect("it was launched");
        let as_of = self.world.commit();
        let next_attempt = retry.map(|delay| self.world.now + delay);
        // The rows of a deleted webhook are gone.
        if let Some(rows) = self.world.rows.get_mut(&key.webhook) {
            rows.remove(&(due, key.event, key.replay));
            if let Some(due) = next_attempt {
                rows.insert((due, key.event, key.replay), launch.attempts.ended() + 1);
            }
        }
        let attempts = Attempts::new(launch.attempts.ended() + 1, None);
        self.settled.push(Settled { key, attempts, next_attempt, slow: Some(slow), health, pause_until, as_of });
    }

    /// The board is read; that comes before anything else is heard.
    fn listen(&mut self) {
        let board = std::mem::take(&mut self.world.board);
        for changed in &board.changed {
            // What a change may have mended is tried at once.
            let mirror = self.mirrors.entry(*changed).or_default();
            if self.world.enabled.0.contains_key(changed) {
                mirror.paused_until = None;
                mirror.breaker.probe_now(self.world.now);
            } else {
                *mirror = Mirror::default();
            }
        }
        self.scheduler.news(board, self.world.now, &self.world.enabled);
    }

    fn hand_over(&mut self) {
        self.listen();
        for settled in &self.settled {
            if self.rng.random_bool(0.5) {
                self.scheduler.answered(settled.key, self.world.now);
            }
        }
        let count = self.rng.random_range(0..=self.settled.len());
        let heard: Vec<_> = self.settled.drain(..count).collect();
        for settled in heard {
            self.tell(&settled);
        }
    }

    fn pass_time(&mut self) {
        let span = if self.rng.random_bool(0.1) { 30_000 } else { 700 };
        self.world.now = self.world.now + Duration::from_millis(self.rng.random_range(0..span));
    }

    fn fail_load(&mut self) {
        let Some(&key) = self.launched.keys().choose(&mut self.rng) else { return };
        self.launched.remove(&key);
        let enabled = self.world.enabled.0.contains_key(&key.webhook);
        let why = match self.rng.random_range(0..2) {
            _ if !enabled => Unmade::NotWanted,
            0 => Unmade::StoreFailed,
            _ => Unmade::Unreadable,
        };
        self.scheduler.unmade(key, why, self.world.now);
    }

    fn switch(&mut self) {
        let Some(webhook) = self.any_webhook() else { return };
        if let Some(tenant) = self.world.enabled.0.remove(&webhook) {
            self.world.disabled.insert(webhook, tenant);
        } else if let Some(tenant) = self.world.disabled.remove(&webhook) {
            self.world.enabled.0.insert(webhook, tenant);
        }
        self.world.change(webhook);
    }

    fn delete(&mut self) {
        if self.rng.random_bool(0.7) {
            return;
        }
        let Some(webhook) = self.any_webhook() else { return };
        self.world.enabled.0.remove(&webhook);
        self.world.disabled.remove(&webhook);
        self.world.rows.remove(&webhook);
        self.world.change(webhook);
    }

    /// A caller makes a waiting delivery due at once.
    fn retry_now(&mut self) {
        let now = self.world.now;
        let waiting = |webhook: &WebhookNo, slot: &(Timestamp, EventSeq, u32)| {
            let key = DeliveryKey { webhook: *webhook, event: slot.1, replay: slot.2 };
            slot.0 > now && !self.launched.contains_key(&key) && !self.settled.iter().any(|settled| settled.key == key)
        };
        let candidates = self
            .world
            .rows
            .iter()
            .flat_map(|(webhook, rows)| rows.iter().map(move |(slot, attempts)| (*webhook, *slot, *attempts)));
        let chosen = candidates.filter(|(webhook, slot, _)| waiting(webhook, slot)).choose(&mut self.rng);
        let Some((webhook, (due, event, replay), attempts)) = chosen else { return };
        let rows = self.world.rows.get_mut(&webhook).expect("chosen from them");
        rows.remove(&(due, event, replay));
        rows.insert((now, event, replay), attempts);
        self.world.commit();
        let fresh = self.world.board.fresh.entry(webhook).or_default();
        // It may stand on the board already, with its former time.
        fresh.hints.retain(|hint| hint.event != event);
        fresh.hints.push(Hint { event, replay, attempts: Attempts::new(attempts, None), due: now });
    }

    /// Nothing new happens and everything succeeds: all that is pending must be delivered.
    fn drain(mut self) -> usize {
        for (webhook, tenant) in std::mem::take(&mut self.world.disabled) {
            self.world.enabled.0.insert(webhook, tenant);
            self.world.change(webhook);
        }
        let mut rounds = 0;
        loop {
            self.listen();
            for settled in std::mem::take(&mut self.settled) {
                self.tell(&settled);
            }
            for Read { refill, page } in std::mem::take(&mut self.reads) {
                let page = page.unwrap_or_else(|| self.world.due(refill));
                self.scheduler.refilled(refill.webhook, Some(&page), self.world.now, &self.world.enabled);
            }
            self.turn();
            let keys: Vec<_> = self.launched.keys().copied().collect();
            for key in keys {
                self.settle(key, None, false, Health::Well, None);
            }
            if self.settled.is_empty() && self.reads.is_empty() {
                let Some(wake) = self.scheduler.next_wake() else { break };
                self.world.now = self.world.now.max(wake);
            }
            rounds += 1;
            assert!(rounds < 100_000, "it does not come to rest: {:?}", self.scheduler);
        }
        let pending: usize = self.world.rows.values().map(BTreeMap::len).sum();
        assert_eq!(pending, 0, "forgotten: {:?}", self.world.rows);
        self.scheduler.check_empty();
        self.opened
    }
}

fn random_pace(rng: &mut StdRng) -> Pace {
    let rate_limit =
        RateLimit::new(rng.random_range(0.1..5.0), rng.random_range(0..4)).filter(|_| rng.random_bool(0.7));
    Pace { rate_limit, max_in_flight: NonZeroU32::new(rng.random_range(0..4)) }
}

#[test]
fn random_lives_keep_every_promise() {
    let mut opened = 0;
    for seed in 0..300 {
        let run = std::panic::catch_unwind(|| Simulation::new(seed).run(600));
        opened += run.unwrap_or_else(|panic| {
            eprintln!("the simulation failed with seed {seed}");
            std::panic::resume_unwind(panic);
        });
    }
    assert!(opened >= 50, "only {opened} breakers opened: the test tells nothing of them");
}
