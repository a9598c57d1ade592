//! Webhooks: who wants which events, and where.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    ids::{EventTypeName, Tenant, WebhookId, WebhookNo},
    ordering::Ordering,
    ownership::{Consent, Ownership},
    policy::Policy,
    protection::{Pace, Protection},
    request::RequestShape,
    scope::{Scope, Verdict, View},
    signing::{Key, KeyPair, Keys, Scheme, SignatureSettings},
    target::Target,
    time::Timestamp,
    tls::TlsSettings,
};

/// Which event types a webhook receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// Every type, those added later included.
    All,
    /// These: ascending, without repeats, never none.
    Types(Box<[EventTypeName]>),
}

impl Subscription {
    /// To these types; none of them stands for all.
    pub fn to(types: BTreeSet<EventTypeName>) -> Self {
        if types.is_empty() { Self::All } else { Self::Types(types.into_iter().collect()) }
    }

    /// Whether events of this type are wanted.
    pub fn wants(&self, event_type: &EventTypeName) -> bool {
        match self {
            Self::All => true,
            Self::Types(types) => types.binary_search(event_type).is_ok(),
        }
    }

    /// Whether this type is asked for by its name.
    pub fn names(&self, event_type: &EventTypeName) -> bool {
        matches!(self, Self::Types(_)) && self.wants(event_type)
    }
}

/// Why a webhook is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisableReason {
    /// Its owner wanted it so.
    Requested,
    /// The receiver answered 410 Gone.
    Gone,
    /// It failed continuously for too long.
    Failing,
}

/// Whether deliveries are attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// They are.
    Enabled,
    /// They are held.
    Disabled {
        /// Why.
        reason: DisableReason,
        /// Since when.
        since: Timestamp,
    },
}

impl Switch {
    /// As its owner wants it from `time` on. What is disabled already keeps its reason.
    fn turn(self, enabled: bool, time: Timestamp) -> Self {
        match (enabled, self) {
            (true, _) => Self::Enabled,
            (false, Self::Disabled { .. }) => self,
            (false, Self::Enabled) => Self::Disabled { reason: DisableReason::Requested, since: time },
        }
    }
}

/// What its owner decides about a webhook and may change at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where deliveries go.
    pub target: Target,
    /// Which events it receives.
    pub subscription: Subscription,
    /// Which of those; `None`: all.
    pub scope: Option<Box<Scope>>,
    /// What people call it.
    pub display_name: Box<str>,
    /// Free text for people.
    pub description: Box<str>,
    /// Its owner's own notes; never sent.
    pub metadata: BTreeMap<String, String>,
    /// In which order it receives them.
    pub ordering: Ordering,
    /// How long its attempts take and how often they are repeated, where that is not left to the server.
    pub policy: Option<Box<Policy>>,
    /// What its receiver is protected with.
    pub protection: Option<Box<Protection>>,
    /// What its requests look like, if anything else than usual.
    pub request: Option<Box<RequestShape>>,
    /// How its requests are signed; `None`: as the default is.
    pub signature: Option<Box<SignatureSettings>>,
    /// Whether its receiver has to consent to what is sent to it; `None`: it is not asked.
    pub ownership: Option<Box<Ownership>>,
    /// Whose certificate its receiver must have, and what is shown to it; `None`: as with every receiver.
    pub tls: Option<Arc<TlsSettings>>,
}

impl Settings {
    /// Everything there, and nothing decided that need not be.
    pub fn new(target: Target, subscription: Subscription) -> Self {
        Self {
            target,
            subscription,
            scope: None,
            display_name: Box::default(),
            description: Box::default(),
            metadata: BTreeMap::new(),
            ordering: Ordering::default(),
            policy: None,
            protection: None,
            request: None,
            signature: None,
            ownership: None,
            tls: None,
        }
    }

    /// Whether the event that is looked at is one to receive, or why not.
    pub fn verdict(&self, view: &mut View<'_>) -> Verdict<'_> {
        if !self.subscription.wants(&view.event().event_type) {
            return Verdict::OtherType;
        }
        self.scope.as_ref().map_or(Verdict::Admitted, |scope| scope.admits(view))
    }

    /// What attempts have to keep to: what its owner decided, and within that what its receiver consented to.
    pub fn pace(&self) -> Pace {
        let pace = self.protection.as_deref().map_or_else(Pace::default, Pace::from);
        let Some(allowed) = self.ownership.as_ref().and_then(|ownership| ownership.allowed()) else { return pace };
        Pace { rate_limit: Some(pace.rate_limit.map_or(allowed, |own| own.and(&allowed))), ..pace }
    }

    /// Where its requests go, what events may add to the query aside.
    pub fn endpoint(&self) -> Cow<'_, Target> {
        match self.request.as_ref().map(|request| request.query.parameters()).filter(|more| !more.is_empty()) {
            None => Cow::Borrowed(&self.target),
            Some(more) => {
                Cow::Owned(self.target.with_query(more.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
            }
        }
    }

    /// What its receiver consented to, if it was asked.
    pub fn consent(&self) -> Option<&Consent> {
        self.ownership.as_ref()?.consent()
    }

    /// Whether an attempt that ran into its deadline is repeated.
    pub fn retries_timeouts(&self) -> bool {
        self.request.as_ref().is_none_or(|request| request.retry_on_timeout)
    }

    /// What its signatures are made of.
    pub fn scheme(&self) -> Scheme {
        self.signature.as_ref().map_or_else(Scheme::default, |signature| signature.scheme())
    }
}

/// A webhook to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSpec {
    /// Whose it is.
    pub tenant: Tenant,
    /// What its owner decided.
    pub settings: Settings,
    /// Whether deliveries are attempted.
    pub enabled: bool,
}

impl WebhookSpec {
    /// The webhook as it begins.
    pub fn register(self, no: WebhookNo, id: WebhookId, keys: Keys, time: Timestamp) -> Webhook {
        Webhook {
            no,
            id,
            tenant: self.tenant,
            settings: self.settings,
            switch: Switch::Enabled.turn(self.enabled, time),
            version: 1,
            create_time: time,
            update_time: time,
            keys,
        }
    }
}

/// One registered receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The store's number of it.
    pub no: WebhookNo,
    /// Its public id.
    pub id: WebhookId,
    /// Whose it is.
    pub tenant: Tenant,
    /// What its owner decided.
    pub settings: Settings,
    /// Whether deliveries are attempted.
    pub switch: Switch,
    /// Grows with every change of its settings; its etag.
    pub version: u64,
    /// When it was created.
    pub create_time: Timestamp,
    /// When its settings last changed.
    pub update_time: Timestamp,
    /// What signs its deliveries. Invariant: there is a key pair if its scheme signs with one.
    pub keys: Keys,
}

impl Webhook {
    /// The webhook as its owner's decision leaves it; the same if nothing changes.
    #[must_use]
    pub fn updated(&self, settings: Settings, enabled: bool, time: Timestamp) -> Self {
        let switch = self.switch.turn(enabled, time);
        if settings == self.settings && switch == self.switch {
            return self.clone();
        }
        Self { settings, switch, version: self.version + 1, update_time: time, ..self.clone() }
    }

    /// The same with this key pair if it has none: for settings that need one.
    #[must_use]
    pub fn with_pair(&self, pair: Option<KeyPair>) -> Self {
        Self { keys: self.keys.with_pair(pair), ..self.clone() }
    }

    /// The webhook with a new key, while the one it replaces signs along for `overlap`.
    #[must_use]
    pub fn rotated(&self, key: Key, overlap: Duration, time: Timestamp) -> Self {
        let keys = self.keys.rotated(key, overlap, time);
        Self { keys, version: self.version + 1, update_time: time, ..self.clone() }
    }

    /// The webhook as it is after it was disabled for a reason other than its owner's wish.
    #[must_use]
    pub fn disabled(&self, reason: DisableReason, since: Timestamp) -> Self {
        let switch = Switch::Disabled { reason, since };
        Self { switch, version: self.version + 1, update_time: since, ..self.clone() }
    }

    /// The opaque text callers hand back to guard against concurrent changes.
    pub fn etag(&self) -> String {
        format!("{:x}", self.version)
    }

    /// Whether deliveries are attempted.
    pub fn is_enabled(&self) -> bool {
        matches!(self.switch, Switch::Enabled)
    }
}
