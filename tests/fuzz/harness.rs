//! How long, from which seed, and what the texts are made of.

use std::{
    cell::Cell,
    fmt::Debug,
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

/// Seconds that each harness goes on when nobody says otherwise: all of them together take less than a minute of one processor.
const SECONDS: u64 = 8;
/// What everybody's run begins with, so that one that fails fails again; a run of so many seconds begins with something else.
const FIXED_SEED: u64 = 0x0070_6f73_7472_6964;
/// Looks at the clock after so many cases.
const CASES: u32 = 32;
/// Steps to a smaller case that fails, at most.
const SHRINKS_MAX: u32 = 2_000;
/// Changes made to one entry of a corpus, at most.
const CHANGES_MAX: usize = 6;
/// Most repetitions of what is repeated: enough to pass every limit of a text.
const REPETITIONS_MAX: usize = 3_000;

/// Holds the property against random values, until the time is up.
///
/// # Panics
/// When it does not hold; the message shows the smallest such value that was found, and the seed.
pub(crate) fn explore<T: Debug>(
    name: &str,
    values: impl Strategy<Value = T>,
    property: impl Fn(T) -> Result<(), TestCaseError>,
) {
    let seconds = setting("FUZZ_SECONDS");
    let seed = setting("SEED").unwrap_or_else(|| seconds.map_or(FIXED_SEED, |_| rand::random()));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: CASES, max_shrink_iters: SHRINKS_MAX, failure_persistence: None, ..Config::default() };
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
    let cases = Cell::new(0_u64);
    while Instant::now() < until {
        // A runner remembers how many cases it has seen, and is done for ever after so many.
        let mut runner = TestRunner::new_with_rng(config.clone(), rng.clone());
        rng = runner.new_rng();
        let run = runner.run(&values, |value| {
            cases.set(cases.get() + 1);
            property(value)
        });
        if let Err(failure) = run {
            panic!("{name}, after {} cases, SEED={seed}: {failure}", cases.get());
        }
    }
    println!("{name}: {} cases, SEED={seed}", cases.get());
    assert!(cases.get() >= u64::from(CASES), "{name} was not tried");
}

/// The entries of a corpus: its lines, but for comments.
pub(crate) fn entries(corpus: &'static str) -> Vec<&'static str> {
    let entries: Vec<_> = corpus.lines().filter(|line| !line.starts_with("## ")).collect();
    assert!(!entries.is_empty(), "a corpus has entries");
    entries
}

/// One change of a text.
#[derive(Debug, Clone)]
enum Change {
    /// Puts something there.
    Insert(Index, String),
    /// Takes so many characters away.
    Remove(Index, usize),
    /// Puts the end of another entry there.
    Splice(Index, &'static str, Index),
    /// Repeats what is from there to there.
    Repeat(Index, Index, usize),
}

/// Entries of a corpus, as they are and changed, and texts made of nothing.
pub(crate) fn texts(corpus: &'static str) -> impl Strategy<Value = String> {
    let entry = select(entries(corpus));
    let change = prop_oneof![
        4 => (any::<Index>(), piece()).prop_map(|(at, piece)| Change::Insert(at, piece)),
        2 => (any::<Index>(), 1..8_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        2 => (any::<Index>(), entry.clone(), any::<Index>()).prop_map(|(at, other, from)| Change::Splice(at, other, from)),
        1 => (any::<Index>(), any::<Index>(), 2..REPETITIONS_MAX).prop_map(|(a, b, times)| Change::Repeat(a, b, times)),
    ];
    let changed =
        (entry, vec(change, 0..CHANGES_MAX)).prop_map(|(entry, changes)| changes.iter().fold(entry.to_owned(), apply));
    let made = vec(piece(), 0..40).prop_map(|pieces| pieces.concat());
    prop_oneof![9 => changed, 1 => made]
}

/// A few characters that mean something to some reader, or any.
fn piece() -> impl Strategy<Value = String> {
    const TELLING: &[&str] = &[
        "\0",
        "\r\n",
        "\n",
        "\t",
        " ",
        "%00",
        "%0d%0a",
        "@",
        ":",
        "//",
        "\\",
        "#",
        "?",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "\"",
        "'",
        "-",
        "+",
        ".",
        ",",
        ";",
        "=",
        "&",
        "*",
        "/",
        "0",
        "9",
        "18446744073709551616",
        "-1",
        "1e999",
        "NaN",
        "::ffff:",
        "127.0.0.1",
        "\u{feff}",
        "\u{3002}",
        "\u{ff0e}",
        "\u{202e}",
        "\u{ad}",
        "é",
        "ß",
        "İ",
        "𝟙",
        "\u{7f}",
        "\u{80}",
    ];
    prop_oneof![
        3 => select(TELLING).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => (b' '..=b'~').prop_map(|byte| char::from(byte).to_string()),
    ]
}

#[expect(clippy::needless_pass_by_value, reason = "changes are folded over it")]
fn apply(text: String, change: &Change) -> String {
    let chars: Vec<char> = text.chars().collect();
    let place = |at: &Index| at.index(chars.len() + 1);
    let put = |at: usize, middle: &mut dyn Iterator<Item = char>, rest: usize| {
        chars[..at].iter().copied().chain(middle).chain(chars[rest..].iter().copied()).collect()
    };
    match change {
        Change::Insert(at, piece) => put(place(at), &mut piece.chars(), place(at)),
        Change::Remove(at, count) => {
            let at = place(at);
            put(at, &mut std::iter::empty(), (at + count).min(chars.len()))
        }
        Change::Splice(at, other, from) => {
            let skipped = from.index(other.chars().count() + 1);
            put(place(at), &mut other.chars().skip(skipped), chars.len())
        }
        Change::Repeat(a, b, times) => {
            let (a, b) = (place(a).min(place(b)), place(a).max(place(b)));
            let repeated = chars[a..b].iter().copied().cycle().take((b - a) * times);
            put(a, &mut repeated.take(REPETITIONS_MAX), b)
        }
    }
}

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "how much a test does is told by whoever runs it")]
pub(crate) fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
