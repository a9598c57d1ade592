//! Fuzzing on stable: whatever a stranger can make the daemon read is made up at random, from nothing and from a corpus of what is
//! near the edge, and what is read of it has to hold what its reader promises.
//!
//! Each harness goes on for 8 s from a seed that is always the same, one harness a thread: a change fails for what it did. To look
//! for what nobody has seen yet, say how long, and it is another seed each time:
//! `FUZZ_SECONDS=3600 cargo test -p postrider-tests --test fuzz -- --nocapture`. `SEED=n` repeats a run. What was found once goes
//! into the corpus.

mod durations;
mod filters;
mod harness;
mod headers;
mod keys;
mod requests;
mod retry_after;
mod schemas;
mod urls;
