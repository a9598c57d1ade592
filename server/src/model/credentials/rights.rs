//! What callers may do.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// One kind of thing that a caller may be allowed to do. None includes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Publish events.
    Publish,
    /// Change webhooks and event types; test, retry, cancel and replay.
    Manage,
    /// See webhooks, events, deliveries and what became of them.
    Read,
    /// Look after the server: its keys, and whatever is not one webhook's.
    Operate,
}

/// A text that names no right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be one of publish, manage, read and operate")]
pub struct UnknownRight;

impl Right {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Manage, Self::Read, Self::Operate];

    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Manage => "manage",
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }

    /// On disk: never renumber.
    const fn bit(self) -> u32 {
        match self {
            Self::Publish => 1,
            Self::Manage => 2,
            Self::Read => 4,
            Self::Operate => 8,
        }
    }
}

impl FromStr for Right {
    type Err = UnknownRight;

    fn from_str(text: &str) -> Result<Self, UnknownRight> {
        Self::ALL.into_iter().find(|right| right.name() == text).ok_or(UnknownRight)
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u32);

impl Rights {
    /// All there are.
    pub fn all() -> Self {
        Right::ALL.into_iter().collect()
    }

    /// Whether the right is among them.
    pub fn include(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in the order of [`Right::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.include(*right))
    }

    /// As kept in the store.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// From the store; `None` if a later version wrote something that this one does not know.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits & !Self::all().0 == 0).then_some(Self(bits))
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |bits, right| bits | right.bit()))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Right::name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in_and_survive_the_disk() {
        for bits in 0..16 {
            let rights = Rights::from_bits(bits).unwrap();
            assert_eq!(rights.iter().collect::<Rights>(), rights);
            assert_eq!(Rights::from_bits(rights.bits()), Some(rights));
            assert_eq!(rights.iter().count(), bits.count_ones() as usize);
            let names = rights.to_string();
            let read = names.split(',').filter(|name| !name.is_empty()).map(|name| name.parse().unwrap());
            assert_eq!(read.collect::<Rights>(), rights, "{names}");
        }
        assert_eq!(Rights::from_bits(16), None);
        assert!(Rights::default().is_empty() && !Rights::all().is_empty());
        assert!("Publish".parse::<Right>().is_err() && "".parse::<Right>().is_err());
    }
}
