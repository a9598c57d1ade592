//! Where sorting what was never attempted has come to.

use prost::Message;

use super::{Corrupt, decode};
use crate::store::redb::ready::{Phase, Standing};

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(in super::super) struct SortingRecord {
    #[prost(uint32, tag = "1")]
    current: u32,
    /// 0: the other batch is empty; 1: being sorted, from `webhook`, `event`, `replay` on; 2: sorted.
    #[prost(uint32, tag = "2")]
    phase: u32,
    #[prost(uint64, tag = "3")]
    webhook: u64,
    #[prost(uint64, tag = "4")]
    event: u64,
    #[prost(uint32, tag = "5")]
    replay: u32,
}

impl SortingRecord {
    pub(in super::super) fn new(standing: Standing) -> Self {
        let (phase, (webhook, event, replay)) = match standing.phase {
            Phase::Empty => (0, (0, 0, 0)),
            Phase::Sorting(from) => (1, from),
            Phase::Spent => (2, (0, 0, 0)),
        };
        Self { current: u32::from(standing.current == 1), phase, webhook, event, replay }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("state of sorting", bytes)
    }

    pub(in super::super) fn standing(self) -> Result<Standing, Corrupt> {
        let phase = match self.phase {
            0 => Phase::Empty,
            1 => Phase::Sorting((self.webhook, self.event, self.replay)),
            2 => Phase::Spent,
            other => return Err(Corrupt::new("phase of sorting", other)),
        };
        let current = match self.current {
            0 => 0,
            1 => 1,
            other => return Err(Corrupt::new("batch", other)),
        };
        Ok(Standing { current, phase })
    }
}
