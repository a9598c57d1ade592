//! Plain files: copied, hashed, made durable.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::super::disk::{Disk as _, FileSystem};

/// Bytes that are read at a time.
const PART_BYTES: usize = 1 << 20;

/// What a file holds, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    /// SHA-256, 64 hexadecimal digits.
    pub(super) sha256: String,
}

/// Reads a file through.
pub(super) fn sum(path: &Path) -> io::Result<Sum> {
    pass(File::open(path)?, &mut io::sink())
}

/// The same for a text.
pub(super) fn sum_of(text: &[u8]) -> Sum {
    Sum { bytes: text.len() as u64, sha256: digits(Sha256::new().chain_update(text)) }
}

/// Copies a file to a place where there is none, durable but for its name, with this mode; says what was copied.
pub(super) fn copy(from: &Path, to: &Path, mode: u32) -> io::Result<Sum> {
    let from = File::open(from)?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    let sum = pass(from, &mut copy)?;
    copy.sync_all()?;
    Ok(sum)
}

/// Writes a new file, durable but for its name.
pub(super) fn write(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Makes durable what a file holds.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes durable which names a folder holds.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    FileSystem.sync_folder(folder)
}

/// The names in a folder; none if there is no such folder.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn pass(mut from: File, to: &mut dyn io::Write) -> io::Result<Sum> {
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut part = vec![0; PART_BYTES];
    loop {
        match from.read(&mut part)? {
            0 => return Ok(Sum { bytes, sha256: digits(hash) }),
            read => {
                hash.update(&part[..read]);
                to.write_all(&part[..read])?;
                bytes += read as u64;
            }
        }
    }
}

fn digits(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text grows");
        text
    })
}
