//! Headers that webhooks add.

use postrider_server::model::request::Headers;
use proptest::{collection::vec, prelude::*};

use crate::harness::{explore, texts};

/// Whatever is taken is one line of visible ASCII under a name that is nobody else's, and is read back as itself.
#[test]
fn headers_that_are_taken_are_harmless() {
    const NEVER: &[&str] = &["host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te"];
    let lines = texts(include_str!("corpus/headers.txt"));
    // A name and a value as the lines of the corpus have them, cut at the first colon.
    let header = lines.prop_map(|line| match line.split_once(':') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (line, String::new()),
    });
    explore("headers", vec(header, 0..4), |given| {
        let Ok(headers) = Headers::new(given.clone()) else { return Ok(()) };
        prop_assert_eq!(headers.iter().len(), given.len());
        for (name, value) in headers.texts() {
            prop_assert!(
                !NEVER.contains(&name) && !name.starts_with("webhook-") && !name.starts_with("x-forwarded-"),
                "{}",
                name
            );
            prop_assert!(
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'),
                "{}",
                name
            );
            prop_assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", value);
            prop_assert!(
                given.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value),
                "{}: {:?}",
                name,
                value
            );
        }
        let stored: Vec<_> = headers.texts().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(Headers::from_stored(stored), Ok(headers));
        Ok(())
    });
}
