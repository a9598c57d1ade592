//! Accepting connections, also when file descriptors have run out: it goes on after a pause instead of spinning.

use std::{future::Future, io, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

/// First and longest pause after a failed accept.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Tries until it succeeds.
pub(crate) async fn accept<T, F: Future<Output = io::Result<T>>>(mut accept: impl FnMut() -> F) -> T {
    let mut failures = 0;
    loop {
        match accept().await {
            Ok(accepted) => {
                if failures > 0 {
                    info!(accept.failures = failures, "connections are accepted again");
                }
                return accepted;
            }
            Err(error) if concerns_the_client(&error) => {}
            Err(error) => {
                failures += 1;
                let pause = pause_after(failures);
                if failures.is_power_of_two() {
                    warn!(%error, accept.failures = failures, "a connection cannot be accepted; trying again");
                }
                sleep(pause).await;
            }
        }
    }
}

/// Whether the error says only that this one client went away before it was accepted.
fn concerns_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// How long to wait after so many failures in a row: doubling, up to a limit.
fn pause_after(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE_MIN.saturating_mul(factor).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn accepting_goes_on_after_errors() {
        let attempts = Cell::new(0);
        let accepted = accept(|| {
            attempts.set(attempts.get() + 1);
            let result = match attempts.get() {
                1 => Err(io::Error::from_raw_os_error(24)),
                2 => Err(io::ErrorKind::ConnectionAborted.into()),
                3 => Err(io::Error::other("planted")),
                _ => Ok(()),
            };
            async { result }
        });
        accepted.await;
        assert_eq!(attempts.get(), 4);
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<u128> = [1, 2, 3, 8, 9, 33, u32::MAX].map(|n| pause_after(n).as_millis()).into();
        assert_eq!(pauses, [5, 10, 20, 640, 1000, 1000, 1000]);
    }
}
