//! Connections straight to receivers, for the client of hyper-util.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures::{FutureExt as _, future::BoxFuture};
use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use tower::Service;

use crate::deliver::resolver::{GuardedResolver, ResolveError};

/// Probes of connections on which nothing moves; what reqwest does unless told otherwise, as are the two below.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;
/// How long what was sent may stay unacknowledged.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects to where the resolver says.
pub(super) fn connector(resolver: GuardedResolver, connect_timeout: Duration) -> HttpConnector<GuardedResolver> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    // The connector around it knows the schemes.
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
    tcp
}

impl Service<Name> for GuardedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = BoxFuture<'static, Result<Self::Response, ResolveError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        async move { Ok(resolver.addresses(name.as_str()).await?.into_iter()) }.boxed()
    }
}
