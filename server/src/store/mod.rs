//! The store seam: everything above speaks to [`Store`], in batches, and sees no engine.
//!
//! What an engine must keep, and `tests/` checks of any of them:
//!
//! - An event that [`Store::publish`] answered `New` is durable together with the list of webhooks it goes to.
//! - A delivery is *due* from that moment until an outcome that ends it is committed; [`Store::due`] never forgets one.
//! - Entries of the outcome log are numbered without gaps and become visible in order.
//! - Configuration changes have one total order; reads see a decision as soon as its change is answered.

mod audit;
mod catalog;
mod counts;
mod erase;
mod event_types;
#[cfg(test)]
pub(crate) mod fake;
mod keyring;
mod listing;
mod matching;
mod quotas;
pub mod redb;
mod repair;
mod replays;
mod tls_shelf;
mod troubles;
mod types;
mod usage;

pub use audit::{AuditPage, AuditStep};
pub use catalog::{Catalog, Registered};
pub use counts::Counts;
pub use erase::{Erase, Erased};
pub use keyring::{KeyAnswer, KeyChange, KeyStep, Keyring, KnownKey, Validity};
pub use listing::{WebhookOrder, WebhookPlace, WebhookRun, folded};
pub use quotas::{QuotaAnswer, QuotaChange, QuotaStep, Quotas};
pub use repair::{Repair, Repaired};
pub use replays::{ReplayAnswer, ReplayChange, ReplayPage, Replays};
pub use tls_shelf::{TlsBytes, TlsChange};
pub use troubles::FilterTroubles;
pub use types::*;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::model::{
    audit::{AuditNo, AuditQuery},
    erasure::Erasure,
    event::StoredEvent,
    failing::Failing,
    ids::{ConfigSeq, DeliveryId, ErasureId, EventId, EventSeq, Position, Tenant, WebhookNo},
    replay::Replay,
    seal::Sealer,
    time::Timestamp,
};

/// A durable store of webhooks, events, deliveries and outcomes.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores a batch of events with their targets, each on its own merits, and answers after the durable commit, in order.
    async fn publish(&self, batch: Vec<Publish>) -> Result<Vec<Published>, StoreError>;

    /// Webhooks after `after` that have deliveries to make, by number, with the time their first one is due.
    async fn lanes(&self, after: Option<WebhookNo>, limit: usize) -> Result<LanePage, StoreError>;

    /// The first deliveries of a webhook due until `horizon`, earliest first.
    async fn due(&self, webhook: WebhookNo, horizon: Timestamp, limit: usize) -> Result<DuePage, StoreError>;

    /// Events by number, in the order asked; `None` for what is not retained. Only the first ones, at least one, if the next
    /// would make them weigh more than `bytes_max` in all, or cannot be read. An error is about the first one.
    async fn events(&self, seqs: &[EventSeq], bytes_max: usize) -> Result<Vec<Option<StoredEvent>>, StoreError>;

    /// A tenant's event by its id; `None` if there is none, or none any more.
    async fn find_event(&self, tenant: &Tenant, id: &EventId) -> Result<Option<StoredEvent>, StoreError>;

    /// Records what attempts led to, durably, each group all or nothing. A group whose owner has lost its right is fenced.
    ///
    /// Outcomes of deliveries that were cancelled meanwhile are left out without an error.
    async fn commit(&self, owner: Owner, groups: Vec<OutcomeGroup>) -> Result<Vec<GroupCommitted>, StoreError>;

    /// The counters of webhooks, one after the other, as of one commit at least as new as any that was answered; nothing but zeros
    /// for one that does not exist.
    async fn counts(&self, webhooks: &[WebhookNo]) -> Result<Vec<Counts>, StoreError>;

    /// How many bytes of events of these tenants were accepted on a day, one after the other, as of one commit; as far as they were
    /// limited then.
    async fn bytes_of_day(&self, day: u32, tenants: &[Tenant]) -> Result<Vec<u64>, StoreError>;

    /// The webhooks that fail continuously, as [`OutcomeGroup::failing`] said last of each; without those that were deleted.
    async fn failing(&self) -> Result<Vec<(WebhookNo, Failing)>, StoreError>;

    /// Who this process is to [`Store::commit`].
    fn owner(&self) -> Owner;

    /// Log entries after `after` that pass the filter. Examines a bounded number and always says how far it got.
    async fn feed(&self, after: Position, filter: &FeedFilter, limit: usize) -> Result<FeedPage, FeedError>;

    /// The end of the committed log, as it grows.
    fn head(&self) -> watch::Receiver<Position>;

    /// Deliveries, those of the newest events first. Examines a bounded number.
    async fn list(
        &self,
        query: &DeliveryQuery,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<DeliveryPage, StoreError>;

    /// One delivery with its attempts; `None` if there is none, or none any more.
    async fn get(&self, id: DeliveryId) -> Result<Option<DeliveryDetail>, StoreError>;

    /// Whose delivery it was, if there is none of this id because it is no longer retained.
    async fn expired(&self, id: DeliveryId) -> Result<Option<Tenant>, StoreError>;

    /// What was accepted at this time or later is retained; of what was accepted before, perhaps only what is pending.
    fn retained_since(&self) -> Timestamp;

    /// Changes the configuration, durably, if the change's conditions hold.
    async fn put_config(&self, change: ConfigChange) -> Result<ConfigAnswer, StoreError>;

    /// Does something about deliveries, durably. Reads see a decision as soon as it is answered.
    async fn repair(&self, repair: Repair) -> Result<Repaired, StoreError>;

    /// Decides to erase something, durably. Reads see nothing of it as soon as that is answered.
    async fn erase(&self, erase: Erase) -> Result<Erased, StoreError>;

    /// How far an erasure has come; `None`: this tenant has none of this id, or none any more.
    async fn erasure(&self, tenant: &Tenant, id: ErasureId) -> Result<Option<Erasure>, StoreError>;

    /// Starts, carries on or stops a replay, durably. Reads see a decision as soon as it is answered.
    async fn replay(&self, change: ReplayChange) -> Result<ReplayAnswer, StoreError>;

    /// Events that a replay may take, from `from` on, at most `limit`. Examines a bounded number and always says how far it got.
    async fn replayable(&self, replay: &Replay, from: EventSeq, limit: usize) -> Result<ReplayPage, StoreError>;

    /// Replays as of the last commit, in memory.
    fn replays(&self) -> &Replays;

    /// What a request with this id was answered, if that is remembered: created, or that the id was used with another one.
    async fn answered(
        &self,
        tenant: &Tenant,
        request: &RequestKey,
        now: Timestamp,
    ) -> Result<Option<ConfigAnswer>, StoreError>;

    /// Changes of webhooks after `after`, oldest first; after 0 it adds up to what exists.
    async fn config_since(&self, after: ConfigSeq, limit: usize) -> Result<ConfigPage, StoreError>;

    /// Remembers something of a call, durably; answers with the number of its entry.
    async fn audit(&self, step: AuditStep) -> Result<AuditNo, StoreError>;

    /// Entries of the audit log before `before`, newest first. Examines a bounded number and always says how far it got.
    async fn audited(&self, query: &AuditQuery, before: Option<AuditNo>, limit: usize)
    -> Result<AuditPage, StoreError>;

    /// The configuration as of the last commit, in memory.
    fn catalog(&self) -> &Catalog;

    /// What seals this store's ids and cursors.
    fn sealer(&self) -> &Sealer;

    /// One small step of background work: slices of committed decisions, archiving, retention. True: there is more.
    async fn upkeep(&self, now: Timestamp) -> Result<bool, StoreError>;

    /// Waits for what was handed in, refuses what comes later, and closes the files.
    async fn close(&self) -> Result<(), StoreError>;
}
