//! The layer that every call goes through.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Extensions, HeaderMap, Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use prost::DecodeError;
use tonic::{Code, Status};
use tower::{BoxError, Layer, Service};
use tracing::debug;

use super::{
    caller::Caller,
    lasting::{Lasting, Lease},
    rules::{self, Needs, Whose},
};
use crate::{
    api::status::Failure,
    clock::Clock,
    limits::GRPC_MESSAGE_BYTES_MAX,
    model::credentials::{ApiKeySecret, Digest, Grant},
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
    R: Default + Send + 'static,
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
            match gate.judge(request).await {
                Ok((request, lease)) => Ok(inner.call(request).await?.map(|body| Lasting::new(body, lease))),
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

impl Gate {
    /// The call as the service gets it, and what its answer's life depends on.
    async fn judge<B>(&self, mut request: Request<B>) -> Result<(Request<B>, Option<Lease>), Status>
    where
        B: Body<Data = Bytes> + From<Bytes>,
        B::Error: Into<BoxError>,
    {
        let rule = rules::find(request.uri().path()).ok_or_else(|| Status::unimplemented(""))?;
        let caller = match rule.needs {
            Needs::Nothing => return Ok((request, None)),
            Needs::Credentials => self.known(&request)?,
            Needs::The(right) => {
                let caller = self.known(&request)?;
                caller.check_right(right)?;
                caller
            }
        };
        let lease = rule.streams.then(|| Lease::of(&caller, self.clock)).flatten();
        // A call begins when its request is there: one that is held open until its key is revoked comes too late.
        let is_limited = matches!(rule.whose, Whose::Named(_)) && !caller.is_for_all();
        let mut body = Bytes::new();
        if is_limited || (caller.can_end() && !rule.streams) {
            (request, body) = read(request).await?;
        }
        if caller.has_ended(self.clock.now()) {
            return Err(Failure::unauthenticated().into());
        }
        match rule.whose {
            Whose::Named(tenants) if is_limited => check_tenants(&body, tenants, &caller)?,
            Whose::Named(_) | Whose::Nobodys => {}
            Whose::Everybodys if !caller.is_for_all() => return Err(Failure::all_tenants_needed().into()),
            Whose::Everybodys | Whose::EachMessages => drop(request.extensions_mut().insert(caller)),
        }
        Ok((request, lease))
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

    /// Who makes this call; who may not is noted, for operators who look for them.
    fn known<B>(&self, request: &Request<B>) -> Result<Caller, Failure> {
        let admitted = self.admit(request.headers(), request.extensions());
        admitted.inspect_err(|_| {
            let address = request.extensions().get().and_then(Peer::address);
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
