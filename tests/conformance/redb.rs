//! What the embedded engine promises about its files.

use std::{path::Path, sync::Arc};

use postrider_server::{
    clock::Clock,
    flow::News,
    store::{Store as _, redb},
};
use tempfile::TempDir;

fn open(dir: &Path) -> Result<redb::RedbStore, redb::OpenError> {
    redb::open(dir, redb::Config::default(), Arc::new(News::default()), Clock::start())
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = TempDir::new().expect("a temporary directory");
    let store = open(dir.path()).expect("the first has it");
    let second = open(dir.path()).expect_err("the second has not");
    assert!(matches!(second, redb::OpenError::InUse(_)), "{second}");
    store.close().await.expect("the store closes");
    open(dir.path()).expect("free again").close().await.expect("the store closes");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "forges the file of a later version")]
async fn a_newer_schema_is_refused_and_left_alone() {
    let dir = TempDir::new().expect("a temporary directory");
    open(dir.path()).expect("made").close().await.expect("the store closes");
    {
        let hot = ::redb::Database::open(dir.path().join("hot.redb")).expect("a redb file");
        let txn = hot.begin_write().expect("writable");
        let meta = ::redb::TableDefinition::<&str, &[u8]>::new("meta");
        txn.open_table(meta).expect("a table").insert("schema", 99_u64.to_le_bytes().as_slice()).expect("written");
        txn.commit().expect("committed");
    }
    for _ in 0..2 {
        let refused = open(dir.path()).expect_err("refused");
        assert!(matches!(refused, redb::OpenError::NewerSchema { found: 99, .. }), "{refused}");
    }
}

#[tokio::test]
async fn a_file_where_the_directory_should_be_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let refused = open(file.path()).expect_err("refused");
    assert!(matches!(refused, redb::OpenError::Unusable { .. }), "{refused}");
}
