//! What stages read: due deliveries, bodies, the log. Everything here is short and bounded, and may block on the disk.

use std::{collections::HashSet, ops::RangeInclusive, sync::Arc};

use ::redb::{ReadOnlyTable, ReadTransaction, ReadableTable as _, TableError};
use bytes::Bytes;

use super::{
    config::{answer_again, request_key},
    drops::drop_of,
    error::EngineError,
    ready::Noted,
    records::{EventChunk, EventRecord, LogChunk, RequestRecord, WebhookRecord, event_key},
    shared::Shared,
    tables::{self, LaneRow},
};
use crate::{
    limits::{FEED_EXAMINED_MAX, REQUEST_ID_WINDOW},
    model::{
        delivery::Attempts,
        event::StoredEvent,
        failing::Failing,
        ids::{ConfigSeq, EventId, EventSeq, Position, Tenant, WebhookNo},
        time::Timestamp,
    },
    store::types::{
        ConfigAnswer, ConfigPage, ConfigStep, DuePage, FeedError, FeedFilter, FeedPage, Hint, LaneDue, LanePage,
        LogEntry, RequestKey, StoreError,
    },
};

/// Webhooks with work, by seeking from one to the next.
pub(super) fn lanes(shared: &Shared, after: Option<WebhookNo>, limit: usize) -> Result<LanePage, EngineError> {
    let drops = shared.drops_anything();
    let mut from = after.map_or(0, |no| no.0 + 1);
    let (as_of, notes) = (shared.as_of(), shared.batches.read().first_of_each(from, limit));
    let (txn, _) = shared.read()?;
    let (ready, scheduled) = (txn.open_table(tables::READY)?, txn.open_table(tables::SCHEDULED)?);
    let now = shared.clock.now().micros();
    // Behind the last one there may be more of them.
    let noted_until = notes.arrived.last().filter(|_| notes.arrived.len() == limit).map(|((no, ..), _)| *no);
    let mut arrived = notes.arrived.iter().map(|((no, ..), time)| (*no, *time)).peekable();
    let mut page = LanePage { lanes: Vec::new(), next: None, as_of };
    while page.lanes.len() < limit {
        let first_ready = first_but(&ready, (from, 0, 0)..=(u64::MAX, u64::MAX, u32::MAX), &notes)?;
        let first_scheduled = scheduled.range((from, i64::MIN, 0, 0)..)?.next().transpose()?;
        let first_scheduled = first_scheduled.map(|(key, _)| (key.value().0, key.value().1));
        while arrived.next_if(|(no, _)| *no < from).is_some() {}
        let firsts = [first_ready, arrived.peek().copied()].map(|first| first.map(|(no, time)| (no, time.min(now))));
        let firsts = [firsts[0], firsts[1], first_scheduled];
        let no = firsts.iter().flatten().map(|first| first.0).min();
        let Some(no) = no.filter(|no| noted_until.is_none_or(|last| *no <= last)) else {
            page.next = noted_until.map(WebhookNo);
            return Ok(page);
        };
        let mut due = firsts.iter().flatten().filter(|first| first.0 == no).map(|first| first.1).min();
        if let Some(drop) = drop_of(&txn, drops, WebhookNo(no))? {
            due = first_due_above(shared, no, drop.below)?.map(|due| due.min(now));
        }
        // A deleted webhook's rows are on their way out.
        if let Some(due) = due.filter(|_| shared.catalog.webhook(WebhookNo(no)).is_some()) {
            let first_due = Timestamp::from_micros(due);
            page.lanes.push(LaneDue { webhook: WebhookNo(no), first_due });
        }
        from = no + 1;
        page.next = Some(WebhookNo(no));
    }
    Ok(page)
}

/// The first of these that has not left: its webhook, and when it was accepted.
fn first_but(
    ready: &ReadOnlyTable<LaneRow, i64>,
    rows: RangeInclusive<LaneRow>,
    notes: &Noted,
) -> Result<Option<(u64, i64)>, EngineError> {
    for row in ready.range(rows)? {
        let (key, time) = row?;
        if !notes.left.contains(&key.value()) {
            return Ok(Some((key.value().0, time.value())));
        }
    }
    Ok(None)
}

/// When the first delivery of a webhook is due that was not dropped with those below an event.
fn first_due_above(shared: &Shared, no: u64, below: u64) -> Result<Option<i64>, EngineError> {
    let notes = shared.batches.read().first_of(no, below, 1);
    let (txn, _) = shared.read()?;
    let (ready, scheduled) = (txn.open_table(tables::READY)?, txn.open_table(tables::SCHEDULED)?);
    let first_ready = first_but(&ready, (no, below, 0)..=(no, u64::MAX, u32::MAX), &notes)?;
    let arrived = notes.arrived.first().map(|(_, time)| *time);
    let mut first = first_ready.map(|(_, time)| time).into_iter().chain(arrived).min();
    // Few were dropped of what is scheduled, which is what was tried already when the webhook was disabled.
    for row in scheduled.range((no, i64::MIN, 0, 0)..=(no, i64::MAX, u64::MAX, u32::MAX))? {
        let (_, due, event, _) = row?.0.value();
        if event >= below {
            first = Some(first.map_or(due, |first| first.min(due)));
            break;
        }
    }
    Ok(first)
}

/// The first deliveries of one webhook: those never attempted and those due again, merged by time.
pub(super) fn due(shared: &Shared, no: WebhookNo, horizon: Timestamp, limit: usize) -> Result<DuePage, EngineError> {
    let drops = shared.drops_anything();
    // Some of them may have been dropped.
    let most = if drops { usize::MAX } else { limit + 1 };
    let (as_of, notes) = (shared.as_of(), shared.batches.read().first_of(no.0, 0, most));
    let (txn, _) = shared.read()?;
    let mut page = DuePage { hints: Vec::new(), more: false, next_due: None, as_of };
    if shared.catalog.webhook(no).is_none() {
        return Ok(page);
    }
    let below = drop_of(&txn, drops, no)?.map_or(0, |drop| drop.below);
    let WebhookNo(no) = no;
    // The clock may have been set back since; what was accepted is due.
    let now = shared.clock.now();
    let first_attempt = |(_, event, replay): LaneRow, accept_time| {
        let due = Timestamp::from_micros(accept_time).min(now);
        Hint { event: EventSeq(event), replay, attempts: Attempts::default(), due }
    };
    let arrived = notes.arrived.iter().filter(|((_, event, _), _)| *event >= below).take(limit + 1);
    let known: HashSet<_> = arrived.clone().map(|(row, _)| *row).collect();
    page.hints.extend(arrived.map(|&(row, time)| first_attempt(row, time)));
    let ready = txn.open_table(tables::READY)?;
    let mut taken = 0;
    for row in ready.range((no, below, 0)..=(no, u64::MAX, u32::MAX))? {
        let (key, accept_time) = row?;
        if notes.left.contains(&key.value()) || known.contains(&key.value()) {
            continue;
        }
        page.hints.push(first_attempt(key.value(), accept_time.value()));
        taken += 1;
        if taken > limit {
            break;
        }
    }
    let scheduled = txn.open_table(tables::SCHEDULED)?;
    let range = (no, i64::MIN, 0, 0)..=(no, i64::MAX, u64::MAX, u32::MAX);
    let mut taken = 0;
    for row in scheduled.range(range)? {
        let (key, attempts) = row?;
        let (_, due, event, replay) = key.value();
        if event < below {
            continue;
        }
        if taken > limit {
            break;
        }
        taken += 1;
        let due = Timestamp::from_micros(due);
        if due > horizon {
            page.next_due = Some(due);
            break;
        }
        page.hints.push(Hint { event: EventSeq(event), replay, attempts: Attempts::from_bits(attempts.value()), due });
    }
    page.hints.sort_by_key(|hint| (hint.due, hint.event, hint.replay));
    page.more = page.hints.len() > limit;
    page.hints.truncate(limit);
    Ok(page)
}

/// Events by number from memory alone; `None`: some must be read.
pub(super) fn cached_events(
    shared: &Shared,
    seqs: &[EventSeq],
    bytes_max: usize,
) -> Result<Option<Vec<Option<StoredEvent>>>, EngineError> {
    let chunks: Option<Vec<_>> = {
        let cache = shared.chunks.lock();
        seqs.iter().map(|&seq| cache.find(seq)).collect()
    };
    let Some(chunks) = chunks else { return Ok(None) };
    let mut chunks = chunks.into_iter();
    let cached = |seq| {
        let (first, chunk) = chunks.next().expect("one for each");
        let event = in_chunk(&chunk, first, seq)?.filter(|event| !shared.erasing.hides_event(seq, event.tenant()));
        event.map(|event| event.content(seq)).transpose().map_err(EngineError::from)
    };
    as_fits(seqs, bytes_max, cached).map(Some)
}

/// Events by number.
pub(super) fn events(
    shared: &Shared,
    seqs: &[EventSeq],
    bytes_max: usize,
) -> Result<Vec<Option<StoredEvent>>, EngineError> {
    as_fits(seqs, bytes_max, |seq| {
        let record = event(shared, seq)?;
        record.map(|record| record.content(seq)).transpose().map_err(EngineError::from)
    })
}

/// The first events, up to this weight; at least one. An event that cannot be read is an error only if it is the first: it is no
/// trouble of those before it.
fn as_fits(
    seqs: &[EventSeq],
    bytes_max: usize,
    mut read: impl FnMut(EventSeq) -> Result<Option<StoredEvent>, EngineError>,
) -> Result<Vec<Option<StoredEvent>>, EngineError> {
    let mut events = Vec::with_capacity(seqs.len());
    let mut bytes = 0;
    for &seq in seqs {
        let event = match read(seq) {
            Err(_) if !events.is_empty() => break,
            read => read?,
        };
        bytes += event.as_ref().map_or(0, |stored| stored.event.weight_bytes());
        if bytes > bytes_max && !events.is_empty() {
            break;
        }
        events.push(event);
    }
    Ok(events)
}

/// One event with its targets, wherever it lies, unless it is erased.
pub(super) fn event(shared: &Shared, seq: EventSeq) -> Result<Option<EventRecord>, EngineError> {
    Ok(any_event(shared, seq)?.filter(|event| !shared.erasing.hides_event(seq, event.tenant())))
}

/// One event with its targets, as long as something is left of it.
pub(super) fn any_event(shared: &Shared, seq: EventSeq) -> Result<Option<EventRecord>, EngineError> {
    if let Some((first, chunk)) = chunk(shared, seq)? {
        return in_chunk(&chunk, first, seq);
    }
    let (txn, _) = shared.read()?;
    let rescued = txn.open_table(tables::RESCUED)?.get(seq.0)?;
    Ok(rescued.map(|bytes| EventRecord::decode_from(Bytes::copy_from_slice(bytes.value()))).transpose()?)
}

/// An event by its id.
pub(super) fn find_event(shared: &Shared, tenant: &Tenant, id: &EventId) -> Result<Option<StoredEvent>, EngineError> {
    let Some(seq) = event_seq(shared, tenant, id)? else { return Ok(None) };
    Ok(event(shared, seq)?.map(|record| record.content(seq)).transpose()?)
}

/// The number of an event, if there is or was one of this id.
pub(super) fn event_seq(shared: &Shared, tenant: &Tenant, id: &EventId) -> Result<Option<EventSeq>, EngineError> {
    let key = event_key(id.as_str(), tenant.as_str());
    let in_hot = shared.read()?.0.open_table(tables::EVENT_IDS)?.get(key.as_slice())?.map(|found| found.value());
    let found = match in_hot {
        Some(found) => Some(found),
        None => shared.segments.find_event(&key)?,
    };
    Ok(found.map(|(seq, ..)| EventSeq(seq)))
}

/// The chunk that holds an event, with its first event's number: from memory, from the hot store, or from its segment.
pub(super) fn chunk(shared: &Shared, seq: EventSeq) -> Result<Option<(EventSeq, Arc<EventChunk>)>, EngineError> {
    let (cached, forgotten) = {
        let cache = shared.chunks.lock();
        (cache.find(seq), cache.forgotten())
    };
    if cached.is_some() {
        return Ok(cached);
    }
    let mut found = chunk_in(&shared.read()?.0, seq)?;
    if found.is_none()
        && let Some(segment) = shared.segments.of_event(seq)
    {
        found = chunk_in(&*shared.segments.read(segment.no)?, seq)?;
    }
    let Some((first, encoded)) = found else { return Ok(None) };
    let bytes = encoded.len();
    let chunk = Arc::new(EventChunk::decode_from(encoded)?);
    if seq.0 - first.0 >= chunk.len() as u64 {
        return Ok(None);
    }
    shared.chunks.lock().read(first, chunk.clone(), bytes, forgotten);
    Ok(Some((first, chunk)))
}

fn chunk_in(txn: &ReadTransaction, seq: EventSeq) -> Result<Option<(EventSeq, Bytes)>, EngineError> {
    let table = match txn.open_table(tables::EVENT_CHUNKS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let row = table.range(..=seq.0)?.next_back().transpose()?;
    Ok(row.map(|(first, bytes)| (EventSeq(first.value()), Bytes::copy_from_slice(bytes.value()))))
}

/// An event of a chunk that has a place for it; `None`: it was erased.
fn in_chunk(chunk: &EventChunk, first: EventSeq, seq: EventSeq) -> Result<Option<EventRecord>, EngineError> {
    let index = usize::try_from(seq.0 - first.0).map_err(|_| EngineError::Lost)?;
    Ok(chunk.event(index).transpose()?)
}

/// Log entries from memory alone; `None`: they must be read.
pub(super) fn cached_feed(
    shared: &Shared,
    after: Position,
    filter: &FeedFilter,
    limit: usize,
) -> Result<Option<FeedPage>, FeedError> {
    // The ring first, and by its own end: it is filled a moment before the head is announced.
    let recent = shared.recent.lock();
    if after > recent.head() {
        return Err(FeedError::Unknown);
    }
    Ok(recent.page(after, filter, limit))
}

/// Log entries after a place.
pub(super) fn feed(shared: &Shared, after: Position, filter: &FeedFilter, limit: usize) -> Result<FeedPage, FeedError> {
    let head = *shared.head.borrow();
    let oldest = Position(shared.counters.lock().log_from.saturating_sub(1));
    if after < oldest {
        return Err(FeedError::Expired { oldest });
    }
    let mut page = FeedPage { entries: Vec::new(), position: after };
    let mut examined = 0;
    while page.position < head && page.entries.len() < limit && examined < FEED_EXAMINED_MAX {
        let next = Position(page.position.0 + 1);
        let Some((first, chunk)) = log_chunk(shared, next).map_err(StoreError::from)? else {
            // Retention removed it just now.
            let oldest = Position(shared.counters.lock().log_from.saturating_sub(1));
            if page.position < oldest && page.entries.is_empty() {
                return Err(FeedError::Expired { oldest });
            }
            return Ok(page);
        };
        let skip = usize::try_from(next.0 - first.0).unwrap_or(usize::MAX);
        for record in chunk.entries.into_iter().skip(skip) {
            if page.position >= head || page.entries.len() >= limit {
                break;
            }
            page.position.0 += 1;
            examined += 1;
            let entry = record.shown(&shared.sealer).map_err(EngineError::from).map_err(StoreError::from)?;
            let entry = entry.filter(|entry| filter.passes(entry) && !shared.erasing.hides_entry(entry));
            page.entries.extend(entry.map(LogEntry::without_exchange));
        }
    }
    Ok(page)
}

/// One entry of the log, if it is retained.
pub(super) fn entry(shared: &Shared, at: Position) -> Result<Option<LogEntry>, EngineError> {
    let Some((first, chunk)) = log_chunk(shared, at)? else { return Ok(None) };
    let index = usize::try_from(at.0 - first.0).unwrap_or(usize::MAX);
    match chunk.entries.into_iter().nth(index) {
        Some(record) => Ok(record.shown(&shared.sealer)?),
        None => Ok(None),
    }
}

/// The chunk that holds an entry, with the number of its first.
fn log_chunk(shared: &Shared, entry: Position) -> Result<Option<(Position, LogChunk)>, EngineError> {
    let mut found = log_chunk_in(&shared.read()?.0, entry)?;
    if found.is_none()
        && let Some(segment) = shared.segments.of_entry(entry)
    {
        found = log_chunk_in(&*shared.segments.read(segment.no)?, entry)?;
    }
    let Some((first, encoded)) = found else { return Ok(None) };
    let chunk = LogChunk::decode_from(encoded)?;
    let holds = entry.0 - first.0 < chunk.entries.len() as u64;
    Ok(holds.then_some((first, chunk)))
}

fn log_chunk_in(txn: &ReadTransaction, entry: Position) -> Result<Option<(Position, Bytes)>, EngineError> {
    let table = match txn.open_table(tables::LOG) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let row = table.range(..=entry.0)?.next_back().transpose()?;
    Ok(row.map(|(first, bytes)| (Position(first.value()), Bytes::copy_from_slice(bytes.value()))))
}

/// Changes of configuration: the latest one of each webhook.
pub(super) fn config_since(shared: &Shared, after: ConfigSeq, limit: usize) -> Result<ConfigPage, EngineError> {
    let (txn, _) = shared.read()?;
    let (log, webhooks) = (txn.open_table(tables::CONFIG_LOG)?, txn.open_table(tables::WEBHOOKS)?);
    let mut page = ConfigPage { steps: Vec::new(), more: false };
    for row in log.range(after.0 + 1..)? {
        if page.steps.len() == limit {
            page.more = true;
            break;
        }
        let (seq, no) = row?;
        let step = match webhooks.get(no.value())? {
            Some(bytes) => ConfigStep::Put(WebhookRecord::decode_from(bytes.value())?.webhook(shared.webhook_vault())?),
            None => ConfigStep::Removed(WebhookNo(no.value())),
        };
        page.steps.push((ConfigSeq(seq.value()), step));
    }
    Ok(page)
}

/// The webhooks that fail continuously.
pub(super) fn failing(shared: &Shared) -> Result<Vec<(WebhookNo, Failing)>, EngineError> {
    let (txn, _) = shared.read()?;
    let mut all = Vec::new();
    for row in txn.open_table(tables::FAILING)?.iter()? {
        let (no, value) = row?;
        let (since, hour, hours) = value.value();
        all.push((WebhookNo(no.value()), Failing { since: Timestamp::from_micros(since), hour, hours }));
    }
    Ok(all)
}

/// What a request was answered before, if that is remembered.
pub(super) fn answered(
    shared: &Shared,
    tenant: &Tenant,
    request: &RequestKey,
    now: Timestamp,
) -> Result<Option<ConfigAnswer>, EngineError> {
    if shared.erasing.has_tenant(tenant) {
        return Ok(None);
    }
    let (txn, _) = shared.read()?;
    let known = txn.open_table(tables::REQUESTS)?.get(request_key(tenant, &request.id).as_slice())?;
    let known = known.map(|bytes| RequestRecord::decode_from(bytes.value())).transpose()?;
    let known = known.filter(|known| now.since(Timestamp::from_micros(known.time)) < REQUEST_ID_WINDOW);
    known.map(|known| answer_again(shared, known, request.hash)).transpose()
}
