//! `Retry-After`, which receivers write.

use std::time::Duration;

use postrider_server::model::{
    retry::{RetryPolicy, parse_retry_after},
    time::Timestamp,
};
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::harness::{explore, texts};

/// Whatever it says, and whenever: seconds are what they are, and the delay that follows is between what the schedule has and a day.
#[test]
fn nothing_a_receiver_says_makes_a_delay_unreasonable() {
    let policy = RetryPolicy::default();
    let times = prop_oneof![0..4_102_444_800_000_000_i64, -62_135_596_800_000_000..253_402_300_799_999_999_i64];
    let cases = (texts(include_str!("corpus/retry_after.txt")), times, any::<u64>());
    explore("Retry-After", cases, |(text, now, seed)| {
        let asked = parse_retry_after(&text, Timestamp::from_micros(now));
        let digits = text.trim();
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let seconds = digits.parse().unwrap_or(u64::MAX);
            prop_assert_eq!(asked, Some(Duration::from_secs(seconds)));
        } else if asked.is_some() {
            prop_assert!(text.contains(' ') && text.contains(':'), "{:?} is no date", text);
        }
        let delay = policy.schedule_of(None).delay(1, asked, &mut StdRng::seed_from_u64(seed));
        prop_assert!(delay >= Duration::from_secs(4) && delay <= Duration::from_hours(24), "{:?}", delay);
        Ok(())
    });
}
