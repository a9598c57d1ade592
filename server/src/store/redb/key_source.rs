//! Where the master key is kept: in the environment, in a file of the operator's, or in the data directory.
//!
//! Invariant: called only while this process holds the store's lock, so nobody else makes or moves the files of the data
//! directory meanwhile.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    model::master_key::{InvalidMasterKey, MasterKey},
    secret_file::is_open_to_others,
};

/// The key in the data directory.
pub(super) const KEPT: &str = "master.key";
/// The one that is to replace it.
const NEXT: &str = "master.key.next";
/// What a file is called that is not written to its end yet.
const UNFINISHED: &str = "master.key.new";
/// More than a file with a key holds, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Where the master key is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KeySource {
    /// In `master.key` of the data directory, where it is made together with the store.
    #[default]
    Directory,
    /// In this file.
    File(PathBuf),
    /// Here: it was in the environment variable of this name.
    Given(&'static str, MasterKey),
}

/// Why a file with a key is not taken.
#[derive(Debug, Error)]
pub enum FileProblem {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is a folder, or a device.
    #[error("it is not a regular file")]
    NoFile,
    /// Its owner is somebody else, who could change it.
    #[error("it belongs to user {owner}; it must belong to the user that runs postriderd, {user}, or to root")]
    Owner {
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// Others than its owner may use it.
    #[error("others can use it, as its mode is {:04o}; that must be 0600 or 0400 (chmod 600)", .0)]
    Mode(u32),
    /// What it holds is no key.
    #[error("it {0}")]
    Content(#[from] InvalidMasterKey),
}

/// Why there is no master key to open the store with.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The store has one, and it is not where it was.
    #[error(
        "there is no master key in {0}: put it back, or say where it is with --master-key-file or POSTRIDER_MASTER_KEY; what is \
         encrypted in the data directory cannot be read without it"
    )]
    Missing(String),
    /// The file is not taken.
    #[error("the master key in {file} cannot be used: {why}")]
    Unusable {
        /// Which one.
        file: PathBuf,
        /// Why.
        why: FileProblem,
    },
    /// It is another store's, or was replaced.
    #[error(
        "the master key in {0} is not the one that the data directory is encrypted with: give the right one with \
         --master-key-file or POSTRIDER_MASTER_KEY"
    )]
    Wrong(String),
    /// A rotation was not finished.
    #[error(
        "the master key is being replaced, and that was interrupted: run `postriderd rotate-master-key` again, with the same \
         settings as before"
    )]
    Rotating,
    /// A new one cannot be kept.
    #[error("the master key cannot be kept in {file}: {why}")]
    Unkept {
        /// Where.
        file: PathBuf,
        /// Why.
        why: io::Error,
    },
}

/// Reads the file of a key, if it is there.
fn read(file: PathBuf) -> Result<Option<MasterKey>, KeyError> {
    match read_file(&file) {
        Ok(key) => Ok(Some(key)),
        Err(FileProblem::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(KeyError::Unusable { file, why }),
    }
}

fn read_file(path: &Path) -> Result<MasterKey, FileProblem> {
    // What is judged is what is read, whatever the name stands for a moment later.
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FileProblem::NoFile);
    }
    judge(metadata.mode(), metadata.uid(), metadata.gid(), rustix::process::geteuid().as_raw())?;
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(MasterKey::parse(&text)?)
}

/// Whether nobody but `user` and root can read or change a file.
fn judge(mode: u32, owner: u32, group: u32, user: u32) -> Result<(), FileProblem> {
    if owner != user && owner != 0 {
        return Err(FileProblem::Owner { owner, user });
    }
    if is_open_to_others(mode, owner, group) {
        return Err(FileProblem::Mode(mode & 0o7777));
    }
    Ok(())
}

/// Makes a key and keeps it in a file of `dir` that is not there yet, durably, before anything relies on it.
fn make(dir: &Path, name: &str) -> Result<MasterKey, KeyError> {
    let (file, unfinished) = (dir.join(name), dir.join(UNFINISHED));
    let key = MasterKey::generate(&mut rand::rng());
    let write = || {
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        written.write_all(format!("{}\n", *key.reveal()).as_bytes())?;
        written.sync_all()?;
        rename(&unfinished, &file)
    };
    match write() {
        Ok(()) => Ok(key),
        Err(why) => Err(KeyError::Unkept { file, why }),
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl KeySource {
    /// The key of a new store.
    pub(super) fn first(&self, dir: &Path) -> Result<MasterKey, KeyError> {
        if let Some((key, _)) = self.candidates(dir)?.into_iter().next() {
            return Ok(key);
        }
        if *self != Self::Directory {
            return Err(KeyError::Missing(self.place(dir)));
        }
        let key = make(dir, KEPT)?;
        warn!(
            file = %dir.join(KEPT).display(),
            "made a master key, which secrets are encrypted with: keep a copy of it, for nothing opens them without it"
        );
        Ok(key)
    }

    /// The key of a store that knows it.
    pub(super) fn fitting<E: From<KeyError>>(
        &self,
        dir: &Path,
        fits: impl Fn(&MasterKey) -> Result<bool, E>,
    ) -> Result<MasterKey, E> {
        let candidates = self.candidates(dir)?;
        if candidates.is_empty() {
            return Err(KeyError::Missing(self.place(dir)).into());
        }
        for (key, file) in candidates {
            if fits(&key)? {
                if file.is_some_and(|file| file == dir.join(NEXT)) {
                    // The rotation that made it ended before it could.
                    put_in_place(dir)?;
                }
                return Ok(key);
            }
        }
        Err(KeyError::Wrong(self.place(dir)).into())
    }

    /// The key that is to replace the one here: that of another source, or one made, now or before, in the data directory.
    pub(super) fn next(new: Option<&Self>, dir: &Path) -> Result<MasterKey, KeyError> {
        match new {
            Some(new) => {
                let found = new.candidates(dir)?.into_iter().next();
                found.map(|(key, _)| key).ok_or_else(|| KeyError::Missing(new.place(dir)))
            }
            None => match read(dir.join(NEXT))? {
                Some(key) => Ok(key),
                None => make(dir, NEXT),
            },
        }
    }

    /// Removes the key that was replaced, if it lies in the data directory, and puts the next one in its place if that does.
    pub(super) fn replaced(&self, new: Option<&Self>, dir: &Path) -> Result<(), KeyError> {
        match new {
            None => put_in_place(dir),
            Some(_) if *self != Self::Directory => Ok(()),
            Some(_) => {
                let file = dir.join(KEPT);
                match fs::remove_file(&file).and_then(|()| sync_folder(dir)) {
                    // It was removed before.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed.map_err(|why| KeyError::Unkept { file, why }),
                }
            }
        }
    }

    /// Where the key is, for people.
    pub fn place(&self, dir: &Path) -> String {
        match self {
            Self::Directory => dir.join(KEPT).display().to_string(),
            Self::File(file) => file.display().to_string(),
            Self::Given(variable, _) => (*variable).to_owned(),
        }
    }

    /// The keys that are there, with their files. Two, where a rotation was interrupted.
    fn candidates(&self, dir: &Path) -> Result<Vec<(MasterKey, Option<PathBuf>)>, KeyError> {
        let files = match self {
            Self::Given(_, key) => return Ok(vec![(key.clone(), None)]),
            Self::File(file) => vec![file.clone()],
            Self::Directory => vec![dir.join(KEPT), dir.join(NEXT)],
        };
        let mut found = Vec::new();
        for file in files {
            found.extend(read(file.clone())?.map(|key| (key, Some(file))));
        }
        Ok(found)
    }
}

/// Puts the next key in the place of the present one.
fn put_in_place(dir: &Path) -> Result<(), KeyError> {
    let file = dir.join(KEPT);
    rename(&dir.join(NEXT), &file).map_err(|why| KeyError::Unkept { file, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, key: &MasterKey, mode: u32) -> PathBuf {
        let path = dir.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
        file.write_all(key.reveal().as_bytes()).unwrap();
        path
    }

    fn generate() -> MasterKey {
        MasterKey::generate(&mut rand::rng())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn only_the_owner_may_use_the_file() {
        let check = |mode: u32, owner, user, expected: &str| match judge(0o10_0000 | mode, owner, 1000, user) {
            Ok(()) => assert_eq!(expected, "", "{mode:o} {owner} {user}"),
            Err(problem) => assert!(!expected.is_empty() && problem.to_string().contains(expected), "{problem}"),
        };
        check(0o600, 7, 7, "");
        check(0o400, 7, 7, "");
        check(0o400, 0, 7, "");
        check(0o600, 7, 0, "belongs to user 7");
        check(0o600, 8, 7, "belongs to user 8");
        for (mode, shown) in [(0o640, "0640"), (0o604, "0604"), (0o660, "0660"), (0o601, "0601"), (0o777, "0777")] {
            check(mode, 7, 7, shown);
        }
    }

    #[test]
    fn the_first_key_is_made_once_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join(UNFINISHED), "half of a k").unwrap();
        let key = KeySource::Directory.first(dir).unwrap();
        assert_eq!(mode(&dir.join(KEPT)), 0o600);
        assert!(!dir.join(UNFINISHED).exists());
        assert_eq!(KeySource::Directory.first(dir).unwrap(), key);
        assert_eq!(KeySource::File(dir.join(KEPT)).first(dir).unwrap(), key);
        let missing = KeySource::File(dir.join("none")).first(dir).unwrap_err();
        assert!(matches!(missing, KeyError::Missing(place) if place.ends_with("none")));
    }

    #[test]
    fn what_is_no_key_is_said_so_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let check = |path: PathBuf, expected: &str| {
            let error = KeySource::File(path).first(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("AAAA"), "{error}");
        };
        let text = dir.path().join("text");
        fs::write(&text, "AAAA\n").unwrap();
        fs::set_permissions(&text, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        check(text, "base64 of 32 bytes");
        check(dir.path().to_owned(), "regular file");
        check(file(dir.path(), "open", &generate(), 0o644), "0644");
    }

    #[test]
    fn the_key_that_fits_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (old, new) = (generate(), generate());
        let fitting = |wanted: &MasterKey| {
            KeySource::Directory.fitting::<KeyError>(dir, |key| Ok(key == wanted)).map_err(|error| error.to_string())
        };
        assert!(fitting(&old).unwrap_err().contains("no master key in"));
        file(dir, KEPT, &old, 0o600);
        file(dir, NEXT, &new, 0o600);
        assert_eq!(fitting(&old).unwrap(), old);
        assert!(dir.join(NEXT).exists(), "nothing is replaced yet");
        assert!(fitting(&generate()).unwrap_err().contains("not the one"));
        assert_eq!(fitting(&new).unwrap(), new, "a rotation that ended here");
        assert!(!dir.join(NEXT).exists());
        assert_eq!(KeySource::Directory.first(dir).unwrap(), new);
    }

    #[test]
    fn the_next_key_takes_the_place_of_the_present_one() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let directory = KeySource::Directory;
        let old = directory.first(dir).unwrap();
        let new = KeySource::next(None, dir).unwrap();
        assert_ne!(new, old);
        assert_eq!(KeySource::next(None, dir).unwrap(), new, "an interrupted rotation goes on with it");
        assert_eq!(mode(&dir.join(NEXT)), 0o600);
        directory.replaced(None, dir).unwrap();
        assert_eq!(directory.first(dir).unwrap(), new);

        let elsewhere = KeySource::File(file(dir, "elsewhere", &old, 0o400));
        assert_eq!(KeySource::next(Some(&elsewhere), dir).unwrap(), old);
        directory.replaced(Some(&elsewhere), dir).unwrap();
        assert!(!dir.join(KEPT).exists(), "it does not lie beside what it opened");
        elsewhere.replaced(Some(&KeySource::Given("V", new)), dir).unwrap();
        assert!(dir.join("elsewhere").exists(), "the operator's own file is the operator's");
    }
}
