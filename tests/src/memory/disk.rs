//! How the disk of a store in memory behaves: when commits are durable, what fails, and what is left after a crash.

use async_trait::async_trait;
use postrider_server::store::StoreError;

use super::image::{Effects, Image, Work};

/// What a process leaves to the next one.
#[derive(Debug)]
pub struct Storage {
    /// What is durable.
    pub image: Image,
    /// The commit under way: durable after a crash, or not.
    pub(super) writing: Option<Vec<Work>>,
    pub(super) commits: u64,
}

impl Storage {
    /// With nothing under way.
    pub fn new(image: Image) -> Self {
        Self { image, writing: None, commits: 0 }
    }
}

/// How a commit went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// It is durable.
    Durable,
    /// It failed and left no trace.
    Failed,
    /// It failed, as far as the engine can tell, and survives all the same.
    FailedButDurable,
}

/// A disk with a will of its own.
#[async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Completes when a commit has become durable or has failed.
    async fn commit(&self) -> Commit;

    /// A commit became durable; nobody has heard of it.
    fn committed(&self, effects: &Effects);

    /// Completes when a durable commit becomes known; reads may see it before.
    async fn show(&self);

    /// Completes when those who wait for a commit may be answered. Others may see it before.
    async fn answer(&self);

    /// Completes when a read takes its snapshot, or fails.
    async fn read(&self) -> Result<(), StoreError>;

    /// Completes when what was read arrives; meanwhile it may grow old.
    async fn arrive(&self);
}

/// A disk that does everything at once.
#[derive(Debug)]
pub struct Prompt;

#[async_trait]
impl Disk for Prompt {
    async fn commit(&self) -> Commit {
        Commit::Durable
    }

    fn committed(&self, _: &Effects) {}

    async fn show(&self) {}

    async fn answer(&self) {}

    async fn read(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn arrive(&self) {}
}
