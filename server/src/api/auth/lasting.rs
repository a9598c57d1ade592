//! Answers that last no longer than the credentials they were asked for with.

use std::{
    collections::VecDeque,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::caller::Caller;
use crate::{api::status::Failure, clock::Clock, store::Validity};

/// What a stream's life depends on.
pub(super) struct Lease {
    validity: Validity,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Lease {
    /// That of a caller.
    pub(super) fn of(caller: &Caller, clock: Clock) -> Option<Self> {
        let (validity, until) = caller.lasts()?;
        let ended = Box::pin(validity.ended());
        let expiry = until.map(|until| Box::pin(sleep_until(clock.instant(until))));
        Some(Self { validity, ended, expiry })
    }

    /// Whether it is over, asked for every piece of an answer: no lock, no registration.
    fn is_over(&self) -> bool {
        self.validity.is_over() || self.expiry.as_ref().is_some_and(|expiry| expiry.deadline() <= Instant::now())
    }

    /// Ready when it is over.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let expired = self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(context).is_ready());
        if expired { Poll::Ready(()) } else { self.ended.as_mut().poll(context) }
    }
}

/// An answer that ends with `UNAUTHENTICATED` when its caller's credentials do. What is under way of it is dropped then.
pub(in crate::api) struct Lasting<R> {
    /// `None` once it is cut off.
    body: Option<R>,
    /// What was read of it already, and goes first.
    ahead: VecDeque<Frame<Bytes>>,
    lease: Option<Box<Lease>>,
}

impl<R> Lasting<R> {
    pub(super) fn new(body: R, lease: Option<Lease>) -> Self {
        Self { body: Some(body), ahead: VecDeque::new(), lease: lease.map(Box::new) }
    }

    /// An answer that was read to its end.
    pub(super) fn whole(frames: VecDeque<Frame<Bytes>>) -> Self {
        Self { body: None, ahead: frames, lease: None }
    }

    fn cut_off(&mut self) -> Frame<Bytes> {
        self.body = None;
        let mut trailers = HeaderMap::new();
        Status::from(Failure::unauthenticated()).add_header(&mut trailers).expect("its text is fit for a header");
        Frame::trailers(trailers)
    }
}

impl<R: Default> Default for Lasting<R> {
    fn default() -> Self {
        Self::new(R::default(), None)
    }
}

impl<R: Body<Data = Bytes> + Unpin> Body for Lasting<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Some(frame) = this.ahead.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let Some(lease) = &mut this.lease else { return Pin::new(body).poll_frame(context) };
        if !lease.is_over() {
            let frame = Pin::new(body).poll_frame(context);
            if frame.is_ready() || lease.poll_over(context).is_pending() {
                return frame;
            }
        }
        Poll::Ready(Some(Ok(this.cut_off())))
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if !self.ahead.is_empty() {
            return SizeHint::default();
        }
        match (&self.body, &self.lease) {
            (Some(body), None) => body.size_hint(),
            (Some(_), Some(_)) => SizeHint::default(),
            (None, _) => SizeHint::with_exact(0),
        }
    }
}
