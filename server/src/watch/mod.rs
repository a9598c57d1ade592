//! Following the outcome log: each watcher reads what its filter wants, at its own pace, from where it stands.
//!
//! Invariant: a watcher holds at most one page in memory and is read for only when it asks. Nobody waits for a watcher.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{Stream, stream};
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    metrics::{StreamPlace, WatchMetrics},
    model::{ids::Position, seal::LostCursor},
    store::{FeedError, FeedFilter, FeedPage, LogEntry, Store, StoreError},
};

#[cfg(test)]
mod tests;

/// What the stage needs to be told.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// A stream that has said nothing for this long says where it stands.
    pub heartbeat: Duration,
}

impl Config {
    /// Builds the stage.
    pub fn build(self, store: Arc<dyn Store>, metrics: WatchMetrics) -> Watch {
        Watch { store, heartbeat: self.heartbeat, metrics }
    }
}

/// Opens streams of outcomes. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    store: Arc<dyn Store>,
    heartbeat: Duration,
    metrics: WatchMetrics,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("heartbeat", &self.heartbeat).finish_non_exhaustive()
    }
}

/// Where a stream starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// After everything committed so far.
    Now,
    /// At the oldest entry retained.
    Beginning,
    /// After the batch that carried this cursor.
    At(String),
}

/// What happened since the batch before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// The place just after `entries`.
    pub cursor: String,
    /// Oldest first, at most as many as asked for; none in a heartbeat.
    pub entries: Vec<LogEntry>,
}

/// Why a stream did not start, or ended.
#[derive(Debug, Clone, Error)]
pub enum WatchError {
    /// The text is not a cursor of this store.
    #[error("the cursor is malformed or belongs to another store")]
    InvalidCursor,
    /// What the cursor points at is no longer retained.
    #[error("outcomes at the cursor are no longer retained")]
    Expired {
        /// The oldest usable cursor.
        oldest_cursor: String,
    },
    /// The store was restored from a backup, and what the cursor is of came after that.
    #[error("the outcomes at the cursor were lost when the store was restored from a backup")]
    Undone {
        /// The last place that was not lost.
        last_cursor: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Watch {
    /// Opens a stream of what passes the filter, in batches of at most `entries_max`. Its first batch is empty and carries the cursor of the start; it ends only
    /// with an error, which is its last item.
    ///
    /// The start is fixed, and known to be usable, when this returns.
    pub async fn open(
        &self,
        filter: FeedFilter,
        start: Start,
        entries_max: usize,
    ) -> Result<impl Stream<Item = Result<WatchBatch, WatchError>> + Send + 'static, WatchError> {
        let mut follower = Follower {
            head: self.store.head(),
            store: self.store.clone(),
            heartbeat: self.heartbeat,
            filter,
            entries_max,
            position: Position(0),
            at_hand: None,
            said: None,
            place: None,
        };
        follower.position = match &start {
            Start::Now => *follower.head.borrow(),
            Start::Beginning => Position(0),
            Start::At(cursor) => position(self.store.as_ref(), cursor)?,
        };
        let page = match follower.read().await {
            // Retention is ahead of us: its edge is the beginning.
            Err(FeedError::Expired { oldest }) if start == Start::Beginning => {
                follower.position = oldest;
                follower.read().await
            }
            page => page,
        };
        follower.at_hand = Some(page.map_err(|error| follower.explain(error))?);
        follower.place = Some(self.metrics.opened(follower.position));
        Ok(stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(batch) => Some((Ok(batch), Some(follower))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

/// One stream's place in the log.
struct Follower {
    store: Arc<dyn Store>,
    head: watch::Receiver<Position>,
    heartbeat: Duration,
    filter: FeedFilter,
    entries_max: usize,
    /// Everything up to here was said or left out.
    position: Position,
    /// A page read after `position` and not yet looked at.
    at_hand: Option<FeedPage>,
    /// When the last batch went out.
    said: Option<Instant>,
    /// What others are told of it, once it is open.
    place: Option<StreamPlace>,
}

impl Follower {
    async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        let Some(said) = self.said else { return Ok(self.say(Vec::new())) };
        let quiet_until = said + self.heartbeat;
        loop {
            let page = match self.at_hand.take() {
                Some(page) => page,
                None => self.read().await.map_err(|error| self.explain(error))?,
            };
            let moved = page.position > self.position;
            self.position = page.position;
            self.place.iter().for_each(|place| place.reached(page.position, page.entries.len()));
            if !page.entries.is_empty() {
                return Ok(self.say(page.entries));
            }
            // Much that the filter leaves out: the cursor moves all the same.
            if Instant::now() >= quiet_until {
                return Ok(self.say(Vec::new()));
            }
            if moved && self.position < *self.head.borrow() {
                continue;
            }
            tokio::select! {
                biased;
                grown = self.head.changed() => grown.map_err(|_| StoreError::Closed)?,
                () = sleep_until(quiet_until) => return Ok(self.say(Vec::new())),
            }
        }
    }

    async fn read(&mut self) -> Result<FeedPage, FeedError> {
        // Listen before looking, or an entry committed in between would wait for the one after it.
        self.head.mark_unchanged();
        self.store.feed(self.position, &self.filter, self.entries_max).await
    }

    fn say(&mut self, entries: Vec<LogEntry>) -> WatchBatch {
        self.said = Some(Instant::now());
        WatchBatch { cursor: cursor(self.store.as_ref(), self.position), entries }
    }

    fn explain(&self, error: FeedError) -> WatchError {
        match error {
            FeedError::Expired { oldest } => WatchError::Expired { oldest_cursor: cursor(self.store.as_ref(), oldest) },
            FeedError::Unknown => WatchError::InvalidCursor,
            FeedError::Store(error) => WatchError::Store(error),
        }
    }
}

fn cursor(store: &dyn Store, position: Position) -> String {
    URL_SAFE_NO_PAD.encode(store.sealer().cursor(position))
}

fn position(store: &dyn Store, text: &str) -> Result<Position, WatchError> {
    // 16 bytes are 22 letters; nothing longer is worth decoding.
    let sealed = (text.len() == 22).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten();
    let sealed = sealed.and_then(|sealed| sealed.try_into().ok()).ok_or(WatchError::InvalidCursor)?;
    store.sealer().position(sealed).map_err(|lost| match lost {
        LostCursor::Foreign => WatchError::InvalidCursor,
        LostCursor::Undone(last) => WatchError::Undone { last_cursor: cursor(store, last) },
    })
}
