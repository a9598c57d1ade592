//! Waiting for things, never for time.

use std::{future::Future, time::Duration};

/// How long a test waits for something that should happen at once. Generous, because it is only spent on failures.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits for `future`.
///
/// # Panics
/// When it takes longer than [`PATIENCE`]; the message names `what` did not happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_at_most(PATIENCE, what, future).await
}

/// Waits for `future`, for something that has its own time limit.
///
/// # Panics
/// When it takes longer than `limit`; the message names `what` did not happen.
pub async fn within_at_most<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(limit, future).await else {
        panic!("waited {limit:?} in vain for {what}");
    };
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "waited 1ms in vain for godot")]
    async fn says_what_it_waited_for() {
        within_at_most(Duration::from_millis(1), "godot", std::future::pending::<()>()).await;
    }
}
