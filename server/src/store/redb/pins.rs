//! Files of segments that a backup has yet to copy: they stay until it has, whatever becomes of the segment.
//!
//! Invariant: a file that is to go while it is pinned goes as soon as it is not. If the process ends before that, it is removed as a
//! stray at the next start.

use std::collections::BTreeMap;

/// A file: number and generation of its segment.
pub(super) type File = (u64, u64);

/// The pinned files, and whether each is to go.
#[derive(Debug, Default)]
pub(super) struct Pins(BTreeMap<File, bool>);

impl Pins {
    /// The file stays from now on.
    pub(super) fn pin(&mut self, file: File) {
        self.0.entry(file).or_insert(false);
    }

    /// Somebody wants to remove the file. Whether it has to stay for now.
    pub(super) fn defer(&mut self, file: File) -> bool {
        self.0.get_mut(&file).map(|goes| *goes = true).is_some()
    }

    /// The file need not stay any more. Whether it is to be removed now.
    pub(super) fn unpin(&mut self, file: File) -> bool {
        self.0.remove(&file).unwrap_or(false)
    }

    /// Whether a file is still there that should be gone.
    pub(super) fn holds_what_goes(&self) -> bool {
        self.0.values().any(|goes| *goes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_go_meanwhile_goes_afterwards() {
        let mut pins = Pins::default();
        pins.pin((1, 0));
        pins.pin((2, 0));
        assert!(!pins.defer((3, 0)), "nobody needs that one");
        assert!(!pins.holds_what_goes());
        assert!(pins.defer((1, 0)) && pins.defer((1, 0)) && pins.holds_what_goes());
        assert!(!pins.unpin((2, 0)), "nobody wants it gone");
        assert!(pins.unpin((1, 0)) && !pins.holds_what_goes());
        assert!(!pins.unpin((1, 0)) && !pins.defer((1, 0)));
    }
}
