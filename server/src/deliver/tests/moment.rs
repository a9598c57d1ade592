//! By which clock an attempt is made.

use std::time::SystemTime;

use super::*;
use crate::model::signing::{Key, Secret};

const TEN_YEARS: Duration = Duration::from_hours(24 * 3650);

/// It jumps by ten years after it was looked at once.
fn jumping() -> SystemTime {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let begun = SystemTime::UNIX_EPOCH + 5 * TEN_YEARS;
    if LOOKS.fetch_add(1, Ordering::SeqCst) == 0 { begun } else { begun + TEN_YEARS }
}

/// A signature says what the machine's clock shows; which replaced secrets still sign, the clock that never jumps.
#[tokio::test]
async fn a_replaced_secret_signs_along_though_the_wall_clock_jumps() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let clock = Clock::following(jumping);
    let mut job = job(&receiver.url(), b"{}");
    let new = Key::Secret(Secret::from_bytes(&[9; 24]).unwrap());
    job.webhook = Arc::new(job.webhook.rotated(new, Duration::from_hours(24), clock.now()));
    let attempts = Attempts { clock, ..attempts(&loopback(), &resolver::hosts_file_only()) };
    let result = attempts.perform(job).await.result.unwrap();
    assert_eq!(failed(&result), (Some(200), None, ""));
    let request = receiver.received();
    assert_eq!(request.header("webhook-timestamp"), clock.wall().seconds().to_string());
    assert_eq!(request.header("webhook-signature").split(' ').count(), 2);
}
