//! Whether a store holds what it promised.

use std::collections::{BTreeMap, BTreeSet};

use ::redb::{ReadableTable as _, ReadableTableMetadata as _};
use rand::{rngs::StdRng, seq::IteratorRandom as _};

use super::{
    super::{RedbStore, check::check_open, tables},
    auditing,
    driver::{FAR, label_of},
    erasing,
    model::{Delivery, Fate, Model, Occurrence, Standing, duplicate, event, is_ordered, key},
    quotas, replaying,
};
use crate::{
    model::{
        delivery::DeliveryState,
        ids::{EventSeq, Position},
    },
    store::{
        CancelReason, DeliveryQuery, DeliveryView, FeedError, FeedFilter, LogEntry, Publish, Published, Store as _,
        StoreError,
    },
};

/// Commits after which every decision has been carried out.
const SLICES_MAX: usize = 1_000;

/// What a store was found to lack, or to have too much of.
#[derive(Debug)]
pub(super) struct Violation(pub(super) String);

impl From<StoreError> for Violation {
    fn from(error: StoreError) -> Self {
        Self(format!("the store cannot be read: {error}"))
    }
}

macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(Violation(format!($($why)*)));
        }
    };
}

/// Where deliveries stand in the lanes of a store: by label of event and webhook, and number of the replay.
type Lanes = BTreeMap<(u32, u32, u32), (u32, crate::model::time::Timestamp)>;

/// Checks a store against the model and returns the model with nothing left open: what was asked for and not answered has
/// happened or not, each as a whole.
pub(super) async fn verify(store: &RedbStore, model: &Model, rng: &mut StdRng) -> Result<Model, Violation> {
    let verified = verified(store, model.clone(), rng).await;
    verified.map_err(|Violation(why)| Violation(format!("{why}\nafter {:#?}", model.trail)))
}

async fn verified(store: &RedbStore, mut model: Model, rng: &mut StdRng) -> Result<Model, Violation> {
    erasing::settle(store, &mut model).await?;
    webhooks(store, &mut model)?;
    quotas::settle(store, &mut model)?;
    auditing::settle(store, &mut model).await?;
    carry_out_decisions(store).await?;
    fits_together(store)?;
    let mut lanes = lanes(store, &model).await?;
    let parked = parked(store, &model).await?;
    order(store, &lanes, &parked)?;
    lanes.extend(parked);
    let groups = replaying::settle(store, &mut model)?;
    stored(store, &mut model).await?;
    deliveries(&mut model, &lanes, groups)?;
    replaying::verify(store, &model)?;
    quotas::verify(store, &model).await?;
    counts(store, &model, &lanes).await?;
    log(store, &model).await?;
    history(store, &model, rng).await?;
    repeats(store, &model, rng).await?;
    erasing::verify(store, &model, rng).await?;
    Ok(model)
}

fn webhooks(store: &RedbStore, model: &mut Model) -> Result<(), Violation> {
    let mut there = BTreeSet::new();
    for registered in store.catalog().list(None, None, usize::MAX) {
        let webhook = registered.webhook;
        let hook =
            label_of(&webhook.settings.description).and_then(|label| Some((label, model.hooks.get_mut(&label)?)));
        let Some((label, hook)) = hook else { return Err(Violation(format!("{webhook:?} was never created"))) };
        there.insert(label);
        ensure!(!matches!(hook.deleted, Some((Fate::Done, ..))), "webhook {label} was deleted and is back");
        ensure!(hook.known.is_none_or(|known| known == (webhook.no, webhook.id)), "webhook {label} is another one");
        (hook.created, hook.known, hook.deleted) = (Fate::Done, Some((webhook.no, webhook.id)), None);
    }
    model.hooks.retain(|label, hook| hook.created == Fate::Done || there.contains(label));
    for (label, hook) in model.hooks.iter_mut().filter(|(label, _)| !there.contains(label)) {
        let Some((fate, ..)) = &mut hook.deleted else { return Err(Violation(format!("webhook {label} is lost"))) };
        *fate = Fate::Done;
    }
    Ok(())
}

/// Lets every wide event, every deletion and all clearing come to its end, slice by slice, one a commit.
async fn carry_out_decisions(store: &RedbStore) -> Result<(), Violation> {
    for _ in 0..SLICES_MAX {
        let (txn, _) = store.shared.read().map_err(StoreError::from)?;
        let open = |table: Result<u64, ::redb::Error>| table.map_err(|error| Violation(error.to_string()));
        let rows = |table| -> Result<u64, ::redb::Error> { Ok(txn.open_table(table)?.len()?) };
        let cancels = || -> Result<u64, ::redb::Error> { Ok(txn.open_table(tables::CANCELS)?.len()?) };
        let has_slices = !store.shared.fan_outs.read().is_empty() || store.shared.erasing.has_slices();
        if open(rows(tables::FAN_OUTS))? + open(cancels())? == 0 && !has_slices {
            return Ok(());
        }
        store.commit(store.owner(), Vec::new()).await?;
    }
    Err(Violation("decisions are never carried out".into()))
}

/// What `postriderd check` looks at, model or no model.
fn fits_together(store: &RedbStore) -> Result<(), Violation> {
    let (hot, _) = store.shared.read().map_err(StoreError::from)?;
    let findings = check_open(&hot, |file| store.shared.segments.read_file(file)).map_err(StoreError::from)?;
    ensure!(findings.is_empty(), "{findings}");
    Ok(())
}

/// Everything due, with its event whole.
async fn lanes(store: &RedbStore, model: &Model) -> Result<Lanes, Violation> {
    let mut lanes = Lanes::new();
    let mut whole = BTreeMap::new();
    for (&label, hook) in model.hooks.iter().filter(|(label, _)| model.lives(**label)) {
        let (no, _) = hook.known.ok_or_else(|| Violation(format!("webhook {label} has no number")))?;
        let page = store.due(no, FAR, 100_000).await?;
        for hint in page.hints {
            let found = match whole.get(&hint.event) {
                Some(found) => *found,
                None => whole_event(store, model, hint.event).await?,
            };
            whole.insert(hint.event, found);
            let before = lanes.insert((found, label, hint.replay), (hint.attempts.ended(), hint.due));
            ensure!(before.is_none(), "event {found} is due twice for webhook {label}");
        }
    }
    Ok(lanes)
}

/// Everything that waits behind another delivery, with its event whole.
async fn parked(store: &RedbStore, model: &Model) -> Result<Lanes, Violation> {
    let mut rows = Vec::new();
    {
        let (txn, _) = store.shared.read().map_err(StoreError::from)?;
        let table = txn.open_table(tables::PARKED).map_err(|error| Violation(error.to_string()))?;
        for row in table.iter().map_err(|error| Violation(error.to_string()))? {
            let (key, value) = row.map_err(|error| Violation(error.to_string()))?;
            rows.push((key.value(), value.value().1));
        }
    }
    let mut parked = Lanes::new();
    for ((no, event, replay), due) in rows {
        let hook = model.hooks.iter().find(|(_, hook)| hook.known.is_some_and(|(known, _)| known.0 == no));
        let Some((&hook, _)) = hook.filter(|(hook, _)| model.lives(**hook)) else {
            return Err(Violation(format!("event {event} waits at webhook {no}, which is gone")));
        };
        let label = whole_event(store, model, EventSeq(event)).await?;
        let time = crate::model::time::Timestamp::from_micros(due);
        parked.insert((label, hook, replay), (0, time));
    }
    Ok(parked)
}

/// With ordered webhooks, of each ordering key the first one published is due, and it alone; unless it was replayed when another one
/// was on its way already. Labels grow as events do.
fn order(store: &RedbStore, lanes: &Lanes, parked: &Lanes) -> Result<(), Violation> {
    let mut heads: BTreeMap<(u32, String), (u32, u32)> = BTreeMap::new();
    for &(event, hook, replay) in lanes.keys().filter(|(event, hook, _)| is_ordered(*hook) && !key(*event).is_empty()) {
        let before = heads.insert((hook, key(event)), (event, replay));
        ensure!(before.is_none(), "events {before:?} and {event} of one key are both due for webhook {hook}");
    }
    for &(event, hook, replay) in parked.keys() {
        ensure!(is_ordered(hook) && !key(event).is_empty(), "event {event} waits for nothing at webhook {hook}");
        let head = heads.get(&(hook, key(event)));
        let is_before = head.is_some_and(|(head, again)| *head < event || replay > 0 || *again > 0);
        ensure!(is_before, "event {event} waits at webhook {hook} behind {head:?}");
        ensure!(!lanes.contains_key(&(event, hook, replay)), "event {event} waits at webhook {hook} and is due");
    }
    let (txn, _) = store.shared.read().map_err(StoreError::from)?;
    let count = |rows: Result<u64, ::redb::Error>| rows.map_err(|error| Violation(error.to_string()));
    let counts = [
        count((|| Ok(txn.open_table(tables::QUEUES)?.len()?))())?,
        count((|| Ok(txn.open_table(tables::HEADS)?.len()?))())?,
        count((|| Ok(txn.open_table(tables::HEADS_BY_KEY)?.len()?))())?,
    ];
    let expected = [parked.len() as u64, heads.len() as u64, heads.len() as u64];
    ensure!(counts == expected, "queues and heads, both ways, are {counts:?}, not {expected:?}");
    Ok(())
}

/// The label of an event that is due, which must be there as it was published.
async fn whole_event(store: &RedbStore, model: &Model, seq: EventSeq) -> Result<u32, Violation> {
    let stored = store.events(&[seq], usize::MAX).await?.remove(0);
    let Some(stored) = stored else { return Err(Violation(format!("{seq:?} is due and lost"))) };
    let found = label_of(&stored.event.id.as_str()[1..]);
    let known = found.and_then(|label| Some((label, model.events.get(&label)?)));
    let Some((label, occurrence)) = known else {
        return Err(Violation(format!("{:?} was never published", stored.event.id)));
    };
    ensure!(stored.event == event(label, occurrence), "event {label} is not what it was");
    Ok(label)
}

/// An event that was published and not answered is stored or not.
async fn stored(store: &RedbStore, model: &mut Model) -> Result<(), Violation> {
    let open = model.events.iter().filter(|(_, event)| event.accepted == Fate::Open);
    let open: Vec<_> = open.map(|(label, event)| (*label, event.tenant)).collect();
    for (label, tenant) in open {
        let id = format!("e{label}").parse().expect("an id");
        if store.find_event(&tenant.parse().expect("a tenant"), &id).await?.is_some() {
            model.events.get_mut(&label).expect("just seen").accepted = Fate::Done;
        } else {
            model.events.remove(&label);
        }
    }
    Ok(())
}

/// Compares what is due with what should be, and settles what is open.
fn deliveries(model: &mut Model, lanes: &Lanes, mut groups: BTreeMap<u32, bool>) -> Result<(), Violation> {
    for (event, hook, replay) in lanes.keys() {
        let known = model.events.get(event).is_some_and(|event| event.deliveries.contains_key(&(*hook, *replay)));
        ensure!(known, "event {event} is due for webhook {hook} and was not published for it, nor by replay {replay}");
    }
    let lives: BTreeSet<u32> = model.hooks.keys().copied().filter(|hook| model.lives(*hook)).collect();
    for (label, event) in &mut model.events {
        for ((hook, replay), delivery) in event.deliveries.iter_mut().filter(|((hook, _), _)| lives.contains(hook)) {
            let standing = lanes.get(&(*label, *hook, *replay)).copied();
            let happened = settle(delivery, standing)
                .map_err(|why| Violation(format!("event {label} for webhook {hook}, replay {replay}: {why}")))?;
            if let Some((group, happened)) = happened {
                let others = *groups.entry(group).or_insert(happened);
                ensure!(others == happened, "half of group {group} was committed");
            }
        }
    }
    // What went with its webhook: whether it was committed before no longer shows.
    for delivery in model.events.values_mut().flat_map(|event| event.deliveries.values_mut()) {
        if let Some((_, attempt)) = delivery.open.take_if(|(group, _)| groups.get(group).copied().unwrap_or(false)) {
            delivery.apply(attempt);
        }
        delivery.open = None;
    }
    Ok(())
}

/// Whether the attempt that is open was committed, with its group.
fn settle(delivery: &Delivery, standing: Standing) -> Result<Option<(u32, bool)>, String> {
    let before = delivery.before();
    match (delivery.open, delivery.after()) {
        (Some((group, _)), Some(after)) if standing == after => Ok(Some((group, true))),
        (Some((group, _)), _) if standing == before => Ok(Some((group, false))),
        (None, _) if standing == before => Ok(None),
        (open, _) => Err(format!("stands {standing:?}, should stand {before:?} (open: {open:?})")),
    }
}

async fn counts(store: &RedbStore, model: &Model, lanes: &Lanes) -> Result<(), Violation> {
    let mut sum = 0;
    for (label, hook) in model.hooks.iter().filter(|(label, _)| model.lives(**label)) {
        let (no, _) = hook.known.ok_or_else(|| Violation(format!("webhook {label} has no number")))?;
        let (counted, expected) = (store.counts(&[no]).await?[0], model.counts(*label));
        ensure!(counted == expected, "webhook {label} counts {counted:?}, not {expected:?}");
        let due = lanes.keys().filter(|(_, hook, _)| hook == label).count() as u64;
        let counted = hook.known.and_then(|(no, _)| store.catalog().webhook(no)).map(|known| known.pending());
        ensure!(counted == Some(due), "webhook {label} counts {counted:?} pending deliveries and has {due}");
        sum += due;
    }
    let counted = store.shared.counters.lock().pending;
    ensure!(counted == sum, "{counted} deliveries are counted as pending, and {sum} are");
    Ok(())
}

/// The whole log, from the oldest entry retained: no gap.
async fn entries(store: &RedbStore) -> Result<Vec<LogEntry>, Violation> {
    let (head, filter) = (*store.head().borrow(), FeedFilter::default());
    let mut place = Position(0);
    let mut entries = Vec::new();
    while place < head {
        let page = match store.feed(place, &filter, 500).await {
            Ok(page) => page,
            Err(FeedError::Expired { oldest }) if place == Position(0) => {
                place = oldest;
                continue;
            }
            Err(error) => return Err(Violation(format!("the log cannot be read after {place:?}: {error}"))),
        };
        ensure!(page.position > place, "the log has a gap after {place:?}, its head is {head:?}");
        place = page.position;
        entries.extend(page.entries);
    }
    ensure!(place == head, "the log ends at {place:?}, its head is {head:?}");
    Ok(entries)
}

/// In the log nothing is twice, nothing made up, nothing acknowledged left out.
async fn log(store: &RedbStore, model: &Model) -> Result<(), Violation> {
    let (mut outcomes, mut cancelled): (BTreeMap<_, u32>, BTreeMap<_, u64>) = (BTreeMap::new(), BTreeMap::new());
    let mut requested: BTreeMap<_, u64> = BTreeMap::new();
    for entry in entries(store).await? {
        match entry {
            LogEntry::Outcome(outcome) => {
                let hook =
                    model.hooks.iter().find(|(_, hook)| hook.known.is_some_and(|(no, _)| no == outcome.key.webhook));
                let event = label_of(&outcome.event_id.as_str()[1..]);
                let (Some((hook, known)), Some(event)) = (hook, event) else {
                    return Err(Violation(format!("{outcome:?} is nobody's")));
                };
                let sending = (*hook, outcome.key.replay);
                let is_erased = known.erased || model.events.get(&event).is_some_and(|event| event.erased);
                ensure!(!is_erased, "event {event} was erased, and attempt {} for {hook} is back", outcome.attempt);
                let last = outcomes.insert((event, sending), outcome.attempt);
                let in_order = last.is_none_or(|last| last + 1 == outcome.attempt);
                ensure!(in_order, "attempt {} of {event} for {hook} comes after {last:?}", outcome.attempt);
                let index = outcome.attempt as usize - 1;
                let delivery = model.events.get(&event).and_then(|event| event.deliveries.get(&sending));
                let made = delivery.and_then(|delivery| delivery.attempts.get(index));
                let made = made.is_some_and(|made| (made.time, made.state) == (outcome.time, outcome.state));
                ensure!(made || known.deleted.is_some(), "attempt {} of {event} for {hook} was never made", index + 1);
            }
            LogEntry::Operational(_) => {}
            LogEntry::WebhookCancelled(entry) if entry.reason == CancelReason::Requested => {
                *requested.entry(entry.webhook).or_default() += entry.deliveries;
            }
            LogEntry::WebhookCancelled(entry) => {
                let before = cancelled.insert(entry.webhook, entry.deliveries);
                ensure!(before.is_none(), "{} is cancelled twice", entry.webhook);
            }
        }
    }
    for (label, event) in model.events.iter().filter(|(_, event)| !event.erased) {
        for (sending, delivery) in &event.deliveries {
            let made = delivery.attempts.last().filter(|last| last.time > model.horizon());
            let logged = outcomes.get(&(*label, *sending)).map_or(0, |&attempts| attempts as usize);
            ensure!(
                made.is_none() || logged >= delivery.attempts.len(),
                "attempts of {label} for {sending:?} are not logged"
            );
        }
    }
    for (label, hook) in model.hooks.iter().filter(|(label, _)| model.lives(**label)) {
        let Some((_, id)) = hook.known else { continue };
        let logged = requested.get(&id).copied().unwrap_or(0);
        let times = || model.events.values().flat_map(|event| event.to(*label)).filter_map(|it| it.cancelled);
        let (least, most) = (times().filter(|time| *time > model.horizon()).count() as u64, times().count() as u64);
        ensure!((least..=most).contains(&logged), "webhook {label}: logged {logged} cancelled, {least} to {most} were");
    }
    for (label, hook) in model.hooks.iter().filter(|(_, hook)| !hook.erased) {
        if let (Some((_, time, pending)), Some((_, id))) = (hook.deleted, hook.known)
            && time > model.horizon()
        {
            let logged = cancelled.get(&id).copied();
            let expected = (pending > 0).then_some(pending);
            ensure!(logged == expected, "deletion of {label}: logged {logged:?}, {pending} were pending");
        }
    }
    Ok(())
}

/// Some deliveries, whole: state and attempts.
async fn history(store: &RedbStore, model: &Model, rng: &mut StdRng) -> Result<(), Violation> {
    let is_kept = |event: &Occurrence| event.time > model.horizon() && !event.erased;
    let recent = |event: &Occurrence| is_kept(event) && !event.deliveries.is_empty();
    for (label, event) in model.events.iter().filter(|(_, event)| recent(event)).sample(rng, 6) {
        let id = format!("e{label}").parse().expect("an id");
        let query = DeliveryQuery { event: Some(id), ..DeliveryQuery::default() };
        let listed = store.list(&query, None, 1_000).await?.deliveries;
        for ((hook, replay), delivery) in &event.deliveries {
            let id = model.hooks.get(hook).and_then(|hook| hook.known).map(|(_, id)| id);
            let found = listed.iter().find(|listed| Some(listed.webhook) == id && listed.key.replay == *replay);
            let Some(found) = found else {
                return Err(Violation(format!("the delivery of {label} for {hook}, replay {replay}, is lost")));
            };
            let state = delivery.state();
            let cancelled = state == DeliveryState::Pending && !model.lives(*hook);
            let state = DeliveryView::State(if cancelled { DeliveryState::Cancelled } else { state });
            ensure!(found.state == state, "the delivery of {label} for {hook} stands {:?}, not {state:?}", found.state);
            let attempts = found.attempts as usize;
            ensure!(attempts == delivery.attempts.len(), "the delivery of {label} for {hook} has {attempts} attempts");
        }
        if let Some(any) = listed.iter().choose(rng) {
            let detail = store.get(any.id).await?;
            let Some(detail) = detail else { return Err(Violation(format!("a delivery of {label} is lost"))) };
            ensure!(detail.attempts.len() == any.attempts as usize, "attempts of {label} are lost: {detail:?}");
        }
    }
    Ok(())
}

/// What was accepted is known; under its id nothing else can be published.
async fn repeats(store: &RedbStore, model: &Model, rng: &mut StdRng) -> Result<(), Violation> {
    let kept = model.events.iter().filter(|(_, event)| model.is_kept(event));
    let kept: Vec<_> = kept.sample(rng, 30);
    let mut batch: Vec<_> = kept.iter().map(|(label, occurrence)| published(store, **label, occurrence)).collect();
    let mut expected: Vec<_> = kept.iter().map(|(_, occurrence)| duplicate(occurrence)).collect();
    if let Some(first) = batch.first().cloned() {
        let event = crate::model::event::Event { body: bytes::Bytes::from_static(b"{}"), ..first.event };
        batch.push(Publish { event, ..first });
        expected.push(Published::Conflict);
    }
    let answers = store.publish(batch).await?;
    for ((answer, expected), (label, occurrence)) in answers.iter().zip(&expected).zip(&kept) {
        ensure!(answer == expected, "event {label} was answered {answer:?}, not {expected:?}: {occurrence:?}");
    }
    ensure!(answers == expected, "an id was given away");
    Ok(())
}

fn published(store: &RedbStore, label: u32, occurrence: &Occurrence) -> Publish {
    let event = event(label, occurrence);
    let targets = store.catalog().targets(&event);
    Publish { event, targets, accept_time: occurrence.time }
}
