//! Whether the machine's clock can be believed.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};

use super::write_gauge;
use crate::clock::Clock;

impl Collector for Clock {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "By how much the machine's clock is ahead of the daemon's; negative: behind";
        // To the millisecond, which a float holds for longer than anything lasts.
        #[expect(clippy::cast_precision_loss, reason = "years in milliseconds are below 2^52")]
        let ahead = (self.ahead() / 1_000) as f64 / 1_000.0;
        write_gauge(&mut encoder, "clock_ahead", help, Some(&Unit::Seconds), ahead)?;
        let help = "1 while the machine's clock is doubted, and nothing is removed or expires, else 0";
        write_gauge(&mut encoder, "clock_doubted", help, None, u64::from(self.doubted().is_some()))
    }
}
