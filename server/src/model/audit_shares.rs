//! What of the audit log goes when there is too much of it: the oldest entries of whoever has the most. Pure.
//!
//! ```text
//!  entries   █ goes                     max-min fairness: as if the largest share lost its oldest entry until there are
//!   30 │ █                              few enough. Nobody loses one who has no more than anybody of the others keeps,
//!      │ █                              so that each of N callers keeps at least an N-th of the log, however much the
//!   3  │ ░──░──░─ level                 others write. Keys and grants are the operator's to make: N is in their hands,
//!      └──────────                      and who is nobody, of whom there may be any number, is all one caller.
//!        A  B  C
//! ```

use std::{collections::HashMap, hash::Hash};

use super::{audit::Principal, credentials::ApiKeyId};

/// Whose share of the audit log an entry belongs to, and who it is that makes too many calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Account {
    /// Whoever has this key.
    Key(ApiKeyId),
    /// Whoever has a certificate for this name.
    Certificate(Box<str>),
    /// Everybody of whom nothing was asked.
    Anonymous,
    /// Everybody with access to the data directory.
    Offline,
    /// Everybody whose credentials were worth nothing: what they claim to be costs them nothing. Also what only counts others.
    Strangers,
}

impl Principal {
    /// Whose share of the audit log takes what this one does.
    pub fn account(&self) -> Account {
        match self {
            Self::Key { id, .. } => Account::Key(*id),
            Self::Certificate(name) => Account::Certificate(name.clone()),
            Self::Anonymous => Account::Anonymous,
            Self::Offline => Account::Offline,
            Self::Unauthenticated(_) | Self::Several => Account::Strangers,
        }
    }
}

/// What is too much, by whose it is.
#[derive(Debug)]
pub struct Excess<A> {
    /// So many more than the level each one has, of those who have more. The last of them may stay.
    over: HashMap<A, u64>,
    /// So many go for certain.
    certain: u64,
    /// Of so many, who are one above the level then, the oldest goes, too.
    more: u64,
}

impl<A: Eq + Hash> Excess<A> {
    /// Of so many entries each, when all together may be `most`; `None`: they are not more.
    pub fn of(mut counts: HashMap<A, u64>, most: u64) -> Option<Self> {
        let all = counts.values().sum::<u64>().checked_sub(most).filter(|left| *left > 0)?;
        let level = level(counts.values().copied().collect(), most);
        counts.retain(|_, count| {
            *count = count.saturating_sub(level);
            *count > 0
        });
        let certain = counts.values().map(|over| over - 1).sum();
        Some(Self { over: counts, certain, more: all - certain })
    }

    /// Whether one of these goes, asked for each entry from the oldest on.
    pub fn takes(&mut self, account: &A) -> bool {
        let Some(over) = self.over.get_mut(account) else { return false };
        let left = match *over {
            0 => return false,
            1 => &mut self.more,
            2.. => &mut self.certain,
        };
        let takes = *left > 0;
        if takes {
            *left -= 1;
            *over -= 1;
        }
        takes
    }

    /// Whether nothing more is to go.
    pub fn is_settled(&self) -> bool {
        self.certain == 0 && self.more == 0
    }
}

/// How many each may keep at most, so that together they keep no more than `most`.
fn level(mut counts: Vec<u64>, most: u64) -> u64 {
    counts.sort_unstable();
    let (mut left, mut others) = (most, counts.len() as u64);
    for count in counts {
        // From here on everybody has at least so many.
        if count.saturating_mul(others) > left {
            return left / others;
        }
        left -= count;
        others -= 1;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// How many of each remain, of entries by these, oldest first.
    fn kept(entries: &str, most: u64) -> BTreeMap<char, u64> {
        let count = |entries: &mut dyn Iterator<Item = char>| {
            entries.fold(HashMap::new(), |mut counts, account| {
                *counts.entry(account).or_insert(0) += 1;
                counts
            })
        };
        let Some(mut excess) = Excess::of(count(&mut entries.chars()), most) else {
            return count(&mut entries.chars()).into_iter().collect();
        };
        let kept = count(&mut entries.chars().filter(|account| !excess.takes(account)));
        assert!(excess.is_settled());
        kept.into_iter().collect()
    }

    #[test]
    fn who_has_the_most_loses_first() {
        for (entries, most, expected) in [
            ("", 0, &[][..]),
            ("aab", 3, &[('a', 2), ('b', 1)]),
            ("aab", 2, &[('a', 1), ('b', 1)]),
            ("baaaaaaaaa", 5, &[('a', 4), ('b', 1)]),
            ("aaaaaaaaab", 5, &[('a', 4), ('b', 1)]),
            ("aaaabbbbccccccccc", 11, &[('a', 3), ('b', 4), ('c', 4)]),
            ("aabbcc", 0, &[]),
        ] {
            assert_eq!(kept(entries, most), expected.iter().copied().collect(), "{entries} {most}");
        }
    }

    #[test]
    fn strangers_are_one_and_keys_are_many() {
        let key = |n| Principal::Key { id: ApiKeyId::from_bytes([n; 12]), name: "ci".into() };
        assert_ne!(key(1).account(), key(2).account());
        let claims = |n| Principal::Unauthenticated(Some(ApiKeyId::from_bytes([n; 12])));
        assert_eq!(claims(1).account(), claims(2).account());
        assert_eq!(claims(1).account(), Principal::Several.account());
    }

    proptest! {
        /// Exactly as many go as have to, and who has an equal share or less loses nothing.
        #[test]
        fn shares_are_fair(entries in "[a-e]{0,60}", most in 0_u64..50) {
            let (before, after) = (kept(&entries, u64::MAX), kept(&entries, most));
            let total: u64 = after.values().sum();
            prop_assert_eq!(total, (entries.len() as u64).min(most));
            let fair = most / (before.len() as u64).max(1);
            for (account, count) in before {
                let kept = after.get(&account).copied().unwrap_or(0);
                prop_assert!(kept >= count.min(fair), "{} keeps {} of {}", account, kept, count);
            }
        }
    }
}
