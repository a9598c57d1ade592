//! The yardstick of acknowledgements: a bare loop that commits the same bytes with redb, as durably as the daemon does.

use anyhow::Result;
use redb::{Database, TableDefinition, WriteTransaction};

use crate::{
    moment::now_micros,
    payload::{self, BODY_BYTES},
    protocol::{Commit, Committed, serve},
};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const DUE: TableDefinition<'_, (u64, u64), u64> = TableDefinition::new("due");

/// Runs a committer until stdin is closed.
pub(crate) fn run() -> Result<()> {
    serve(|commit: Commit| commit_all(&commit))
}

/// Two-phase and fsynced: a row with the body and a row that says when and for whom it is due, for each event.
fn commit_all(commit: &Commit) -> Result<Committed> {
    let directory = tempfile::tempdir_in(&commit.directory)?;
    let database = Database::create(directory.path().join("yardstick.redb"))?;
    let start = now_micros();
    let mut events = 0;
    while now_micros() < start + commit.micros {
        let transaction = begin(&database)?;
        {
            let (mut bodies, mut due) = (transaction.open_table(EVENTS)?, transaction.open_table(DUE)?);
            for event in events..events + commit.events {
                let now = now_micros();
                bodies.insert(event, payload::body(event, now, BODY_BYTES).as_ref())?;
                due.insert((1, event), now)?;
            }
        }
        transaction.commit()?;
        events += commit.events;
    }
    Ok(Committed { events, micros: now_micros() - start })
}

#[expect(clippy::disallowed_methods, reason = "what the daemon's committer is to be compared with")]
fn begin(database: &Database) -> Result<WriteTransaction> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}
