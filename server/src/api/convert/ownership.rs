//! Contract ⇄ model for the consent of receivers.

use postrider_proto::v1;

use super::time;
use crate::model::ownership::{Consent, Ownership};

/// What a webhook's owner wants. Whether it is confirmed already is not theirs to say.
pub(super) fn ownership(verify: bool) -> Option<Box<Ownership>> {
    verify.then(|| Box::new(Ownership::Wanted))
}

/// What is wanted now, with the consent there was.
pub(super) fn restore(wanted: &mut Option<Box<Ownership>>, present: Option<&Ownership>) {
    if let (Some(wanted), Some(present)) = (wanted, present) {
        **wanted = present.clone();
    }
}

/// The consent as callers see it.
pub(super) fn reply(consent: &Consent) -> v1::Ownership {
    v1::Ownership {
        origin: consent.origin.to_string(),
        allowed_per_minute: consent.per_minute.map_or(0, |most| i32::try_from(most.get()).unwrap_or(i32::MAX)),
        confirm_time: Some(time(consent.time)),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::model::{ownership::Origin, time::Timestamp};

    #[test]
    fn consent_is_kept_while_it_is_wanted_and_shown_as_it_was_given() {
        let consent = |per_minute| Consent {
            origin: Origin::default(),
            per_minute: NonZeroU32::new(per_minute),
            time: Timestamp::from_micros(7_000_000),
        };
        let confirmed = Ownership::Confirmed(consent(120));
        for (verify, present, expected) in [
            (false, None, None),
            (false, Some(&confirmed), None),
            (true, None, Some(Ownership::Wanted)),
            (true, Some(&confirmed), Some(confirmed.clone())),
        ] {
            let mut wanted = ownership(verify);
            restore(&mut wanted, present);
            assert_eq!(wanted.as_deref(), expected.as_ref(), "{verify}, {present:?}");
        }
        let shown = reply(&consent(120));
        assert_eq!((shown.origin.as_str(), shown.allowed_per_minute), ("postrider", 120));
        assert_eq!(shown.confirm_time.unwrap().seconds, 7);
        assert_eq!(
            (reply(&consent(0)).allowed_per_minute, reply(&consent(u32::MAX)).allowed_per_minute),
            (0, i32::MAX)
        );
    }
}
