//! What a file holds, and what of it is left when the power goes.

use std::{collections::BTreeMap, io, sync::Arc};

use rand::{Rng, RngExt as _, rngs::StdRng, seq::SliceRandom as _};

const PAGE: usize = 4096;
/// What a disk writes whole.
const SECTOR: usize = 512;

/// Bytes, sparse and cheap to copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

/// A change of a file that no sync has made durable.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(u64, Arc<[u8]>),
    SetLen(u64),
}

impl Contents {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, part) in pieces(offset, out.len()) {
            match self.pages.get(&page) {
                Some(bytes) => out[part.clone()].copy_from_slice(&bytes[within..within + part.len()]),
                None => out[part].fill(0),
            }
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(*offset, data),
            Change::SetLen(len) => self.set_len(*len),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        for (page, within, part) in pieces(offset, data.len()) {
            let bytes = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(bytes)[within..within + part.len()].copy_from_slice(&data[part]);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (page, within) = (len / PAGE as u64, usize::try_from(len % PAGE as u64).expect("less than a page"));
            self.pages.split_off(&(page + u64::from(within > 0)));
            if let Some(bytes) = self.pages.get_mut(&page) {
                Arc::make_mut(bytes)[within..].fill(0);
            }
        }
        self.len = len;
    }

    /// What is left of changes that were not durable: nothing, all, the first ones, or any of them, whole or in part, in any
    /// order. Each of these can happen, since a disk writes sectors when it likes.
    pub(super) fn lose_power(&mut self, mut pending: Vec<Change>, rng: &mut StdRng) {
        match rng.random_range(0..7) {
            0 => {}
            1 => pending.iter().for_each(|change| self.apply(change)),
            2 => {
                let kept = rng.random_range(0..=pending.len());
                pending[..kept].iter().for_each(|change| self.apply(change));
                if let Some(torn) = pending.get(kept) {
                    self.apply_torn(torn, SECTOR, rng);
                }
            }
            3 | 4 => {
                for change in &pending {
                    if rng.random() {
                        self.apply(change);
                    }
                }
            }
            5 => pending.iter().for_each(|change| self.apply_torn(change, SECTOR, rng)),
            _ => {
                pending.shuffle(rng);
                for change in &pending {
                    match rng.random_range(0..3) {
                        0 => {}
                        1 => self.apply(change),
                        _ => self.apply_torn(change, 1, rng),
                    }
                }
            }
        }
    }

    /// Applies some of a write: runs of sectors, or of bytes.
    fn apply_torn(&mut self, change: &Change, grain: usize, rng: &mut StdRng) {
        let Change::Write(offset, data) = change else {
            if rng.random() {
                self.apply(change);
            }
            return;
        };
        let mut at = 0;
        let mut kept = rng.random();
        while at < data.len() {
            let run = rng.random_range(1..=data.len().div_ceil(grain)) * grain;
            // At a sector's border in the file, not in the write.
            let to = offset + (at + run) as u64;
            let to = usize::try_from(to - to % grain as u64 - offset).unwrap_or(0).clamp(at + 1, data.len());
            if kept {
                self.write(offset + at as u64, &data[at..to]);
            }
            kept = !kept;
            at = to;
        }
    }
}

/// The pages that a range of bytes touches: page, where in it, and which part of the range.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let place = offset + at as u64;
        let within = usize::try_from(place % PAGE as u64).expect("less than a page");
        let part = at..len.min(at + PAGE - within);
        at = part.end;
        Some((place / PAGE as u64, within, part))
    })
}

/// Whether something that was not made durable happened all the same.
pub(super) fn happened(rng: &mut impl Rng) -> bool {
    rng.random()
}
