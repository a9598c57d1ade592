//! What is sent of an event: the method, the URL and the body, as the webhook wants them. Signatures come after, over exactly
//! this body.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use http::Method;
use url::form_urlencoded;

use super::result::Failure;
use crate::{
    flow::Job,
    limits::REQUEST_URL_BYTES_MAX,
    model::{
        event::Event,
        json_object::{self, NotAnObject, Value},
        request::{self, BodyFormat, ExtraFields, RequestShape},
        target::Target,
        webhook::Settings,
    },
};

/// Media type of forms.
const FORM: &str = "application/x-www-form-urlencoded";

/// What is sent of one event to one webhook.
#[derive(Debug)]
pub(super) struct Shaped<'a> {
    pub(super) method: Method,
    pub(super) target: Cow<'a, Target>,
    /// What the receiver gets and the signature covers. Empty without `content_type`.
    pub(super) body: Bytes,
    /// Of the body; `None`: the method has none.
    pub(super) content_type: Option<&'a str>,
}

/// A POST of the body as it is, without a copy of anything, unless the webhook wants something else.
pub(super) fn shape(job: &Job) -> Result<Shaped<'_>, Failure> {
    let (settings, event) = (&job.webhook.settings, &job.event.event);
    let Some(request) = settings.request.as_deref() else {
        return Ok(Shaped {
            method: Method::POST,
            target: Cow::Borrowed(&settings.target),
            body: event.body.clone(),
            content_type: Some(&event.content_type),
        });
    };
    if request.method.has_body() {
        Ok(with_body(settings, event, request))
    } else {
        without_body(&settings.target, event, request)
    }
}

fn with_body<'a>(settings: &'a Settings, event: &'a Event, request: &RequestShape) -> Shaped<'a> {
    let unchanged = || (event.body.clone(), event.content_type.as_str());
    let (body, content_type) = match request.body_format {
        BodyFormat::Form => form(event, &request.body).map_or_else(|_| unchanged(), |form| (form.into(), FORM)),
        BodyFormat::Json => (extended(event, &request.body), event.content_type.as_str()),
    };
    Shaped { method: method(request.method), target: settings.endpoint(), body, content_type: Some(content_type) }
}

fn without_body<'a>(target: &Target, event: &'a Event, request: &RequestShape) -> Result<Shaped<'a>, Failure> {
    let mut fields = fields(event, &request.body).unwrap_or_default();
    fields.retain(|(_, value)| matches!(value, Value::Flat(_)));
    // Before it is written: what is encoded is no shorter.
    let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.text().len() + 2).sum();
    let target = (bytes <= REQUEST_URL_BYTES_MAX).then(|| with_query(target, request.query.parameters(), &fields));
    let Some(target) = target.filter(|target| target.url().as_str().len() <= REQUEST_URL_BYTES_MAX) else {
        let problem = format!("the URL is longer than {REQUEST_URL_BYTES_MAX} bytes with the fields of this event");
        return Err(Failure::unsendable(&problem));
    };
    let method = method(request.method);
    Ok(Shaped { method, target: Cow::Owned(target), body: Bytes::new(), content_type: None })
}

fn with_query(target: &Target, parameters: &BTreeMap<String, String>, fields: &[Field<'_>]) -> Target {
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    target.with_query(parameters.chain(fields.iter().map(|(name, value)| (&**name, value.text()))))
}

/// The body with the fields that it lacks; as it is, if it lacks none or is no JSON object.
fn extended(event: &Event, extra: &ExtraFields) -> Bytes {
    let wanted = !extra.fields().is_empty();
    let missing = wanted.then(|| missing(event, extra, |_, _| ())).and_then(Result::ok).filter(|it| !it.is_empty());
    let extended = missing.and_then(|missing| json_object::insert(&event.body, missing).ok());
    extended.map_or_else(|| event.body.clone(), Bytes::from)
}

fn form(event: &Event, extra: &ExtraFields) -> Result<String, NotAnObject> {
    let fields = fields(event, extra)?;
    let pairs = fields.iter().map(|(name, value)| (name, value.text()));
    Ok(form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

/// A name and its value.
type Field<'a> = (Cow<'a, str>, Value<'a>);

/// The event's fields in their order, then those it lacks.
fn fields<'a>(event: &'a Event, extra: &'a ExtraFields) -> Result<Vec<Field<'a>>, NotAnObject> {
    let mut written = Vec::new();
    let missing = missing(event, extra, |name, value| written.push((name, value)))?;
    written.extend(missing.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)));
    written.into_iter().map(|(name, value)| Ok((name, Value::of(value)?))).collect()
}

/// The fields that the event lacks, after each of its own was handed over.
fn missing<'a>(
    event: &'a Event,
    extra: &'a ExtraFields,
    mut each: impl FnMut(Cow<'a, str>, &'a str),
) -> Result<BTreeMap<&'a str, &'a str>, NotAnObject> {
    if !event.is_json() {
        return Err(NotAnObject);
    }
    let mut missing: BTreeMap<_, _> = extra.fields().iter().map(|(name, value)| (&**name, &**value)).collect();
    json_object::visit(&event.body, |name, value| {
        missing.remove(&*name);
        each(name, value);
    })?;
    Ok(missing)
}

fn method(method: request::Method) -> Method {
    match method {
        request::Method::Post => Method::POST,
        request::Method::Put => Method::PUT,
        request::Method::Patch => Method::PATCH,
        request::Method::Get => Method::GET,
        request::Method::Head => Method::HEAD,
        request::Method::Delete => Method::DELETE,
    }
}
