//! The keys of one webhook: those that sign now, and those that still sign along.

use std::time::Duration;

use super::{KeyPair, Secret};
use crate::{limits::PREVIOUS_KEYS_MAX, model::time::Timestamp};

/// Something to sign with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Shared with the receiver.
    Secret(Secret),
    /// Known to nobody else.
    Pair(KeyPair),
}

/// A key that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// The key.
    pub key: Key,
    /// From when on it signs no more.
    pub until: Timestamp,
}

/// All that a webhook can sign with. Which of it does is for its scheme to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    secret: Secret,
    /// Nearly all webhooks do without.
    more: Option<Box<More>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct More {
    pair: Option<KeyPair>,
    /// The newest first.
    previous: Vec<Previous>,
}

impl From<Secret> for Keys {
    fn from(secret: Secret) -> Self {
        Self { secret, more: None }
    }
}

impl Keys {
    /// A secret, perhaps a key pair, and those that were replaced, the newest first.
    pub fn new(secret: Secret, pair: Option<KeyPair>, mut previous: Vec<Previous>) -> Self {
        previous.truncate(PREVIOUS_KEYS_MAX);
        let more = (pair.is_some() || !previous.is_empty()).then(|| Box::new(More { pair, previous }));
        Self { secret, more }
    }

    /// The secret; there always is one.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The key pair, if one was ever needed.
    pub fn pair(&self) -> Option<&KeyPair> {
        self.more.as_ref()?.pair.as_ref()
    }

    /// Those that were replaced, the newest first.
    pub fn previous(&self) -> &[Previous] {
        self.more.as_ref().map_or(&[], |more| &more.previous)
    }

    /// As a clock that was ahead has left them: replaced keys that would sign along until after `latest` do so until then. `None`:
    /// there is none.
    pub fn bounded(&self, latest: Timestamp) -> Option<Self> {
        let mut bounded = self.clone();
        let previous = bounded.more.as_mut().map_or(&mut [][..], |more| &mut more.previous);
        let mut ahead = previous.iter_mut().filter(|previous| previous.until > latest).peekable();
        ahead.peek()?;
        for previous in ahead {
            previous.until = latest;
        }
        Some(bounded)
    }

    /// Replaced secrets that still sign at `time`.
    pub(super) fn previous_secrets(&self, time: Timestamp) -> impl Iterator<Item = &Secret> {
        self.valid(time).filter_map(|key| match key {
            Key::Secret(secret) => Some(secret),
            Key::Pair(_) => None,
        })
    }

    /// Replaced key pairs that still sign at `time`.
    pub(super) fn previous_pairs(&self, time: Timestamp) -> impl Iterator<Item = &KeyPair> {
        self.valid(time).filter_map(|key| match key {
            Key::Pair(pair) => Some(pair),
            Key::Secret(_) => None,
        })
    }

    fn valid(&self, time: Timestamp) -> impl Iterator<Item = &Key> {
        self.previous().iter().filter(move |previous| time < previous.until).map(|previous| &previous.key)
    }

    /// The same with this key pair if there was none.
    #[must_use]
    pub fn with_pair(&self, pair: Option<KeyPair>) -> Self {
        let pair = self.pair().cloned().or(pair);
        Self::new(self.secret.clone(), pair, self.previous().to_vec())
    }

    /// With a new key in the place of the old one of its kind, which signs along for `overlap`. Without an overlap the new one is
    /// the only one of all kinds that signs from now on: whoever wants that distrusts the old ones.
    #[must_use]
    pub fn rotated(&self, key: Key, overlap: Duration, time: Timestamp) -> Self {
        let (mut secret, mut pair) = (self.secret.clone(), self.pair().cloned());
        let old = match key {
            Key::Secret(new) => Some(Key::Secret(std::mem::replace(&mut secret, new))),
            Key::Pair(new) => pair.replace(new).map(Key::Pair),
        };
        if overlap.is_zero() {
            return Self::new(secret, pair, Vec::new());
        }
        let old = old.map(|key| Previous { key, until: time + overlap });
        let kept = self.previous().iter().filter(|previous| time < previous.until).cloned();
        Self::new(secret, pair, old.into_iter().chain(kept).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn secret(byte: u8) -> Key {
        Key::Secret(Secret::from_bytes(&[byte; 24]).unwrap())
    }

    fn keys() -> Keys {
        Secret::from_bytes(&[0; 24]).unwrap().into()
    }

    #[test]
    fn what_is_replaced_stays_for_its_overlap_and_ten_do() {
        let start = Timestamp::UNIX_EPOCH;
        let mut rotated = keys();
        for n in 1..=12 {
            rotated = rotated.rotated(secret(n), HOUR, start);
        }
        assert_eq!(Key::Secret(rotated.secret().clone()), secret(12));
        let previous: Vec<_> = rotated.previous().iter().map(|previous| previous.key.clone()).collect();
        assert_eq!(previous, (2..=11).rev().map(secret).collect::<Vec<_>>());

        let later = rotated.rotated(secret(13), 2 * HOUR, start + HOUR);
        assert_eq!(
            later.previous(),
            [Previous { key: secret(12), until: start + 3 * HOUR }],
            "what has expired is gone"
        );
        assert_eq!(rotated.rotated(secret(1), Duration::ZERO, start), Secret::from_bytes(&[1; 24]).unwrap().into());
    }

    #[test]
    fn none_signs_along_for_longer_than_it_may() {
        let start = Timestamp::UNIX_EPOCH;
        assert_eq!(keys().bounded(start), None);
        let rotated = keys().rotated(secret(1), 3 * HOUR, start).rotated(secret(2), HOUR, start);
        assert_eq!(rotated.bounded(start + 3 * HOUR), None);
        let until = |keys: &Keys| keys.previous().iter().map(|previous| previous.until).collect::<Vec<_>>();
        let bounded = rotated.bounded(start + 2 * HOUR).unwrap();
        assert_eq!(until(&bounded), [start + HOUR, start + 2 * HOUR]);
    }

    #[test]
    fn kinds_are_replaced_each_on_its_own() {
        let start = Timestamp::UNIX_EPOCH;
        let pair = |byte| KeyPair::from_seed(&[byte; 32]).unwrap();
        let with = keys().with_pair(Some(pair(1)));
        assert_eq!(with.with_pair(Some(pair(2))), with);
        assert_eq!(keys().with_pair(None), keys());
        let rotated = with.rotated(Key::Pair(pair(2)), HOUR, start);
        assert_eq!((rotated.secret(), rotated.pair()), (keys().secret(), Some(&pair(2))));
        assert_eq!(rotated.previous(), [Previous { key: Key::Pair(pair(1)), until: start + HOUR }]);
        assert!(keys().rotated(Key::Pair(pair(2)), HOUR, start).previous().is_empty(), "there was none");
    }
}
