//! The body of every event: JSON text of any length from [`BODY_BYTES_MIN`] on that says when it was sent and which one it is.

use bytes::{Bytes, BytesMut};

/// The body of almost every row.
pub(crate) const BODY_BYTES: usize = 1024;
/// Shortest body.
pub(crate) const BODY_BYTES_MIN: usize = 64;

const HEAD: &[u8] = br#"{"sent":"0000000000000000","n":"0000000000000000","text":""#;
const TAIL: &[u8] = br#""}"#;
const SENT: std::ops::Range<usize> = 9..25;
const NUMBER: std::ops::Range<usize> = 32..48;

/// The body of event `number`, sent at `sent` (see `moment`), of `bytes` bytes.
pub(crate) fn body(number: u64, sent: u64, bytes: usize) -> Bytes {
    let mut body = BytesMut::zeroed(bytes.max(BODY_BYTES_MIN));
    let text_end = body.len() - TAIL.len();
    body[..HEAD.len()].copy_from_slice(HEAD);
    body[HEAD.len()..text_end].fill(b'a');
    body[text_end..].copy_from_slice(TAIL);
    write_hex(&mut body[SENT], sent);
    write_hex(&mut body[NUMBER], number);
    body.freeze()
}

/// When it was sent, and which one it is; `None` if it is none of ours.
pub(crate) fn read(body: &[u8]) -> Option<(u64, u64)> {
    Some((read_hex(body.get(SENT)?)?, read_hex(body.get(NUMBER)?)?))
}

/// What an event adds to the sum of what arrived. Sums of sets that differ do differ, but for a chance of one in 2⁶⁴; so
/// they tell apart what plain counts do not: one lost and another one doubled.
///
/// The finaliser of `SplitMix64`: <https://prng.di.unimi.it/splitmix64.c>.
pub(crate) fn fingerprint(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn write_hex(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::try_from(value & 15).expect("four bits")];
        value >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        Some((value << 4) | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_the_length_asked_for_and_say_what_they_are() {
        for (number, sent, bytes) in [(0, 0, 64), (1, 2, 65), (u64::MAX, u64::MAX - 1, 1024), (3, 4, 32 * 1024)] {
            let body = body(number, sent, bytes);
            assert_eq!(body.len(), bytes);
            assert_eq!(read(&body), Some((sent, number)));
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(json["n"], format!("{number:016x}"));
        }
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(&[b'x'; 1024]), None);
    }

    #[test]
    fn fingerprints_tell_a_loss_and_a_double_from_neither() {
        let sum = |numbers: &[u64]| numbers.iter().fold(0_u64, |sum, &n| sum.wrapping_add(fingerprint(n)));
        assert_eq!(sum(&[1, 2, 3]), sum(&[3, 1, 2]));
        assert_ne!(sum(&[1, 2, 3]), sum(&[1, 1, 3]));
        assert_ne!(sum(&[1, 2, 3]), sum(&[1, 1, 4]));
    }
}
