//! Where events of a time lie, by number: found by halving, not by walking.
//!
//! Events are numbered in the order of their commits, which is nearly, not quite, the order in which they were accepted: many are
//! accepted at once, and clocks are set back by a little. The store knows by how much the two differ at most, its *disorder*. If an event
//! was accepted more than that after a time, so were all with higher numbers; if more than that before, so were all with lower
//! ones. Where the clock was set back by more than minutes another part begins, which is searched by itself.
//!
//! Invariant: the range that is returned may hold too much, never too little.

use std::{ops::Range, time::Duration};

use super::{error::EngineError, reads, shared::Shared};
use crate::model::{ids::EventSeq, time::Timestamp};

/// Numbers of events outside which none was accepted at `from` or later and before `until`.
pub(super) fn between(
    shared: &Shared,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<Range<u64>, EngineError> {
    let (next_event, disorder) = {
        let counters = shared.counters.lock();
        (counters.next_event, counters.disorder())
    };
    let mut found: Option<Range<u64>> = None;
    for part in shared.set_backs.parts(next_event) {
        let is_in_order = shared.set_backs.is_in_order(part.start);
        let range = if is_in_order {
            narrowed(shared, part, from, until.map(|until| until + disorder), disorder)?
        } else {
            part
        };
        found = Some(match found {
            Some(found) if range.is_empty() => found,
            Some(found) if !found.is_empty() => found.start..range.end,
            Some(_) | None => range,
        });
    }
    Ok(found.unwrap_or(0..0))
}

/// What is left of a part in which the order of numbers is that of acceptance, but for `disorder`; `until` allows for that.
fn narrowed(
    shared: &Shared,
    mut range: Range<u64>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    disorder: Duration,
) -> Result<Range<u64>, EngineError> {
    if let Some(until) = until {
        let mut low = range.start;
        while low < range.end {
            let middle = low + (range.end - low) / 2;
            match first_from(shared, middle, range.end)? {
                Some((seq, time)) if time >= until => range.end = seq,
                Some((seq, _)) => low = seq + 1,
                // Nothing that is known to be there; it is left in.
                None => break,
            }
        }
    }
    if let Some(from) = from {
        let is_before = |time| time + disorder < from;
        let mut high = range.end;
        while range.start < high {
            let middle = range.start + (high - range.start) / 2;
            match first_from(shared, middle, high)? {
                Some((seq, time)) if is_before(time) => range.start = seq + 1,
                Some(_) | None => high = middle,
            }
        }
    }
    Ok(range)
}

/// The event of this number, or else the first one after the gap it lies in; not beyond `until`. With the time of its acceptance.
fn first_from(shared: &Shared, seq: u64, until: u64) -> Result<Option<(u64, Timestamp)>, EngineError> {
    if let Some(time) = accepted(shared, seq)? {
        return Ok(Some((seq, time)));
    }
    let hot = shared.counters.lock().hot_events_from;
    let segments = shared.segments.all();
    let places = segments.iter().map(|segment| segment.record.events_from).chain([hot]);
    let Some(next) = places.filter(|&first| first > seq && first < until).min() else { return Ok(None) };
    Ok(accepted(shared, next)?.map(|time| (next, time)))
}

fn accepted(shared: &Shared, seq: u64) -> Result<Option<Timestamp>, EngineError> {
    let Some((first, chunk)) = reads::chunk(shared, EventSeq(seq))? else { return Ok(None) };
    let index = usize::try_from(seq - first.0).map_err(|_| EngineError::Lost)?;
    Ok(chunk.event(index).transpose()?.map(|record| record.accept_time()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::{
        super::{
            Config, open,
            tests::{event, publish_all, webhook},
        },
        *,
    };
    use crate::{clock::Clock, store::Store as _};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000) + Duration::from_secs(seconds)
    }

    /// Of events that come in order only those of the time are left, wherever they lie; of others, few more.
    #[tokio::test]
    async fn a_time_is_found_and_not_walked_to() {
        for disorder in [0, 5] {
            let dir = TempDir::new().unwrap();
            let config = Config { hot_bytes_max: 3_000, retention: Duration::from_hours(16), ..Config::default() };
            let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
            webhook(&store).await;
            for n in 0..300_u64 {
                let time = at(100 * n + if n.is_multiple_of(2) { 0 } else { 100 + disorder });
                publish_all(&store, vec![event(&format!("e-{n}"))], time).await.unwrap();
                while store.upkeep(time).await.unwrap() {}
            }
            assert!(store.shared.segments.all().len() > 3);
            assert!(store.shared.counters.lock().hot_events_from < 290, "some are in the hot store");
            for (from, until) in [(0, 1_000), (5_000, 6_000), (15_050, 15_060), (29_000, 40_000), (40_000, 50_000)] {
                let found = between(&store.shared, Some(at(from)), Some(at(until))).unwrap();
                let is_within = |n: &u64| {
                    let time = 100 * n + if n.is_multiple_of(2) { 0 } else { 100 + disorder };
                    (from..until).contains(&time)
                };
                let wanted: Vec<u64> = (0..300).filter(is_within).map(|n| n + 1).collect();
                assert!(wanted.iter().all(|seq| found.contains(seq)), "{wanted:?} in {found:?}");
                assert!(found.end.saturating_sub(found.start) <= wanted.len() as u64 + 4, "{found:?} for {wanted:?}");
            }
            assert_eq!(between(&store.shared, None, None).unwrap(), 0..301);
            store.close().await.unwrap();
        }
    }
}
