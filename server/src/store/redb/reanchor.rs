//! Due times from a time that never was: the clock had been years ahead, an operator confirmed that it is right now, and what was
//! put off while it was ahead would be due in years.
//!
//! A due time was reckoned from some moment: when the event was accepted, or when the attempt before ended. If that moment is in
//! the future, the clock was ahead then, and what counts is the delay: the delivery is due that long after now. Its record says
//! from when that was reckoned until its next outcome, so that it is mended once, however long the delay is, and again if that moment
//! turns out to be in the future, too.
//!
//! Upkeep looks through all that is scheduled once after the clock went back, a few rows at a time, and again from the beginning
//! if a restart comes in between. What waits behind others of its ordering key is mended when its turn comes.

use ::redb::ReadableTable as _;
use prost::Message as _;

use super::{
    archive::Archived,
    change::{Change, Tables},
    error::EngineError,
    records::DeliveryRecord,
    shared::Shared,
    tables,
};
use crate::{
    model::{
        delivery::Attempts,
        ids::{EventSeq, WebhookNo},
        time::Timestamp,
    },
    store::types::Hint,
};

/// Rows that one step looks at.
const STEP_ROWS: usize = 256;

/// Key in [`tables::SCHEDULED`].
pub(super) type ScheduledRow = (u64, i64, u64, u32);

/// Where the search is.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// The next row; `None`: it is to begin.
    next: Option<ScheduledRow>,
    /// Something was found since it began. Whether that was mended is only known by searching again.
    found: bool,
}

/// When a delivery is due that was to be due at `due`, which was reckoned from `since`.
pub(super) fn reanchored(now: Timestamp, since: Timestamp, due: Timestamp) -> Timestamp {
    if since > now && due >= since { now + due.since(since) } else { due }
}

/// The same for a delivery that was attempted, or is scheduled for its first attempt, by its record.
fn mended(now: Timestamp, record: &DeliveryRecord, replay: u32, due: Timestamp) -> Timestamp {
    if let Some(anchor) = record.reckoned_from() {
        return reanchored(now, anchor, due);
    }
    let since = record.update_time().unwrap_or(record.create_time());
    // Both are due at once when they are made, whenever their event was accepted and their last attempt ended.
    let is_replayed = record.update_time().is_none() && replay > 0;
    let is_by_hand = record.excused == Some(record.attempts);
    if since > now && due >= since && (is_replayed || is_by_hand) { now } else { reanchored(now, since, due) }
}

impl Search {
    /// The next step, if the clock went back and not all was looked through since.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Option<Archived>, EngineError> {
        if !shared.counters.lock().reanchors {
            *self = Self::default();
            return Ok(None);
        }
        let now = shared.clock.now();
        let (txn, _) = shared.read()?;
        let (scheduled, deliveries) = (txn.open_table(tables::SCHEDULED)?, txn.open_table(tables::DELIVERIES)?);
        let from = self.next.unwrap_or((0, i64::MIN, 0, 0));
        let (mut found, mut next) = (Vec::new(), None);
        for (looked, row) in scheduled.range(from..)?.enumerate() {
            let key = row?.0.value();
            if looked == STEP_ROWS {
                next = Some(key);
                break;
            }
            let (webhook, due, event, replay) = key;
            let due = Timestamp::from_micros(due);
            if due <= now {
                continue;
            }
            let Some(bytes) = deliveries.get((event, webhook, replay))? else { continue };
            let record = DeliveryRecord::decode_from(bytes.value())?;
            if record.due() == Some(due) && mended(now, &record, replay, due) != due {
                found.push(key);
            }
        }
        let found_any = self.found || !found.is_empty();
        if next.is_none() && !found_any {
            return Ok(Some(Archived::Reanchored));
        }
        *self = Self { found: found_any && next.is_some(), next };
        Ok(Some(if found.is_empty() { Archived::Looked } else { Archived::Reanchor(found) }))
    }
}

impl Change<'_> {
    /// Mends the due times of these deliveries, of those that are pending still.
    pub(super) fn reanchor(&mut self, tables: &mut Tables<'_>, rows: Vec<ScheduledRow>) -> Result<(), EngineError> {
        let now = self.shared.clock.now();
        for (webhook, due, event, replay) in rows {
            let row = (event, webhook, replay);
            let record = tables.deliveries.get(row)?.map(|bytes| DeliveryRecord::decode_from(bytes.value()));
            let Some(record) = record.transpose()? else { continue };
            let due = Timestamp::from_micros(due);
            let mended = mended(now, &record, replay, due);
            // It has moved on, or was mended.
            if record.due() != Some(due) || mended == due {
                continue;
            }
            let attempts = tables.scheduled.remove((webhook, due.micros(), event, replay))?.map(|bits| bits.value());
            let Some(attempts) = attempts.map(Attempts::from_bits) else { continue };
            tables.scheduled.insert((webhook, mended.micros(), event, replay), attempts.to_bits())?;
            tables.deliveries.insert(row, record.reanchored(now, mended).encode_to_vec().as_slice())?;
            let hint = Hint { event: EventSeq(event), replay, attempts, due: mended };
            self.fresh.push((WebhookNo(webhook), hint));
        }
        Ok(())
    }

    /// When an event is due for the first time that was accepted then and is to be sent at `due`. Only while the clock shows what it
    /// showed before it went back is it asked whether it was ahead.
    pub(super) fn due_first(&self, accept_time: Timestamp, due: Timestamp) -> Timestamp {
        let now = self.shared.clock.now();
        if now.micros() < self.counters.ahead_until { reanchored(now, accept_time, due) } else { due }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering},
        },
        time::{Duration, SystemTime},
    };

    use tempfile::TempDir;

    use super::{
        super::{
            Config, RedbStore, open,
            tests::{event, publish_all, webhook},
        },
        *,
    };
    use crate::{
        clock::Clock,
        model::{
            audit::{AuditEntry, Principal},
            event::Event,
        },
        store::{AuditStep, Store as _, types::DuePage},
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds that the wall clock of the tests below is ahead.
    static AHEAD: AtomicI64 = AtomicI64::new(0);
    const TEN_YEARS: i64 = 3650 * 24 * 3600;

    fn wall() -> SystemTime {
        let ahead = Duration::from_secs(AHEAD.load(Ordering::Relaxed).unsigned_abs());
        Clock::start().wall().system_time() + ahead
    }

    fn open_at(dir: &TempDir, ahead: i64, confirm_clock: bool) -> RedbStore {
        AHEAD.store(ahead, Ordering::Relaxed);
        let config = Config { confirm_clock, ..Config::default() };
        open(dir.path(), config, Arc::default(), Clock::following(wall)).unwrap()
    }

    async fn all(store: &RedbStore) -> DuePage {
        store.due(WebhookNo(1), Timestamp::from_micros(i64::MAX), 1_000).await.unwrap()
    }

    #[test]
    fn a_delay_counts_and_not_the_time_that_never_was() {
        let at = |seconds: u64| Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
        for (now, since, due, expected) in [
            (100, 90, 130, 130),
            (100, 100, 130, 130),
            (100, 1_000, 1_030, 130),
            (100, 1_000, 1_000, 100),
            (100, 1_000, 130, 130),
        ] {
            assert_eq!(reanchored(at(now), at(since), at(due)), at(expected), "{now} {since} {due}");
        }
    }

    /// The clock that the first search went by may turn out to have been ahead as well.
    #[test]
    fn what_was_mended_is_mended_again_if_need_be_and_not_otherwise() {
        let at = |seconds: u64| Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
        let record = DeliveryRecord::scheduled(at(1_000), at(1_030)).reanchored(at(500), at(530));
        for (now, expected) in [(500, 530), (520, 530), (600, 530), (100, 130)] {
            assert_eq!(mended(at(now), &record, 0, at(530)), at(expected), "{now}");
        }
    }

    /// Deliveries that were scheduled while the clock was ten years ahead are due when they would have been, once it was set right
    /// and confirmed; what cannot be told from that is left alone, and a second search changes nothing.
    #[tokio::test]
    async fn what_was_put_off_by_a_clock_ahead_is_due_after_its_delay() {
        const EVENTS: u32 = 600;
        let dir = TempDir::new().unwrap();
        let store = open_at(&dir, TEN_YEARS, false);
        webhook(&store).await;
        let now = store.shared.clock.now();
        let later = |n: u32| {
            let mut later = event(&format!("e-{n}"));
            later.deliver_at = Some(now + SECOND * (3_600 + n));
            later
        };
        publish_all(&store, (0..EVENTS).map(later).collect(), now).await.unwrap();
        store.close().await.unwrap();

        // Not confirmed, so it goes on as if nothing had happened.
        let store = open_at(&dir, 0, false);
        assert!(store.shared.clock.now() >= now);
        assert!(!store.shared.counters.lock().reanchors);
        store.close().await.unwrap();

        let store = open_at(&dir, 0, true);
        let set_back = store.shared.clock.now();
        assert!(set_back + Duration::from_hours(24 * 3_000) < now);
        assert!(store.shared.counters.lock().reanchors);
        // In the middle of it, a restart.
        for _ in 0..2 {
            assert!(store.upkeep(set_back).await.unwrap());
        }
        store.close().await.unwrap();
        let store = open_at(&dir, 0, false);
        while store.upkeep(set_back).await.unwrap() {}
        assert!(!store.shared.counters.lock().reanchors);
        let page = all(&store).await;
        assert_eq!(page.hints.len(), EVENTS as usize);
        for hint in &page.hints {
            let n = u32::try_from(hint.event.0 - 1).unwrap();
            let delay = hint.due.since(set_back);
            let expected = SECOND * (3_600 + n);
            assert!(delay >= expected && delay < expected + 60 * SECOND, "{n}: {delay:?}");
        }

        // And again: it is all as it should be.
        store.shared.counters.lock().reanchors = true;
        let mut search = Search::default();
        let mut steps = Vec::new();
        while !matches!(steps.last(), Some(Archived::Reanchored)) {
            steps.extend(search.step(&store.shared).unwrap());
        }
        assert!(steps.iter().all(|step| matches!(step, Archived::Looked | Archived::Reanchored)), "{steps:?}");
        store.close().await.unwrap();
    }

    /// The search goes on beside what else is to be done, however long it takes.
    #[tokio::test]
    async fn the_search_holds_nothing_up() {
        let dir = TempDir::new().unwrap();
        let config = Config { hot_bytes_max: 1, audit_entries_max: 0, ..Config::default() };
        let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
        webhook(&store).await;
        let now = store.shared.clock.now();
        let ahead = now + Duration::from_hours(24 * 3_650);
        let later = |n: u32| Event { deliver_at: Some(ahead + SECOND), ..event(&format!("e-{n}")) };
        publish_all(&store, (0..600).map(later).collect(), ahead).await.unwrap();
        let entry = AuditEntry::new("m", Principal::Offline, now);
        store.audit(AuditStep::Begin(Box::new(entry))).await.unwrap();
        store.shared.counters.lock().reanchors = true;
        let steps: Vec<_> =
            (0..8).map(|_| store.archivist.step(&store.shared, now).unwrap().expect("there is much to do")).collect();
        let is_searching = |step: &Archived| matches!(step, Archived::Reanchor(_) | Archived::Looked);
        assert!(steps.iter().any(is_searching), "{steps:?}");
        assert!(steps.iter().any(|step| matches!(step, Archived::Moved(_))), "{steps:?}");
        assert!(steps.iter().any(|step| matches!(step, Archived::ForgetAudit(_))), "{steps:?}");
        store.close().await.unwrap();
    }

    /// The clock was ahead for less than the delays, so that what was mended looks like what was not.
    #[tokio::test]
    async fn what_was_put_off_for_longer_than_the_clock_was_ahead_is_mended_once() {
        const HOUR: Duration = Duration::from_hours(1);
        let delays = [HOUR, 10 * HOUR, 240 * HOUR];
        let dir = TempDir::new().unwrap();
        let store = open_ahead(&dir, by_hours, false);
        webhook(&store).await;
        let now = store.shared.clock.now();
        let later = |(n, delay): (usize, &Duration)| {
            let mut later = event(&format!("e-{n}"));
            later.deliver_at = Some(now + *delay);
            later
        };
        publish_all(&store, delays.iter().enumerate().map(later).collect(), now).await.unwrap();
        store.close().await.unwrap();
        let store = open_ahead(&dir, right, true);
        let set_back = store.shared.clock.now();
        while store.upkeep(set_back).await.unwrap() {}
        assert!(!store.shared.counters.lock().reanchors);
        let mut due: Vec<_> = all(&store).await.hints.iter().map(|hint| (hint.event.0, hint.due)).collect();
        due.sort_unstable();
        for ((_, due), delay) in due.into_iter().zip(delays) {
            let after = due.since(set_back);
            assert!(after >= delay && after < delay + 60 * SECOND, "{after:?} and not {delay:?}");
        }
        store.close().await.unwrap();
    }

    fn by_hours() -> SystemTime {
        right() + Duration::from_hours(3)
    }

    fn right() -> SystemTime {
        Clock::start().wall().system_time()
    }

    fn open_ahead(dir: &TempDir, wall: fn() -> SystemTime, confirm_clock: bool) -> RedbStore {
        let config = Config { confirm_clock, ..Config::default() };
        open(dir.path(), config, Arc::default(), Clock::following(wall)).unwrap()
    }
}
