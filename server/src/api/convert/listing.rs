//! Contract ⇄ model for lists of webhooks: which ones, and in which order.

use std::collections::BTreeMap;

use postrider_proto::v1;

use super::{Types, event_type, labels, tenant_or_all};
use crate::{
    api::{page::Scope, status::Violations},
    flow::GateView,
    limits::LIST_TEXT_BYTES_MAX,
    model::{
        breaker::BreakerState,
        ids::{EventTypeName, Tenant},
        webhook::{DisableReason, Switch, Webhook},
    },
    store::{Catalog, WebhookOrder, folded},
};

/// Which webhooks a list is of.
#[derive(Debug, Clone, Default)]
pub(in crate::api) struct WebhookList {
    /// `None`: all of them.
    pub(in crate::api) tenant: Option<Tenant>,
    pub(in crate::api) order: WebhookOrder,
    event_type: Option<EventTypeName>,
    enabled: Option<bool>,
    disable_reason: Option<DisableReason>,
    failing: bool,
    /// Folded.
    text: Box<str>,
    metadata: BTreeMap<String, String>,
}

impl WebhookList {
    /// What a request asks for.
    pub(in crate::api) fn of(
        violations: &mut Violations,
        catalog: &Catalog,
        request: &v1::ListWebhooksRequest,
    ) -> Self {
        let tenant = tenant_or_all(violations, &request.tenant);
        let types = Types::of(catalog, tenant.as_ref());
        let named = Some(&request.event_type).filter(|name| !name.is_empty());
        let event_type = named.and_then(|name| event_type(violations, types, || "event_type".into(), name));
        if request.text.len() > LIST_TEXT_BYTES_MAX {
            violations.add("text", format!("must not be longer than {LIST_TEXT_BYTES_MAX} bytes"));
        }
        Self {
            order: order(violations, request),
            event_type,
            enabled: request.enabled,
            disable_reason: disable_reason(violations, request.disable_reason),
            failing: request.failing,
            text: folded(&request.text),
            metadata: labels(violations, "metadata", request.metadata.clone()),
            tenant,
        }
    }

    /// What its page tokens belong to: all but where its pages begin and how long they are.
    pub(in crate::api) fn scope(&self) -> Scope {
        let scope = Scope::new("ListWebhooks")
            .with(self.tenant.as_ref().map_or("", Tenant::as_str))
            .with(&format!("{:?} {:?} {:?} {}", self.order, self.enabled, self.disable_reason, self.failing))
            .with(self.event_type.as_ref().map_or("", EventTypeName::as_str))
            .with(&self.text);
        self.metadata.iter().fold(scope, |scope, (key, value)| scope.with(key).with(value))
    }

    /// Whether a webhook is one of those; `gate`: what holds it back.
    pub(in crate::api) fn has(&self, webhook: &Webhook, gate: impl FnOnce() -> Option<GateView>) -> bool {
        let settings = &webhook.settings;
        let reason = match webhook.switch {
            Switch::Enabled => None,
            Switch::Disabled { reason, .. } => Some(reason),
        };
        self.enabled.is_none_or(|enabled| enabled == webhook.is_enabled())
            && self.disable_reason.is_none_or(|wanted| Some(wanted) == reason)
            && self.event_type.as_ref().is_none_or(|wanted| settings.subscription.wants(wanted))
            && self.metadata.iter().all(|(key, value)| settings.metadata.get(key) == Some(value))
            && (self.text.is_empty()
                || folded(&settings.display_name).contains(&*self.text)
                || folded(settings.target.url().as_str()).contains(&*self.text))
            && (!self.failing || is_in_trouble(reason, gate()))
    }
}

fn is_in_trouble(disabled: Option<DisableReason>, gate: Option<GateView>) -> bool {
    let gave_up = matches!(disabled, Some(DisableReason::Gone | DisableReason::Failing));
    gave_up || gate.is_some_and(|gate| gate.state != BreakerState::Closed)
}

fn order(violations: &mut Violations, request: &v1::ListWebhooksRequest) -> WebhookOrder {
    const FIELD: &str = "order_by";
    let order = match request.order_by.split_whitespace().collect::<Vec<_>>()[..] {
        [] | ["create_time"] => WebhookOrder::Oldest,
        ["create_time", "desc"] => WebhookOrder::Newest,
        ["display_name"] => WebhookOrder::Name,
        ["display_name", "desc"] => WebhookOrder::NameDescending,
        _ => {
            violations.add(FIELD, "must be `create_time` or `display_name`, with ` desc` for the reverse order");
            WebhookOrder::default()
        }
    };
    if order.is_by_name() && request.tenant == super::ALL_TENANTS {
        violations.add(FIELD, "must not be by name for all tenants");
    }
    order
}

fn disable_reason(violations: &mut Violations, reason: i32) -> Option<DisableReason> {
    match v1::DisableReason::try_from(reason) {
        Ok(v1::DisableReason::Unspecified) => None,
        Ok(v1::DisableReason::Requested) => Some(DisableReason::Requested),
        Ok(v1::DisableReason::Gone) => Some(DisableReason::Gone),
        Ok(v1::DisableReason::Failing) => Some(DisableReason::Failing),
        Err(_) => {
            violations.add("disable_reason", "is not one that this server knows");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ids::{WebhookId, WebhookNo},
        signing::Secret,
        target::Target,
        time::Timestamp,
        webhook::{Settings, Subscription, WebhookSpec},
    };

    fn webhook() -> Webhook {
        let target = Target::from_stored("https://crm.example/Hook?a=B").unwrap();
        let types = Subscription::to([EventTypeName::new("ADD_TAG")].into());
        let settings = Settings {
            display_name: "Straße CRM".into(),
            metadata: [("team", "sales"), ("region", "")].map(|(key, value)| (key.into(), value.into())).into(),
            ..Settings::new(target, types)
        };
        let spec = WebhookSpec { tenant: Tenant::default(), settings, enabled: true };
        let secret = Secret::from_bytes(&[7; 32]).unwrap();
        spec.register(WebhookNo(1), WebhookId::generate(), secret.into(), Timestamp::UNIX_EPOCH)
    }

    fn list(request: &v1::ListWebhooksRequest) -> Result<WebhookList, String> {
        let mut violations = Violations::default();
        let list = WebhookList::of(&mut violations, &Catalog::default(), request);
        violations.check().map(|()| list).map_err(|failure| format!("{failure:?}"))
    }

    fn metadata(pairs: &[(&str, &str)]) -> v1::ListWebhooksRequest {
        let metadata = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        v1::ListWebhooksRequest { metadata, ..Default::default() }
    }

    #[test]
    fn every_filter_must_pass() {
        use v1::ListWebhooksRequest as Request;
        let (on, gone) = (webhook(), webhook().disabled(DisableReason::Gone, Timestamp::UNIX_EPOCH));
        let text = |text: &str| Request { text: text.into(), ..Request::default() };
        let event_type = |name: &str| Request { event_type: name.into(), ..Request::default() };
        let reason = |reason: v1::DisableReason| Request { disable_reason: reason.into(), ..Request::default() };
        for (request, expected) in [
            (Request::default(), [true, true]),
            (text("crm"), [true, true]),
            (text("STRASSE"), [false, false]),
            (text("straße C"), [true, true]),
            (text("/hook?A=b"), [true, true]),
            (text("nothing"), [false, false]),
            (event_type("ADD_TAG"), [true, true]),
            (event_type("NEW_LEAD"), [false, false]),
            (metadata(&[("team", "sales"), ("region", "")]), [true, true]),
            (metadata(&[("team", "Sales")]), [false, false]),
            (metadata(&[("team", "sales"), ("owner", "")]), [false, false]),
            (Request { enabled: Some(true), ..Request::default() }, [true, false]),
            (Request { enabled: Some(false), ..Request::default() }, [false, true]),
            (reason(v1::DisableReason::Gone), [false, true]),
            (reason(v1::DisableReason::Failing), [false, false]),
            (Request { failing: true, ..Request::default() }, [false, true]),
            (Request { failing: true, enabled: Some(true), ..Request::default() }, [false, false]),
        ] {
            let list = list(&request).unwrap();
            let has = [&on, &gone].map(|webhook| list.has(webhook, || None));
            assert_eq!(has, expected, "{request:?}");
        }
        let failing = list(&Request { failing: true, ..Request::default() }).unwrap();
        for (state, expected) in
            [(BreakerState::Closed, false), (BreakerState::Open { probe: Timestamp::UNIX_EPOCH }, true)]
        {
            let gate = GateView { state, since: None, failures: 3, held_until: None };
            assert_eq!(failing.has(&on, || Some(gate)), expected, "{state:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        use v1::ListWebhooksRequest as Request;
        let order = |tenant: &str, order_by: &str| Request {
            tenant: tenant.into(),
            order_by: order_by.into(),
            ..Request::default()
        };
        for (request, field) in [
            (order("", "name"), "order_by"),
            (order("", "create_time asc"), "order_by"),
            (order("-", "display_name"), "order_by"),
            (Request { event_type: "ADD_TAGS".into(), ..Request::default() }, "event_type"),
            (Request { disable_reason: 99, ..Request::default() }, "disable_reason"),
            (Request { text: "x".repeat(257), ..Request::default() }, "text"),
            (metadata(&[("a b", "")]), "metadata"),
        ] {
            let refusal = list(&request).unwrap_err();
            assert!(refusal.contains(field), "{request:?}: {refusal}");
        }
        for (order_by, expected) in [
            ("", WebhookOrder::Oldest),
            ("create_time", WebhookOrder::Oldest),
            (" create_time   desc", WebhookOrder::Newest),
            ("display_name", WebhookOrder::Name),
            ("display_name desc", WebhookOrder::NameDescending),
        ] {
            assert_eq!(list(&order("", order_by)).unwrap().order, expected, "{order_by:?}");
        }
    }

    #[test]
    fn tokens_belong_to_filters_and_order() {
        use v1::ListWebhooksRequest as Request;
        let base = Request::default();
        let all = [
            base.clone(),
            Request { tenant: "acme".into(), ..base.clone() },
            Request { event_type: "ADD_TAG".into(), ..base.clone() },
            Request { enabled: Some(true), ..base.clone() },
            Request { enabled: Some(false), ..base.clone() },
            Request { disable_reason: v1::DisableReason::Gone.into(), ..base.clone() },
            Request { failing: true, ..base.clone() },
            Request { text: "x".into(), ..base.clone() },
            metadata(&[("x", "")]),
            metadata(&[("", "x")]),
            metadata(&[("x", "y")]),
            Request { order_by: "create_time desc".into(), ..base.clone() },
            Request { order_by: "display_name".into(), ..base.clone() },
        ];
        let scopes: Vec<_> = all.iter().filter_map(|request| list(request).ok()).map(|list| list.scope()).collect();
        assert_eq!(scopes.len(), all.len() - 1, "an empty key is refused");
        for (at, scope) in scopes.iter().enumerate() {
            assert!(!scopes[..at].contains(scope), "{at}");
        }
        let same = Request { page_size: 3, order_by: "create_time".into(), tenant: "default".into(), ..base };
        assert_eq!(list(&same).unwrap().scope(), scopes[0]);
    }
}
