//! `EventService.ExplainEvent`: for each webhook, whether it wants an event, or why not.

use std::sync::Arc;

use postrider_proto::v1;
use prost::Message as _;
use tokio::task::yield_now;

use super::{
    convert::explain::{Subject, reply, subject},
    history::History,
    page::{self, Scope},
    status::{Failure, Violations},
};
use crate::{
    accept::Accept,
    limits::{PAGE_BYTES, PAGE_SIZE_DEFAULT},
    model::{event::Event, ids::WebhookNo, scope::View, time::Timestamp},
    store::Store,
};

/// Answers one page. A draft is judged as if it were published.
pub(super) async fn explain(
    store: &Arc<dyn Store>,
    history: &History,
    request: v1::ExplainEventRequest,
    accept: &Accept,
) -> Result<v1::ExplainEventResponse, Failure> {
    let sealer = store.sealer();
    let mut violations = Violations::default();
    let size = page::size(&mut violations, request.page_size, PAGE_SIZE_DEFAULT);
    violations.check()?;
    let named = matches!(request.subject, Some(v1::explain_event_request::Subject::EventId(_)));
    let event = event(store, history, &request.tenant, request.subject, || accept.schedules_until()).await?;
    // A draft that has no id is given another one each time: it is told by its content.
    let id = if named { event.id.to_string() } else { format!("{:x}", event.content_hash()) };
    let scope = Scope::new("ExplainEvent").with(event.tenant.as_str()).with(&id);
    let mut violations = Violations::default();
    let after = scope.counted_after(&mut violations, sealer, &request.page_token);
    violations.check()?;

    // One more than the page holds tells whether there is a next one.
    let found = store.catalog().list(Some(&event.tenant), after.map(WebhookNo), size + 1);
    let _turn = accept.filtering(&event.tenant).await;
    // A page's filters cost at most what an event's may, and the next page's as much again.
    let mut view = View::of(&event);
    let (mut matches, mut last, mut bytes) = (Vec::new(), None, 0);
    for registered in found.iter().take(size) {
        if bytes > PAGE_BYTES {
            break;
        }
        let said = reply(&registered.webhook, &mut view);
        bytes += said.encoded_len();
        last = Some(registered.webhook.no.0);
        matches.push(said);
    }
    let more = matches.len() < found.len();
    let next_page_token = last.filter(|_| more).map_or_else(String::new, |last| scope.counted_token(sealer, last));
    let read = view.was_read();
    drop(view);
    if read {
        // Others on this thread get a turn before the next page.
        yield_now().await;
    }
    Ok(v1::ExplainEventResponse { matches, next_page_token })
}

/// The event that is meant.
async fn event(
    store: &Arc<dyn Store>,
    history: &History,
    tenant: &str,
    asked: Option<v1::explain_event_request::Subject>,
    latest: impl FnOnce() -> Timestamp,
) -> Result<Event, Failure> {
    match subject(tenant, asked, store.catalog(), latest)? {
        Subject::Draft(draft) => Ok(draft),
        Subject::Published(tenant, id) => {
            let stored = store.find_event(&tenant, &id).await?;
            stored.map(|stored| stored.event).ok_or_else(|| history.missing_event(&id))
        }
    }
}
