//! Events to publish.

use bytes::Bytes;
use postrider_proto::v1::{Event, event::Payload};

/// An event of `event_type` with a JSON body and a given id.
pub fn event(id: &str, event_type: &str, body: impl Into<Bytes>) -> Event {
    Event {
        id: id.to_owned(),
        r#type: event_type.to_owned(),
        payload: Some(Payload::Body(body.into())),
        ..Event::default()
    }
}

/// `count` small events of `event_type` with the ids `{prefix}-0`, `{prefix}-1`, ….
pub fn numbered(prefix: &str, event_type: &str, count: usize) -> impl Iterator<Item = Event> + use<> {
    let (prefix, event_type) = (prefix.to_owned(), event_type.to_owned());
    (0..count).map(move |n| event(&format!("{prefix}-{n}"), &event_type, format!(r#"{{"n":{n}}}"#)))
}
