//! Webhooks, what is left of deleted ones, and replies to repeatable requests.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::{
    Corrupt, decode, policy,
    protection::ProtectionRecord,
    replay::ReplayRecord,
    request::RequestShapeRecord,
    signing::{PreviousRecord, SignatureRecord, pair, secret},
};
use crate::model::{
    ids::{EventTypeName, Tenant, WebhookId, WebhookNo},
    ordering::{HeadRule, Ordering},
    protection::Protection,
    request::RequestShape,
    scope::{LabelFilter, PayloadFilter, Scope},
    signing::{Keys, Scheme},
    target::Target,
    time::Timestamp,
    webhook::{DisableReason, Settings, Subscription, Switch, Webhook},
};

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct WebhookRecord {
    #[prost(uint64, tag = "1")]
    no: u64,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(string, tag = "3")]
    tenant: String,
    #[prost(message, optional, tag = "4")]
    settings: Option<SettingsRecord>,
    /// 0: enabled; 1: disabled on request; 2: gone; 3: failing.
    #[prost(uint32, tag = "7")]
    switch: u32,
    #[prost(sint64, tag = "8")]
    disable_time: i64,
    #[prost(uint64, tag = "9")]
    version: u64,
    #[prost(sint64, tag = "10")]
    create_time: i64,
    #[prost(sint64, tag = "11")]
    update_time: i64,
    #[prost(bytes = "vec", tag = "12")]
    secret: Vec<u8>,
    /// Its row in `CONFIG_LOG`.
    #[prost(uint64, tag = "13")]
    pub(in super::super) config_seq: u64,
    /// What its ed25519 key pair is made from; empty if it has none.
    #[prost(bytes = "vec", tag = "20")]
    key_pair_seed: Vec<u8>,
    /// Keys that were replaced, the newest first.
    #[prost(message, repeated, tag = "21")]
    previous_keys: Vec<PreviousRecord>,
}

impl WebhookRecord {
    pub(in super::super) fn new(webhook: &Webhook, config_seq: u64) -> Self {
        let (switch, disable_time) = match webhook.switch {
            Switch::Enabled => (0, 0),
            Switch::Disabled { reason: DisableReason::Requested, since } => (1, since.micros()),
            Switch::Disabled { reason: DisableReason::Gone, since } => (2, since.micros()),
            Switch::Disabled { reason: DisableReason::Failing, since } => (3, since.micros()),
        };
        Self {
            no: webhook.no.0,
            id: webhook.id.as_bytes().to_vec(),
            tenant: webhook.tenant.as_str().to_owned(),
            settings: Some(SettingsRecord::new(&webhook.settings)),
            switch,
            disable_time,
            version: webhook.version,
            create_time: webhook.create_time.micros(),
            update_time: webhook.update_time.micros(),
            secret: webhook.keys.secret().as_bytes().to_vec(),
            config_seq,
            key_pair_seed: webhook.keys.pair().map_or_else(Vec::new, |pair| pair.seed().to_vec()),
            previous_keys: webhook.keys.previous().iter().map(PreviousRecord::new).collect(),
        }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("webhook", bytes)
    }

    pub(in super::super) fn webhook(self) -> Result<Webhook, Corrupt> {
        let since = Timestamp::from_micros(self.disable_time);
        let switch = match self.switch {
            0 => Switch::Enabled,
            1 => Switch::Disabled { reason: DisableReason::Requested, since },
            2 => Switch::Disabled { reason: DisableReason::Gone, since },
            3 => Switch::Disabled { reason: DisableReason::Failing, since },
            other => return Err(Corrupt::new("webhook's switch", other)),
        };
        let settings = self.settings.unwrap_or_default().settings()?;
        let pair = (!self.key_pair_seed.is_empty()).then(|| pair(&self.key_pair_seed)).transpose()?;
        if settings.scheme() == Scheme::StandardV1a && pair.is_none() {
            return Err(Corrupt::new("webhook's key pair", "it is missing"));
        }
        let previous = self.previous_keys.iter().map(PreviousRecord::previous).collect::<Result<_, _>>()?;
        Ok(Webhook {
            no: WebhookNo(self.no),
            id: webhook_id(&self.id)?,
            tenant: self.tenant.parse().map_err(|error| Corrupt::new("tenant", error))?,
            settings,
            switch,
            version: self.version,
            create_time: Timestamp::from_micros(self.create_time),
            update_time: Timestamp::from_micros(self.update_time),
            keys: Keys::new(secret(&self.secret)?, pair, previous),
        })
    }
}

/// What a webhook's owner decided.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct SettingsRecord {
    #[prost(string, tag = "1")]
    url: String,
    /// Empty: all.
    #[prost(string, repeated, tag = "2")]
    event_types: Vec<String>,
    #[prost(string, tag = "3")]
    display_name: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(btree_map = "string, string", tag = "5")]
    metadata: BTreeMap<String, String>,
    /// Empty: any labels.
    #[prost(btree_map = "string, message", tag = "6")]
    label_filter: BTreeMap<String, ValuesRecord>,
    /// Empty: any body.
    #[prost(string, tag = "7")]
    payload_filter: String,
    #[prost(uint64, optional, tag = "30")]
    attempt_timeout_us: Option<u64>,
    #[prost(message, optional, tag = "31")]
    retry: Option<policy::RetryRecord>,
    #[prost(uint64, optional, tag = "32")]
    max_age_us: Option<u64>,
    #[prost(message, optional, tag = "40")]
    protection: Option<ProtectionRecord>,
    /// Absent: as usual.
    #[prost(message, optional, tag = "10")]
    request: Option<RequestShapeRecord>,
    /// Absent: as the default is.
    #[prost(message, optional, tag = "20")]
    signature: Option<SignatureRecord>,
    #[prost(bool, tag = "50")]
    ordered: bool,
    /// Attempts of a head; 0: until it has ended.
    #[prost(uint32, tag = "51")]
    skip_after: u32,
}

/// The values that a label may have.
#[derive(Clone, PartialEq, Message)]
struct ValuesRecord {
    #[prost(string, repeated, tag = "1")]
    values: Vec<String>,
}

impl SettingsRecord {
    fn new(settings: &Settings) -> Self {
        let event_types = match &settings.subscription {
            Subscription::All => Vec::new(),
            Subscription::Types(types) => types.iter().map(|name| name.as_str().to_owned()).collect(),
        };
        let payload_filter = settings.scope.as_ref().and_then(|scope| scope.payload());
        let (attempt_timeout_us, retry, max_age_us) = policy::fields(settings.policy.as_deref());
        Self {
            url: settings.target.url().as_str().to_owned(),
            event_types,
            display_name: settings.display_name.clone().into(),
            description: settings.description.clone().into(),
            metadata: settings.metadata.clone(),
            label_filter: settings.scope.as_ref().map(|scope| label_filter(scope.labels())).unwrap_or_default(),
            payload_filter: payload_filter.map_or_else(String::new, |filter| filter.text().to_owned()),
            attempt_timeout_us,
            retry,
            max_age_us,
            protection: settings.protection.as_deref().map(ProtectionRecord::new),
            request: settings.request.as_deref().map(RequestShapeRecord::new),
            signature: settings.signature.as_deref().map(SignatureRecord::new),
            ordered: settings.ordering.ordered,
            skip_after: match settings.ordering.head {
                HeadRule::Block => 0,
                HeadRule::Skip { after } => after.get().into(),
            },
        }
    }

    fn settings(self) -> Result<Settings, Corrupt> {
        let types: BTreeSet<_> = self.event_types.iter().map(|name| EventTypeName::new(name)).collect();
        let head = match self.skip_after {
            0 => HeadRule::Block,
            after => HeadRule::skip_after(after).ok_or_else(|| Corrupt::new("webhook's head rule", after))?,
        };
        let labels = LabelFilter::new(self.label_filter.into_iter().map(|(label, allowed)| (label, allowed.values)));
        let payload = (!self.payload_filter.is_empty()).then(|| PayloadFilter::from_stored(&self.payload_filter));
        Ok(Settings {
            scope: Scope::new(labels, payload),
            target: Target::from_stored(&self.url).map_err(|error| Corrupt::new("webhook's URL", error))?,
            subscription: Subscription::to(types),
            display_name: self.display_name.into(),
            description: self.description.into(),
            metadata: self.metadata,
            policy: policy::policy((self.attempt_timeout_us, self.retry, self.max_age_us))?,
            protection: self.protection.map(ProtectionRecord::protection).transpose()?.and_then(Protection::boxed),
            request: self.request.map(RequestShapeRecord::shape).transpose()?.and_then(RequestShape::settled),
            signature: self.signature.as_ref().map(SignatureRecord::settings).transpose()?.flatten(),
            ordering: Ordering { ordered: self.ordered, head },
        })
    }
}

fn label_filter(filter: &LabelFilter) -> BTreeMap<String, ValuesRecord> {
    let record = |values: &[Box<str>]| ValuesRecord { values: values.iter().map(ToString::to_string).collect() };
    filter.labels().map(|(label, values)| (label.to_owned(), record(values))).collect()
}

/// What is remembered of a deleted webhook.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct TombstoneRecord {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    tenant: String,
    #[prost(sint64, tag = "3")]
    time: i64,
}

impl TombstoneRecord {
    pub(in super::super) fn new(webhook: &Webhook, time: Timestamp) -> Self {
        Self { id: webhook.id.as_bytes().to_vec(), tenant: webhook.tenant.as_str().to_owned(), time: time.micros() }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("tombstone", bytes)
    }

    pub(in super::super) fn id(&self) -> Result<WebhookId, Corrupt> {
        webhook_id(&self.id)
    }

    pub(in super::super) fn tenant(&self) -> Result<Tenant, Corrupt> {
        self.tenant.parse().map_err(|error| Corrupt::new("tenant", error))
    }

    pub(in super::super) fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.time)
    }
}

/// What was pending for a webhook and is cancelled, though the webhook goes on.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in super::super) struct DropRecord {
    /// Deliveries of events below this number.
    #[prost(uint64, tag = "1")]
    pub(in super::super) below: u64,
    /// When it was decided.
    #[prost(sint64, tag = "2")]
    pub(in super::super) time: i64,
}

impl DropRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("drop", bytes)
    }
}

/// A reply that a repeated request gets again.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct RequestRecord {
    /// Hash of the request, 16 bytes little-endian.
    #[prost(bytes = "vec", tag = "1")]
    pub(in super::super) hash: Vec<u8>,
    /// When it was answered.
    #[prost(sint64, tag = "2")]
    pub(in super::super) time: i64,
    /// What was created.
    #[prost(message, optional, tag = "3")]
    pub(in super::super) webhook: Option<WebhookRecord>,
    /// The replay that was started, as it was then.
    #[prost(message, optional, tag = "30")]
    pub(in super::super) replay: Option<ReplayRecord>,
}

impl RequestRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("request", bytes)
    }
}

fn webhook_id(bytes: &[u8]) -> Result<WebhookId, Corrupt> {
    let bytes = bytes.try_into().map_err(|error| Corrupt::new("webhook id", error))?;
    Ok(WebhookId::from_bytes(bytes))
}
