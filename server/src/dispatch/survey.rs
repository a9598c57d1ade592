//! The slow look at all lanes: at start it finds what there is to do, later what the triggers missed.
//!
//! The first round asks for page after page. Later rounds start a jittered minute after the last one ended, and rest between
//! pages, so that even a million lanes cost little.

use std::time::Duration;

use rand::{Rng, RngExt as _};

use crate::{
    model::{ids::WebhookNo, time::Timestamp},
    store::LanePage,
};

/// Between rounds; stretched or shrunk by up to a quarter.
const ROUND_PAUSE: Duration = Duration::from_mins(1);
/// Between pages, after the first round.
const PAGE_PAUSE: Duration = Duration::from_millis(100);

/// Where the survey stands.
#[derive(Debug)]
pub(super) struct Survey {
    after: Option<WebhookNo>,
    /// When the next page is read; `None` while one is being read.
    next: Option<Timestamp>,
    first_round: bool,
}

impl Survey {
    /// Starts at once.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { after: None, next: Some(now), first_round: true }
    }

    /// When the next page is to be read.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Whether it is time for a page, which is the one after [`Self::after`]. One page at a time.
    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        self.next.take_if(|at| *at <= now).is_some()
    }

    /// How far the round has come.
    pub(super) fn after(&self) -> Option<WebhookNo> {
        self.after
    }

    /// A page was read.
    pub(super) fn read(&mut self, page: &LanePage, now: Timestamp, rng: &mut impl Rng) {
        self.after = page.next;
        let pause = match (self.after, self.first_round) {
            (Some(_), true) => Duration::ZERO,
            (Some(_), false) => PAGE_PAUSE,
            (None, _) => {
                self.first_round = false;
                ROUND_PAUSE.mul_f64(rng.random_range(0.75..1.25))
            }
        };
        self.next = Some(now + pause);
    }

    /// A page could not be read; it is tried again later.
    pub(super) fn failed(&mut self, retry: Timestamp) {
        self.next = Some(retry);
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::store::AsOf;

    #[test]
    fn the_first_round_hurries_and_later_ones_do_not() {
        let mut rng = StdRng::seed_from_u64(1);
        let page = |next: Option<u64>| LanePage { lanes: Vec::new(), next: next.map(WebhookNo), as_of: AsOf(1) };
        let mut now = Timestamp::from_micros(0);
        let mut survey = Survey::new(now);
        assert!(survey.begin(now));
        assert_eq!((survey.begin(now), survey.after(), survey.next()), (false, None, None), "one page at a time");
        survey.read(&page(Some(7)), now, &mut rng);
        assert_eq!((survey.begin(now), survey.after()), (true, Some(WebhookNo(7))));
        survey.failed(now + PAGE_PAUSE);
        assert!(!survey.begin(now));
        now = now + PAGE_PAUSE;
        assert_eq!((survey.begin(now), survey.after()), (true, Some(WebhookNo(7))), "the same page again");
        survey.read(&page(None), now, &mut rng);
        let next = survey.next().unwrap();
        assert!((45..=75).contains(&next.since(now).as_secs()));
        assert_eq!((survey.begin(next), survey.after()), (true, None));
        survey.read(&page(Some(9)), next, &mut rng);
        assert_eq!(survey.next(), Some(next + PAGE_PAUSE));
    }
}
