//! The layer that every call goes through.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Extensions, HeaderMap, Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body, Frame};
use prost::DecodeError;
use tonic::{Code, Status};
use tower::{BoxError, Layer, Service};
use tracing::debug;

use super::{
    audit::Audit,
    caller::Caller,
    lasting::{Lasting, Lease},
    rules::{self, Audited, Needs, Rule, Whose},
    subject::Subject,
};
use crate::{
    api::status::Failure,
    clock::Clock,
    limits::GRPC_MESSAGE_BYTES_MAX,
    model::{
        audit::{About, AuditEnd, AuditEntry, Principal},
        credentials::{ApiKeyId, ApiKeySecret, Digest, Grant},
    },
    peer::Peer,
    store::Store,
};

/// What precedes a message of a call: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;
/// The one way to show an API key. Schemes are told apart without regard to case.
const BEARER: &str = "bearer";

/// Lets in who may come in. A layer; cheap to clone.
#[derive(Clone)]
pub(in crate::api) struct Gate {
    /// Knows the keys.
    pub(in crate::api) store: Arc<dyn Store>,
    /// Says when they expire.
    pub(in crate::api) clock: Clock,
    /// What certificates are good for; the first that fits counts.
    pub(in crate::api) grants: Arc<[Arc<Grant>]>,
    /// Credentials are needed even if no key was ever created.
    pub(in crate::api) required: bool,
    /// Remembers who did what.
    pub(in crate::api) audit: Arc<Audit>,
}

impl<S> Layer<S> for Gate {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, gate: self.clone() }
    }
}

/// Services behind a [`Gate`].
#[derive(Clone)]
pub(in crate::api) struct Guarded<S> {
    inner: S,
    gate: Gate,
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Default + Unpin + Send + 'static,
    R::Error: Send,
{
    type Response = Response<Lasting<R>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready is the one to call.
        let ready = self.inner.clone();
        let (mut inner, gate) = (std::mem::replace(&mut self.inner, ready), self.gate.clone());
        Box::pin(async move {
            let Some(rule) = rules::find(request.uri().path()) else {
                return Ok(Status::unimplemented("").into_http());
            };
            let mut entry = gate.audit.entry(rule.path);
            let Admitted { request, body, lease } = match gate.judge(rule, request, &mut entry).await {
                Ok(admitted) => admitted,
                Err(status) => {
                    // Who does not wait for the answer was not refused.
                    if status.code() != Code::Cancelled {
                        gate.audit.refused(entry, status.code()).await;
                    }
                    return Ok(status.into_http());
                }
            };
            let Audited::Yes(tell) = rule.audited else {
                return Ok(inner.call(request).await?.map(|body| Lasting::new(body, lease)));
            };
            let told = |reply| tell.zip(first_message(&body)).and_then(|(tell, request)| tell(request, reply).ok());
            entry.resource = told(None).unwrap_or_default().resource;
            let no = match gate.audit.begin(entry).await {
                Ok(no) => no,
                Err(failure) => return Ok(Status::from(failure).into_http()),
            };
            let (head, body) = inner.call(request).await?.into_parts();
            if rule.streams {
                gate.audit.end(no, |end| end, code(&head.headers, None)).await;
                return Ok(Response::from_parts(head, Lasting::new(body, lease)));
            }
            let Ok(frames) = whole(body).await else {
                gate.audit.end(no, |end| end, Code::Unknown).await;
                return Ok(Status::unknown("the answer was cut off").into_http());
            };
            let code = code(&head.headers, frames.iter().find_map(Frame::trailers_ref));
            let reply = frames.front().and_then(Frame::data_ref).filter(|_| code == Code::Ok);
            let Subject { resource, fields, erases_tenant } =
                reply.and_then(|reply| told(Some(first_message(reply)?))).unwrap_or_default();
            gate.audit.end(no, |end| AuditEnd { resource, fields, erased: erases_tenant, ..end }, code).await;
            Ok(Response::from_parts(head, Lasting::whole(frames)))
        })
    }
}

/// A call as the service gets it.
struct Admitted<B> {
    request: Request<B>,
    /// The whole body, if it was read.
    body: Bytes,
    /// What the answer's life depends on.
    lease: Option<Lease>,
}

impl Gate {
    /// Decides whether a call is let in; what is found out about it on the way goes into `entry`.
    async fn judge<B>(
        &self,
        rule: &Rule,
        mut request: Request<B>,
        entry: &mut AuditEntry,
    ) -> Result<Admitted<B>, Status>
    where
        B: Body<Data = Bytes> + From<Bytes>,
        B::Error: Into<BoxError>,
    {
        let caller = match rule.needs {
            Needs::Nothing => return Ok(Admitted { request, body: Bytes::new(), lease: None }),
            Needs::Credentials => self.known(&request, entry)?,
            Needs::The(right) => {
                let caller = self.known(&request, entry)?;
                caller.check_right(right)?;
                caller
            }
        };
        let lease = rule.streams.then(|| Lease::of(&caller, self.clock)).flatten();
        // A call begins when its request is there: one that is held open until its key is revoked comes too late.
        let is_limited = matches!(rule.whose, Whose::Named(_)) && !caller.is_for_all();
        let is_audited = matches!(rule.audited, Audited::Yes(_));
        let mut body = Bytes::new();
        if is_limited || ((is_audited || caller.can_end()) && !rule.streams) {
            (request, body) = read(request).await?;
        }
        if caller.has_ended(self.clock.now()) {
            return Err(Failure::unauthenticated().into());
        }
        let note = |entry: &mut AuditEntry| (entry.about, entry.is_outsiders) = about(rule, &body, &caller);
        if is_audited {
            note(entry);
        }
        match rule.whose {
            Whose::Named(tenants) if is_limited => {
                check_tenants(&body, tenants, &caller).inspect_err(|_| note(entry))?;
            }
            Whose::Everybodys | Whose::OneOfAll(_) if !caller.is_for_all() => {
                return Err(Failure::all_tenants_needed().into());
            }
            Whose::Named(_) | Whose::OneOfAll(_) | Whose::Nobodys | Whose::Everybodys | Whose::EachMessages => {}
        }
        if is_audited {
            self.audit.admit(&caller)?;
        }
        request.extensions_mut().insert(caller);
        Ok(Admitted { request, body, lease })
    }

    /// Who makes a call with this head, over this connection. A key that is shown counts, whatever else is.
    fn admit(&self, head: &HeaderMap, extensions: &Extensions) -> Result<Caller, Failure> {
        let keys = self.store.catalog().keys();
        let mut shown = head.get_all(AUTHORIZATION).iter();
        match (shown.next(), shown.next()) {
            (None, _) => match self.granted(extensions) {
                Some(grant) => Ok(Caller::Certificate(grant.clone())),
                None if self.required || keys.is_locked() => Err(Failure::unauthenticated()),
                None => Ok(Caller::Anybody(keys.open().clone())),
            },
            (Some(value), None) => {
                let text = value.to_str().ok().and_then(bearer).ok_or_else(Failure::unauthenticated)?;
                self.recognise(text)
            }
            (Some(_), Some(_)) => Err(Failure::unauthenticated()),
        }
    }

    /// Who makes this call, and from where; who may not is noted, for operators who look for them.
    fn known<B>(&self, request: &Request<B>, entry: &mut AuditEntry) -> Result<Caller, Failure> {
        let peer = request.extensions().get::<Peer>();
        entry.peer = peer.and_then(Peer::address);
        entry.certificate = peer.and_then(Peer::fingerprint);
        let admitted = self.admit(request.headers(), request.extensions());
        entry.principal = match &admitted {
            Ok(caller) => caller.principal(),
            Err(_) => Principal::Unauthenticated(claimed(request.headers())),
        };
        admitted.inspect_err(|_| {
            let address = peer.and_then(Peer::address);
            debug!(peer.address = ?address, call = request.uri().path(), "a call without valid credentials was refused");
        })
    }

    /// What the certificate of this connection is good for.
    fn granted(&self, extensions: &Extensions) -> Option<&Arc<Grant>> {
        let names = extensions.get::<Peer>()?.names();
        self.grants.iter().find(|grant| names.contains(&grant.name))
    }

    /// Whose key this is. Whatever is wrong with it, the answer is the same, and comes no sooner for an id that there is not.
    fn recognise(&self, text: &str) -> Result<Caller, Failure> {
        let secret = ApiKeySecret::parse(text).map_err(|_| Failure::unauthenticated())?;
        let known = self.store.catalog().keys().find(secret.id());
        let kept = known.as_ref().map_or(Digest::from_bytes([0; 32]), |known| known.key.digest);
        let is_theirs = kept == secret.digest();
        let now = self.clock.now();
        let known = known.filter(|known| is_theirs && !known.key.has_expired(now));
        let known = known.ok_or_else(Failure::unauthenticated)?;
        known.used(now);
        Ok(Caller::Key(known))
    }
}

/// Which key a call claims to have, if it shows something of that shape.
fn claimed(head: &HeaderMap) -> Option<ApiKeyId> {
    let text = head.get(AUTHORIZATION)?.to_str().ok().and_then(bearer)?;
    ApiKeySecret::parse(text).ok().map(|secret| secret.id())
}

/// Whose things the request names, first of all somebody's that the caller may not act for; and whether that is so.
fn about(rule: &Rule, body: &[u8], caller: &Caller) -> (About, bool) {
    let (Whose::Named(tenants) | Whose::OneOfAll(tenants)) = rule.whose else { return (About::Nobody, false) };
    let named = first_message(body).and_then(|message| tenants(message).ok()).unwrap_or_default();
    let foreign = named.iter().find(|tenant| caller.check_tenant(tenant).is_err());
    let about = foreign.or(named.first()).map_or(About::Nobody, |tenant| About::named(tenant));
    (about, foreign.is_some())
}

/// How a call ended: an answer without a status has not failed.
fn code(head: &HeaderMap, trailers: Option<&HeaderMap>) -> Code {
    let status = Status::from_header_map(head).or_else(|| trailers.and_then(Status::from_header_map));
    status.map_or(Code::Ok, |status| status.code())
}

/// Waits for the whole of an answer that is no stream.
async fn whole<R: Body<Data = Bytes> + Unpin>(mut body: R) -> Result<VecDeque<Frame<Bytes>>, R::Error> {
    let mut frames = VecDeque::new();
    while let Some(frame) = body.frame().await {
        frames.push_back(frame?);
    }
    Ok(frames)
}

/// The key in `Bearer KEY`.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case(BEARER).then(|| key.trim_start_matches(' '))
}

/// Fails if a request with this body names a tenant that is none of the caller's.
fn check_tenants(
    body: &[u8],
    tenants: fn(&[u8]) -> Result<Vec<String>, DecodeError>,
    caller: &Caller,
) -> Result<(), Failure> {
    let message = first_message(body).ok_or_else(|| Failure::unreadable("it is incomplete or compressed"))?;
    tenants(message).map_err(Failure::unreadable)?.iter().try_for_each(|tenant| caller.check_tenant(tenant))
}

/// Waits for the whole body of a request; returns it beside the request as it was.
async fn read<B>(request: Request<B>) -> Result<(Request<B>, Bytes), Failure>
where
    B: Body<Data = Bytes> + From<Bytes>,
    B::Error: Into<BoxError>,
{
    let (head, body) = request.into_parts();
    let read = Limited::new(body, FRAME_HEAD_BYTES + GRPC_MESSAGE_BYTES_MAX).collect().await;
    let body = read.map_err(|error| unread(&error))?.to_bytes();
    Ok((Request::from_parts(head, body.clone().into()), body))
}

/// A request that could not be read to its end.
fn unread(error: &BoxError) -> Failure {
    if error.is::<LengthLimitError>() {
        return Failure::too_large();
    }
    if let Some(status) = error.downcast_ref::<Status>() {
        return Failure::transport(status);
    }
    Failure::transport(&Status::new(Code::Cancelled, "the request ended before its message did"))
}

/// The first message of a body, as gRPC frames it. Compressed ones are not taken: no service here takes any.
fn first_message(body: &[u8]) -> Option<&[u8]> {
    let (head, rest) = body.split_first_chunk::<FRAME_HEAD_BYTES>()?;
    let [0, length @ ..] = *head else { return None };
    rest.get(..usize::try_from(u32::from_be_bytes(length)).ok()?)
}
