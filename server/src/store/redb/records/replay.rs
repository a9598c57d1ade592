//! Replays: what each is to do, and how far it is.

use prost::Message;

use super::{Corrupt, decode, log, state};
use crate::model::{
    ids::{EventSeq, EventTypeName, ReplayId, WebhookNo},
    replay::{Replay, ReplayProgress, ReplaySpec, ReplayState, StoppedBy},
    time::Timestamp,
};

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct ReplayRecord {
    #[prost(uint32, tag = "1")]
    no: u32,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(string, tag = "3")]
    tenant: String,
    #[prost(uint64, tag = "4")]
    webhook: u64,
    #[prost(bytes = "vec", tag = "5")]
    webhook_id: Vec<u8>,
    #[prost(string, repeated, tag = "6")]
    event_types: Vec<String>,
    #[prost(uint32, repeated, tag = "7")]
    states: Vec<u32>,
    #[prost(sint64, optional, tag = "8")]
    start: Option<i64>,
    #[prost(sint64, tag = "9")]
    end: i64,
    #[prost(uint32, tag = "10")]
    per_second: u32,
    #[prost(uint64, tag = "11")]
    first: u64,
    #[prost(uint64, tag = "12")]
    next: u64,
    #[prost(uint64, tag = "13")]
    last: u64,
    #[prost(uint64, tag = "14")]
    examined: u64,
    #[prost(uint64, tag = "15")]
    created: u64,
    #[prost(uint64, tag = "16")]
    expired: u64,
    #[prost(uint64, tag = "17")]
    delivered: u64,
    #[prost(uint64, tag = "18")]
    failed: u64,
    #[prost(uint64, tag = "19")]
    cancelled: u64,
    #[prost(sint64, optional, tag = "20")]
    reached: Option<i64>,
    /// 1: running; 2: succeeded; 3: cancelled on request; 4: cancelled with its webhook; 5: failed.
    #[prost(uint32, tag = "21")]
    state: u32,
    /// Why it failed.
    #[prost(string, tag = "22")]
    reason: String,
    #[prost(bool, tag = "23")]
    drops: bool,
    #[prost(sint64, tag = "24")]
    create_time: i64,
    #[prost(sint64, optional, tag = "25")]
    finish_time: Option<i64>,
}

impl ReplayRecord {
    pub(in super::super) fn new(replay: &Replay) -> Self {
        let Replay { spec, progress, .. } = replay;
        let (state, reason) = match &replay.state {
            ReplayState::Running => (1, String::new()),
            ReplayState::Succeeded => (2, String::new()),
            ReplayState::Cancelled(StoppedBy::Request) => (3, String::new()),
            ReplayState::Cancelled(StoppedBy::Deletion) => (4, String::new()),
            ReplayState::Failed(why) => (5, why.to_string()),
        };
        Self {
            no: replay.no,
            id: replay.id.as_bytes().to_vec(),
            tenant: spec.tenant.as_str().to_owned(),
            webhook: spec.webhook.0,
            webhook_id: spec.webhook_id.as_bytes().to_vec(),
            event_types: spec.event_types.iter().map(|name| name.as_str().to_owned()).collect(),
            states: spec.states.iter().map(|state| state::to_disk(*state)).collect(),
            start: spec.start.map(Timestamp::micros),
            end: spec.end.micros(),
            per_second: spec.per_second,
            first: replay.first.0,
            next: replay.next.0,
            last: replay.last.0,
            examined: progress.examined,
            created: progress.created,
            expired: progress.expired,
            delivered: progress.delivered,
            failed: progress.failed,
            cancelled: progress.cancelled,
            reached: progress.reached.map(Timestamp::micros),
            state,
            reason,
            drops: replay.drops,
            create_time: replay.create_time.micros(),
            finish_time: replay.finish_time.map(Timestamp::micros),
        }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("replay", bytes)
    }

    pub(in super::super) fn replay(self) -> Result<Replay, Corrupt> {
        let state = match self.state {
            1 => ReplayState::Running,
            2 => ReplayState::Succeeded,
            3 => ReplayState::Cancelled(StoppedBy::Request),
            4 => ReplayState::Cancelled(StoppedBy::Deletion),
            5 => ReplayState::Failed(self.reason.into()),
            other => return Err(Corrupt::new("replay's state", other)),
        };
        let id = self.id.try_into().map_err(|_| Corrupt::new("replay's id", "wrong length"))?;
        Ok(Replay {
            no: self.no,
            id: ReplayId::from_bytes(id),
            spec: ReplaySpec {
                tenant: log::tenant(&self.tenant)?,
                webhook: WebhookNo(self.webhook),
                webhook_id: log::webhook_id(&self.webhook_id)?,
                event_types: self.event_types.iter().map(|name| EventTypeName::new(name)).collect(),
                states: self.states.into_iter().map(state::from_disk).collect::<Result<_, _>>()?,
                start: self.start.map(Timestamp::from_micros),
                end: Timestamp::from_micros(self.end),
                per_second: self.per_second,
            },
            first: EventSeq(self.first),
            next: EventSeq(self.next),
            last: EventSeq(self.last),
            progress: ReplayProgress {
                examined: self.examined,
                created: self.created,
                expired: self.expired,
                delivered: self.delivered,
                failed: self.failed,
                cancelled: self.cancelled,
                reached: self.reached.map(Timestamp::from_micros),
            },
            state,
            drops: self.drops,
            create_time: Timestamp::from_micros(self.create_time),
            finish_time: self.finish_time.map(Timestamp::from_micros),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{delivery::DeliveryState, ids::WebhookId};

    #[test]
    fn everything_is_kept() {
        let at = Timestamp::from_micros;
        let spec = ReplaySpec {
            tenant: "acme".parse().unwrap(),
            webhook: WebhookNo(3),
            webhook_id: WebhookId::generate(),
            event_types: ["ADD_TAG", "order.created"].map(EventTypeName::new).into(),
            states: vec![DeliveryState::Failed, DeliveryState::Cancelled],
            start: Some(at(-5)),
            end: at(1 << 50),
            per_second: 7,
        };
        let begun = Replay::begin(9, ReplayId::generate(), spec, (EventSeq(4), EventSeq(1 << 60)), at(6));
        let progress = ReplayProgress {
            examined: 1,
            created: 2,
            expired: 3,
            delivered: 4,
            failed: 5,
            cancelled: 6,
            reached: Some(at(7)),
        };
        let full = Replay { next: EventSeq(77), progress, drops: true, ..begun.clone() };
        let ends = [
            ReplayState::Succeeded,
            ReplayState::Cancelled(StoppedBy::Request),
            ReplayState::Cancelled(StoppedBy::Deletion),
            ReplayState::Failed("why".into()),
        ];
        let ended = ends.map(|state| full.clone().ended(state, at(8)));
        for replay in ended.into_iter().chain([begun, full]) {
            let read = ReplayRecord::decode_from(&ReplayRecord::new(&replay).encode_to_vec()).unwrap();
            assert_eq!(read.replay().unwrap(), replay);
        }
        assert!(ReplayRecord::default().replay().is_err());
    }
}
