//! Contract ⇄ model for what webhooks say about an event.

use postrider_proto::v1;

use super::{event::event, tenant};
use crate::{
    api::status::{Failure, Violations, cut},
    limits::VERDICT_DETAIL_BYTES_MAX,
    model::{
        event::Event,
        ids::{EventId, Tenant},
        scope::{Verdict, View},
        time::Timestamp,
        webhook::Webhook,
    },
    store::Catalog,
};

/// What is to be explained.
pub(in crate::api) enum Subject {
    /// An event that was published.
    Published(Tenant, EventId),
    /// One that was not.
    Draft(Event),
}

/// What a request asks about. `latest` says until when a draft may be scheduled.
pub(in crate::api) fn subject(
    tenant_text: &str,
    subject: Option<v1::explain_event_request::Subject>,
    catalog: &Catalog,
    latest: impl FnOnce() -> Timestamp,
) -> Result<Subject, Failure> {
    use v1::explain_event_request::Subject::{Event, EventId};
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", tenant_text);
    match subject {
        None => violations.add("event", "one of `event_id` and `event` must be set"),
        Some(EventId(id)) => {
            let id = violations.note("event_id", id.parse());
            if let (Some(tenant), Some(id)) = (tenant, id) {
                return Ok(Subject::Published(tenant, id));
            }
        }
        Some(Event(mut draft)) => {
            if draft.tenant.is_empty() {
                tenant_text.clone_into(&mut draft.tenant);
            } else if !tenant_text.is_empty() && draft.tenant != tenant_text {
                violations.add("event.tenant", "must be that of the request");
            }
            violations.check()?;
            return Ok(Subject::Draft(event(Some(draft), catalog, latest)?));
        }
    }
    Err(violations.into())
}

/// What a webhook says about the event that is looked at.
pub(in crate::api) fn reply(webhook: &Webhook, view: &mut View<'_>) -> v1::WebhookMatch {
    use v1::MatchVerdict;
    let said = webhook.settings.verdict(view);
    let (verdict, mut detail) = match &said {
        Verdict::Admitted if webhook.is_enabled() => (MatchVerdict::Matched, String::new()),
        Verdict::Admitted => (MatchVerdict::Held, "the webhook is disabled; the delivery is recorded and held".into()),
        Verdict::OtherType => (MatchVerdict::EventType, said.to_string()),
        Verdict::Label(_) => (MatchVerdict::Label, said.to_string()),
        Verdict::Payload => (MatchVerdict::Payload, said.to_string()),
        Verdict::Failed(_) => (MatchVerdict::PayloadError, said.to_string()),
    };
    cut(&mut detail, VERDICT_DETAIL_BYTES_MAX);
    v1::WebhookMatch {
        webhook_id: webhook.id.to_string(),
        display_name: webhook.settings.display_name.to_string(),
        verdict: verdict.into(),
        detail,
    }
}
