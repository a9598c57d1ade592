//! Webhooks, what is left of deleted ones, and replies to repeatable requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message;

use super::{
    Corrupt, decode,
    encrypted::{EncryptedRecord, Vault},
    ownership::OwnershipRecord,
    policy,
    protection::ProtectionRecord,
    replay::ReplayRecord,
    request::RequestShapeRecord,
    signing::SignatureRecord,
    tls::TlsRecord,
};
use crate::model::{
    ids::{EventTypeName, Tenant, WebhookId, WebhookNo},
    ordering::{HeadRule, Ordering},
    protection::Protection,
    replay::Replay,
    request::RequestShape,
    scope::{LabelFilter, PayloadFilter, Scope},
    signing::Scheme,
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
    /// Its row in `CONFIG_LOG`.
    #[prost(uint64, tag = "13")]
    pub(in super::super) config_seq: u64,
    /// Its keys, headers and credentials.
    #[prost(message, optional, tag = "22")]
    encrypted: Option<EncryptedRecord>,
}

impl WebhookRecord {
    pub(in super::super) fn new(webhook: &Webhook, config_seq: u64, vault: Vault<'_>) -> Self {
        let drawer = vault.drawer(webhook.tenant.as_str(), webhook.id.as_bytes());
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
            config_seq,
            encrypted: Some(EncryptedRecord::new(&webhook.keys, &webhook.settings, drawer)),
        }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("webhook", bytes)
    }

    /// Encrypts with the present key what is with another. Whether something was.
    pub(in super::super) fn renew(&mut self, vault: Vault<'_>) -> Result<bool, Corrupt> {
        let drawer = vault.drawer(&self.tenant, &self.id);
        self.encrypted.as_mut().map_or(Ok(false), |encrypted| encrypted.renew(drawer))
    }

    pub(in super::super) fn webhook(self, vault: Vault<'_>) -> Result<Webhook, Corrupt> {
        let drawer = vault.drawer(&self.tenant, &self.id);
        let since = Timestamp::from_micros(self.disable_time);
        let switch = match self.switch {
            0 => Switch::Enabled,
            1 => Switch::Disabled { reason: DisableReason::Requested, since },
            2 => Switch::Disabled { reason: DisableReason::Gone, since },
            3 => Switch::Disabled { reason: DisableReason::Failing, since },
            other => return Err(Corrupt::new("webhook's switch", other)),
        };
        let mut record = self.settings.unwrap_or_default();
        let tls = record.tls.take();
        let mut settings = record.settings()?;
        let encrypted = self.encrypted.unwrap_or_default();
        if let Some(tls) = tls {
            settings.tls = Some(Arc::new(tls.settings(encrypted.client_key(drawer)?)?));
        }
        let keys = encrypted.keys(drawer)?;
        if settings.scheme() == Scheme::StandardV1a && keys.pair().is_none() {
            return Err(Corrupt::new("webhook's key pair", "it is missing"));
        }
        if encrypted.is_of_requests() {
            encrypted.complete(settings.request.get_or_insert_default(), drawer)?;
        }
        Ok(Webhook {
            no: WebhookNo(self.no),
            id: webhook_id(&self.id)?,
            tenant: self.tenant.parse().map_err(|error| Corrupt::new("tenant", error))?,
            settings,
            switch,
            version: self.version,
            create_time: Timestamp::from_micros(self.create_time),
            update_time: Timestamp::from_micros(self.update_time),
            keys,
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
    /// Absent: its receiver is not asked.
    #[prost(message, optional, tag = "60")]
    ownership: Option<OwnershipRecord>,
    /// Absent: as with every receiver.
    #[prost(message, optional, tag = "70")]
    tls: Option<TlsRecord>,
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
            ownership: settings.ownership.as_deref().map(OwnershipRecord::new),
            tls: settings.tls.as_deref().map(TlsRecord::new),
        }
    }

    /// All but those of TLS, which are not complete without the key.
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
            ownership: self.ownership.as_ref().map(OwnershipRecord::ownership).transpose()?.map(Box::new),
            tls: None,
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
    /// When it was answered.
    #[prost(sint64, tag = "2")]
    pub(in super::super) time: i64,
    /// What was created.
    #[prost(message, optional, tag = "3")]
    webhook: Option<WebhookRecord>,
    /// Hash of the request, 16 bytes little-endian, encrypted: it is over what is secret, too, and a password may be guessed.
    #[prost(bytes = "vec", tag = "4")]
    hash: Vec<u8>,
    /// The replay that was started, as it was then.
    #[prost(message, optional, tag = "30")]
    replay: Option<ReplayRecord>,
}

/// The hash of a request, in errors and in what is authenticated.
const REQUEST_HASH: &str = "request's hash";

impl RequestRecord {
    pub(in super::super) fn new(hash: u128, time: Timestamp, webhook: &Webhook, vault: Vault<'_>) -> Self {
        let drawer = vault.drawer(webhook.tenant.as_str(), webhook.id.as_bytes());
        Self {
            time: time.micros(),
            webhook: Some(WebhookRecord::new(webhook, 0, vault)),
            hash: drawer.put(REQUEST_HASH, &hash.to_le_bytes()),
            replay: None,
        }
    }

    /// One that started a replay: nothing in it is secret, and its hash lies open.
    pub(in super::super) fn of_replay(hash: u128, time: Timestamp, replay: &Replay) -> Self {
        Self {
            time: time.micros(),
            webhook: None,
            hash: hash.to_le_bytes().to_vec(),
            replay: Some(ReplayRecord::new(replay)),
        }
    }

    /// The replay that a request with this hash started; `None` if it was another request.
    pub(in super::super) fn replay(self, hash: u128) -> Result<Option<Replay>, Corrupt> {
        let replay = self.replay.filter(|_| self.hash == hash.to_le_bytes());
        replay.map(ReplayRecord::replay).transpose()
    }

    /// What a request with this hash created; `None` if it was another request.
    pub(in super::super) fn answer(self, hash: u128, vault: Vault<'_>) -> Result<Option<Webhook>, Corrupt> {
        let Some(webhook) = self.webhook else { return Ok(None) };
        let known = vault.drawer(&webhook.tenant, &webhook.id).take(REQUEST_HASH, &self.hash)?;
        if known.as_slice() == hash.to_le_bytes() { webhook.webhook(vault).map(Some) } else { Ok(None) }
    }

    /// Encrypts with the present key what is with another. Whether something was.
    pub(in super::super) fn renew(&mut self, vault: Vault<'_>) -> Result<bool, Corrupt> {
        let Some(webhook) = &mut self.webhook else { return Ok(false) };
        let hash = vault.drawer(&webhook.tenant, &webhook.id).renew(REQUEST_HASH, &mut self.hash)?;
        Ok(webhook.renew(vault)? | hash)
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("request", bytes)
    }
}

fn webhook_id(bytes: &[u8]) -> Result<WebhookId, Corrupt> {
    let bytes = bytes.try_into().map_err(|error| Corrupt::new("webhook id", error))?;
    Ok(WebhookId::from_bytes(bytes))
}
