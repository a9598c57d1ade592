//! A file that can be written to without being changed: what is written stays in memory.
//!
//! redb writes whenever it opens a file, and more when it checks one, which must not change a byte of a backup. It writes little:
//! its header, and which pages are free.

use std::{collections::BTreeMap, fs, io, ops::Bound, path::Path};

use ::redb::{BackendError, StorageBackend, backends::FileBackend};
use parking_lot::Mutex;

/// What is written is kept in blocks of so many bytes.
const BLOCK: u64 = 4096;

/// A file, and what was written over it.
#[derive(Debug)]
pub(super) struct Overlay {
    file: FileBackend,
    /// Nobody can write to a file that we cannot write to, and it cannot be locked against them.
    is_lockable: bool,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// The file counts up to here.
    file_len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// Over a file that nobody else has open for writing.
    pub(super) fn over(path: &Path) -> io::Result<Self> {
        let (file, is_lockable) = match fs::OpenOptions::new().read(true).write(true).open(path) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                (fs::File::open(path)?, false)
            }
            opened => (opened?, true),
        };
        let file = FileBackend::new(file).map_err(io::Error::other)?;
        let len = file.len()?;
        Ok(Self { file, is_lockable, written: Mutex::new(Written { len, file_len: len, blocks: BTreeMap::new() }) })
    }

    /// The file, for locks.
    fn lockable(&self) -> Result<&FileBackend, BackendError> {
        if self.is_lockable { Ok(&self.file) } else { Err(BackendError::Unsupported) }
    }

    /// What a block holds now; zeros behind the end.
    fn block(&self, written: &Written, no: u64) -> io::Result<Vec<u8>> {
        if let Some(block) = written.blocks.get(&no) {
            return Ok(block.clone());
        }
        let mut block = vec![0; usize::try_from(BLOCK).expect("small")];
        let start = no * BLOCK;
        let there = written.file_len.saturating_sub(start).min(BLOCK);
        self.file.read(start, &mut block[..usize::try_from(there).expect("small")])?;
        Ok(block)
    }
}

/// The blocks that a range of bytes touches: number, range within the block, range within the whole.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let end = offset + len as u64;
    let small = |bytes: u64| usize::try_from(bytes).expect("within a buffer");
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |no| {
        let (from, until) = (offset.max(no * BLOCK), end.min((no + 1) * BLOCK));
        (no, small(from - no * BLOCK)..small(until - no * BLOCK), small(from - offset)..small(until - offset))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock();
        if offset + out.len() as u64 > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if written.blocks.is_empty() {
            return self.file.read(offset, out);
        }
        for (no, inside, whole) in parts(offset, out.len()) {
            out[whole].copy_from_slice(&self.block(&written, no)?[inside]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written.lock();
        if len < written.len {
            let last = len / BLOCK;
            written.blocks.retain(|no, _| *no <= last);
            if let Some(block) = written.blocks.get_mut(&last) {
                block[usize::try_from(len % BLOCK).expect("small")..].fill(0);
            }
            written.file_len = written.file_len.min(len);
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        for (no, inside, whole) in parts(offset, data.len()) {
            let mut block = self.block(&written, no)?;
            block[inside].copy_from_slice(&data[whole]);
            written.blocks.insert(no, block);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lockable()?.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lockable()?.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lockable()?.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lockable()?.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lockable()?.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lockable()?.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let original: Vec<u8> = (0..10_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        fs::write(&path, &original).unwrap();
        let overlay = Overlay::over(&path).unwrap();
        let mut expected = original.clone();
        let check = |expected: &[u8]| {
            assert_eq!(overlay.len().unwrap(), expected.len() as u64);
            for (from, until) in [(0, expected.len()), (0, 10), (4_090, 4_100), (5_000, 8_300)] {
                let until = until.min(expected.len());
                let mut out = vec![9; until.saturating_sub(from)];
                overlay.read(from as u64, &mut out).unwrap();
                assert_eq!(out, expected[from.min(until)..until], "{from}");
            }
            assert!(overlay.read(expected.len() as u64 - 1, &mut [0; 2]).is_err());
        };
        check(&expected);
        overlay.write(4_000, &[7; 5_000]).unwrap();
        expected[4_000..9_000].fill(7);
        check(&expected);
        overlay.set_len(8_200).unwrap();
        expected.truncate(8_200);
        check(&expected);
        overlay.set_len(20_000).unwrap();
        expected.resize(20_000, 0);
        check(&expected);
        overlay.write(19_999, &[1]).unwrap();
        expected[19_999] = 1;
        check(&expected);
        assert_eq!(fs::read(&path).unwrap(), original);
    }
}
