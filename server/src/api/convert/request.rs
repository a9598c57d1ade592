//! Contract ⇄ model for what a webhook's requests look like.
//!
//! Replies show [`HIDDEN`] instead of secrets, and an update that says the same leaves them as they are. So no secret can be that.

use std::{collections::BTreeMap, mem};

use postrider_proto::v1::{
    self, Authorization as Credentials, BasicCredentials, BearerToken, HttpMethod, authorization::Scheme,
};
use prost_types::Struct;

use super::echo;
use crate::{
    api::{
        json::{JsonError, from_json, to_json},
        status::Violations,
    },
    limits::{REQUEST_BODY_FIELDS_BYTES_MAX, URL_BYTES_MAX},
    model::{
        request::{
            Authorization, BodyFormat, Conflict, ExtraFields, Headers, InvalidCredentials, Method, Query, QueryProblem,
            RequestShape,
        },
        signing::{HeaderNames, SignatureSettings},
        target::Target,
    },
};

/// What replies show instead of a secret.
pub(super) const HIDDEN: &str = "***";
/// What is wrong with that where there is no secret.
pub(super) const NOTHING_HIDDEN: &str = "`***` keeps a secret that is there, and there is none";

/// What requests look like, out of the fields that say so; `target` is what they say about the URL. `None`: as usual, or there
/// is a violation.
pub(super) fn request(
    violations: &mut Violations,
    webhook: &mut v1::Webhook,
    target: Option<&Target>,
) -> Option<Box<RequestShape>> {
    let shape = RequestShape {
        method: method(violations, webhook.method),
        headers: headers(violations, mem::take(&mut webhook.headers)),
        query: query(violations, mem::take(&mut webhook.query), target),
        body: webhook.body.take().map(|fields| body(violations, &fields)).unwrap_or_default(),
        body_format: body_format(violations, webhook.body_format),
        authorization: webhook.authorization.take().and_then(|it| authorization(violations, it)),
        retry_on_timeout: webhook.retry_on_timeout.unwrap_or(true),
    };
    for conflict in shape.conflicts() {
        let field = match conflict {
            Conflict::FormWithoutBody => "webhook.body_format",
            Conflict::NestedWithoutBody => "webhook.body",
            Conflict::TwoAuthorizations => "webhook.headers[\"authorization\"]",
        };
        violations.add(field, conflict);
    }
    shape.settled()
}

/// Refuses headers that are called like those of the signature: only one of them could be sent.
pub(super) fn refuse_headers_of(violations: &mut Violations, request: &RequestShape, signature: &SignatureSettings) {
    let HeaderNames { id, timestamp, signature } = signature.names();
    for name in [id, timestamp, signature] {
        if request.headers.has(name) {
            violations.add(format!("webhook.headers[\"{name}\"]"), "is a header of the signature");
        }
    }
}

fn method(violations: &mut Violations, method: i32) -> Method {
    match HttpMethod::try_from(method) {
        Ok(HttpMethod::Unspecified | HttpMethod::Post) => Method::Post,
        Ok(HttpMethod::Put) => Method::Put,
        Ok(HttpMethod::Patch) => Method::Patch,
        Ok(HttpMethod::Get) => Method::Get,
        Ok(HttpMethod::Head) => Method::Head,
        Ok(HttpMethod::Delete) => Method::Delete,
        Err(_) => {
            violations.add("webhook.method", "must be one of POST, PUT, PATCH, GET, HEAD, DELETE");
            Method::Post
        }
    }
}

fn body_format(violations: &mut Violations, format: i32) -> BodyFormat {
    match v1::BodyFormat::try_from(format) {
        Ok(v1::BodyFormat::Unspecified | v1::BodyFormat::Json) => BodyFormat::Json,
        Ok(v1::BodyFormat::Form) => BodyFormat::Form,
        Err(_) => {
            violations.add("webhook.body_format", "must be JSON or FORM");
            BodyFormat::Json
        }
    }
}

fn headers(violations: &mut Violations, mut given: BTreeMap<String, String>) -> Headers {
    const FIELD: &str = "webhook.headers";
    let entry = |name: &str| format!("{FIELD}[{:?}]", name.chars().take(super::ID_BYTES_MAX).collect::<String>());
    given.retain(|name, value| {
        if value == HIDDEN {
            violations.add(entry(name), NOTHING_HIDDEN);
        }
        value != HIDDEN
    });
    Headers::new(given).unwrap_or_else(|problems| {
        for (name, problem) in problems {
            violations.add(name.map_or_else(|| FIELD.to_owned(), |name| entry(&name)), problem);
        }
        Headers::default()
    })
}

fn query(violations: &mut Violations, parameters: BTreeMap<String, String>, target: Option<&Target>) -> Query {
    const FIELD: &str = "webhook.query";
    let query = match Query::new(parameters) {
        Ok(query) => query,
        Err(problem) => {
            let field = match &problem {
                QueryProblem::TooMany => FIELD.to_owned(),
                QueryProblem::Name(name) => format!("{FIELD}[{:?}]", echo(name)),
            };
            violations.add(field, problem);
            return Query::default();
        }
    };
    let parameters = query.parameters().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    if target.is_some_and(|target| target.with_query(parameters).url().as_str().len() > URL_BYTES_MAX) {
        violations.add(FIELD, format!("must not make the URL longer than {URL_BYTES_MAX} bytes"));
    }
    query
}

fn body(violations: &mut Violations, fields: &Struct) -> ExtraFields {
    const FIELD: &str = "webhook.body";
    let json = match to_json(fields, REQUEST_BODY_FIELDS_BYTES_MAX) {
        Ok(json) => json,
        Err(error) => {
            let path = match &error {
                JsonError::NotFinite { path } | JsonError::NoKind { path } => path,
                JsonError::TooLarge { .. } => "",
            };
            violations.add(format!("{FIELD}{path}"), error);
            return ExtraFields::default();
        }
    };
    let json = str::from_utf8(&json).expect("JSON is text");
    violations.note(FIELD, ExtraFields::parse(json)).unwrap_or_default()
}

fn authorization(violations: &mut Violations, given: Credentials) -> Option<Authorization> {
    const FIELD: &str = "webhook.authorization";
    let (secret, secret_field, read) = match given.scheme {
        None => {
            violations.add(FIELD, "must have `basic` or `bearer`");
            return None;
        }
        Some(Scheme::Basic(BasicCredentials { username, password })) => {
            let read = Authorization::basic(&username, &password);
            (password, "basic.password", read)
        }
        Some(Scheme::Bearer(BearerToken { token })) => {
            let read = Authorization::bearer(&token);
            (token, "bearer.token", read)
        }
    };
    if secret == HIDDEN {
        violations.add(format!("{FIELD}.{secret_field}"), NOTHING_HIDDEN);
        return None;
    }
    read.map_err(|problem| {
        let field = match problem {
            InvalidCredentials::Username | InvalidCredentials::Nobody => "basic.username",
            InvalidCredentials::Password | InvalidCredentials::Token => secret_field,
        };
        violations.add(format!("{FIELD}.{field}"), problem);
    })
    .ok()
}

/// Fills in the fields that say what requests look like, secrets included; those that are as usual stay empty.
pub(super) fn decide(shape: Option<&RequestShape>, webhook: &mut v1::Webhook) {
    let Some(shape) = shape else { return };
    let method = match shape.method {
        Method::Post => HttpMethod::Unspecified,
        Method::Put => HttpMethod::Put,
        Method::Patch => HttpMethod::Patch,
        Method::Get => HttpMethod::Get,
        Method::Head => HttpMethod::Head,
        Method::Delete => HttpMethod::Delete,
    };
    let format = match shape.body_format {
        BodyFormat::Json => v1::BodyFormat::Unspecified,
        BodyFormat::Form => v1::BodyFormat::Form,
    };
    webhook.set_method(method);
    webhook.headers = shape.headers.texts().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    webhook.query.clone_from(shape.query.parameters());
    webhook.body = (!shape.body.fields().is_empty()).then(|| from_json(&shape.body.to_json()));
    webhook.set_body_format(format);
    webhook.authorization = shape.authorization.as_ref().map(credentials);
    webhook.retry_on_timeout = (!shape.retry_on_timeout).then_some(false);
}

fn credentials(authorization: &Authorization) -> Credentials {
    let scheme = match authorization {
        Authorization::Basic { username, password } => {
            Scheme::Basic(BasicCredentials { username: username.to_string(), password: password.to_string() })
        }
        Authorization::Bearer { token } => Scheme::Bearer(BearerToken { token: token.to_string() }),
    };
    Credentials { scheme: Some(scheme) }
}

/// Makes of what [`decide`] filled in what callers may see: no secrets, and what is as usual by its name.
pub(super) fn conceal(webhook: &mut v1::Webhook) {
    for value in webhook.headers.values_mut() {
        HIDDEN.clone_into(value);
    }
    if let Some(secret) = secret(webhook.authorization.as_mut()) {
        HIDDEN.clone_into(secret);
    }
    if webhook.method() == HttpMethod::Unspecified {
        webhook.set_method(HttpMethod::Post);
    }
    if webhook.body_format() == v1::BodyFormat::Unspecified {
        webhook.set_body_format(v1::BodyFormat::Json);
    }
    webhook.retry_on_timeout = webhook.retry_on_timeout.or(Some(true));
}

/// Puts the present secrets where an update says that they stay.
pub(super) fn restore(webhook: &mut v1::Webhook, present: Option<&RequestShape>) {
    let Some(present) = present else { return };
    for (name, value) in webhook.headers.iter_mut().filter(|(_, value)| *value == HIDDEN) {
        if let Some((_, kept)) = present.headers.texts().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            kept.clone_into(value);
        }
    }
    let mut kept = present.authorization.as_ref().map(credentials);
    let same_scheme = match (webhook.authorization.as_ref(), kept.as_ref()) {
        (Some(Credentials { scheme: Some(now) }), Some(Credentials { scheme: Some(kept) })) => {
            mem::discriminant(now) == mem::discriminant(kept)
        }
        _ => false,
    };
    if let Some(secret_now) = secret(webhook.authorization.as_mut())
        && let Some(kept) = secret(kept.as_mut())
        && same_scheme
        && secret_now == HIDDEN
    {
        secret_now.clone_from(kept);
    }
}

fn secret(credentials: Option<&mut Credentials>) -> Option<&mut String> {
    Some(match credentials?.scheme.as_mut()? {
        Scheme::Basic(basic) => &mut basic.password,
        Scheme::Bearer(bearer) => &mut bearer.token,
    })
}
