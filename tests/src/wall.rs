//! A wall clock that steps when a test says so.

use std::fs;

use tempfile::TempDir;

use crate::daemon::Setup;

/// Names the file that the daemon under test reads its wall clock's error from, in seconds.
pub const FILE_VARIABLE: &str = "WALL_CLOCK_AHEAD_FILE";

/// The wall clock of daemons.
#[derive(Debug)]
pub struct Wall {
    folder: TempDir,
}

impl Wall {
    /// One that is right, and daemons that go by it.
    pub fn of(setup: Setup) -> (Self, Setup) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("ahead").to_str().expect("it has a plain name").to_owned();
        let wall = Self { folder };
        wall.set(0);
        (wall, setup.variable(FILE_VARIABLE, &file))
    }

    /// From now on it is so many seconds ahead; negative: behind.
    pub fn set(&self, ahead: i64) {
        let (whole, part) = (self.folder.path().join("ahead"), self.folder.path().join("part"));
        fs::write(&part, ahead.to_string()).expect("a file");
        fs::rename(part, whole).expect("it takes its place");
    }
}
