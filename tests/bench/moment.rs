//! One clock for all processes of a benchmark.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the machine started: the same in every process, and never stepped.
pub(crate) fn now_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).expect("uptimes are positive");
    let nanos = u64::try_from(now.tv_nsec).expect("a fraction of a second is positive");
    seconds * 1_000_000 + nanos / 1_000
}

/// Sleeps until `micros` of this clock; some 50 µs too long, as the kernel's timers are.
pub(crate) fn sleep_until(micros: u64) {
    let wait = micros.saturating_sub(now_micros());
    if wait > 0 {
        std::thread::sleep(Duration::from_micros(wait));
    }
}
