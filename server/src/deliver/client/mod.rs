//! The one HTTP client that may connect anywhere: it follows no redirects, uses no proxy, decodes nothing, and checks where it goes.
//!
//! This file is the guard. The HTTP library it guards is `library`: `reqwest.rs`, or `hyper.rs` with the feature
//! `hyper-client`. Either provides
//! - `Client`, which obeys the limits and the resolver it is built with, sends over kept connections of HTTP/1.1, and makes new ones
//!   within [`phases::connecting`],
//! - `Response`: status, headers, extensions with the `HttpInfo` of the connection, and the body in chunks,
//! - `Error`, which tells a URL it cannot use, no connection, and no connection in time from the rest, and has the errors of
//!   hyper and hyper-util behind it,
//! - `is_too_long`, which tells an error of a receiver that sends without an end, if the library lets us count.

#[cfg_attr(not(feature = "hyper-client"), path = "reqwest.rs")]
#[cfg_attr(feature = "hyper-client", path = "hyper.rs")]
mod library;

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method};
use hyper_util::client::legacy::connect::HttpInfo;
use tracing::error;

use self::library::Client;
pub(super) use self::library::{Error, Response, is_too_long};
use super::{
    Config,
    connections::Answered,
    own::OwnPorts,
    phases,
    resolver::{Dns, GuardedResolver},
    result::{Failure, broke_in_silence, cause},
};
use crate::{
    clock::Clock,
    model::{
        target::{Scheme, Target, TargetRules},
        time::Timestamp,
    },
};

/// What is sent, besides where to.
type Request = (Method, HeaderMap, Bytes);

/// Sends requests to targets, as far as the rules allow. One per delivery loop.
pub(super) struct GuardedClient {
    pub(super) rules: TargetRules,
    /// Keeps connections for the next request.
    pooled: Clients,
    /// A new connection for every request: for one that failed on a kept connection.
    fresh: Clients,
    /// For the few targets whose port is also one of ours: never connects to this machine, keeps no connections.
    elsewhere: Clients,
    own: OwnPorts,
    answered: RefCell<Answered>,
}

/// The schemes have a client each because they have a resolver each: fewer addresses are open to plain http.
struct Clients {
    http: Client,
    https: Client,
}

impl GuardedClient {
    pub(super) fn build(config: &Config, tls: &rustls::ClientConfig, dns: &Dns) -> Result<Self, Error> {
        let clients = |idle_per_host, own_port| {
            let client = |scheme| {
                let resolver = GuardedResolver { dns: dns.clone(), rules: config.rules.clone(), scheme, own_port };
                Client::build(config, tls, resolver, idle_per_host)
            };
            Ok::<_, Error>(Clients { http: client(Scheme::Http)?, https: client(Scheme::Https)? })
        };
        Ok(Self {
            rules: config.rules.clone(),
            pooled: clients(config.idle_per_host, false)?,
            fresh: clients(0, false)?,
            elsewhere: clients(0, true)?,
            own: config.own.clone(),
            answered: RefCell::default(),
        })
    }

    /// Sends one request and returns when the head of the answer is there.
    ///
    /// A kept connection that breaks before anything of an answer was understood was most likely closed by its receiver while
    /// idle. The request is then sent once more, over a new connection, as part of the same attempt. The receiver may have
    /// seen the first one all the same: at least once is what is promised, and a retry would repeat it too, only later.
    pub(super) async fn send(
        &self,
        target: &Target,
        clock: Clock,
        request: impl Fn() -> Result<Request, Failure>,
    ) -> Result<Response, Failure> {
        target.check(&self.rules).map_err(|refusal| Failure::blocked(&refusal))?;
        let (pooled, fresh) = if self.own.has(target.port()) {
            self.own.check(target).map_err(|refusal| Failure::blocked(&refusal))?;
            (&self.elsewhere, &self.elsewhere)
        } else {
            (&self.pooled, &self.fresh)
        };
        let sent = clock.now();
        let response = match send(pooled, target, request()?).await {
            Err(error) if self.is_stale_connection(&error, sent) => send(fresh, target, request()?).await,
            ended => ended,
        };
        let response = response.map_err(|error| {
            if let Some(connection) = broken_connection(&error) {
                phases::broke(&connection);
            }
            Failure::from_request(&error)
        })?;
        if let Some(connection) = response.extensions().get::<HttpInfo>() {
            self.verify(target, connection.remote_addr().ip())?;
            let now = clock.now();
            phases::answered(connection, now);
            self.answered.borrow_mut().note(connection.local_addr().port(), now);
        }
        Ok(response)
    }

    /// Whether a request may go to this address.
    pub(super) fn admits(&self, target: &Target, address: SocketAddr) -> bool {
        self.rules.admit(target.scheme(), address.ip()).is_ok()
    }

    /// Defence in depth: should a way around the checks before be found, its answer is not given out.
    fn verify(&self, target: &Target, address: IpAddr) -> Result<(), Failure> {
        self.rules.admit(target.scheme(), address).map_err(|_| {
            error!(
                url = target.redacted(),
                server.address = %address,
                "a request went to an address that is not allowed; this is a bug, please report it"
            );
            Failure::misdirected()
        })
    }

    fn is_stale_connection(&self, error: &Error, sent: Timestamp) -> bool {
        broke_in_silence(error)
            && broken_connection(error)
                .is_some_and(|connection| self.answered.borrow().was_reused(connection.local_addr().port(), sent))
    }
}

async fn send(clients: &Clients, target: &Target, (method, headers, body): Request) -> Result<Response, Error> {
    let client = match target.scheme() {
        Scheme::Http => &clients.http,
        Scheme::Https => &clients.https,
    };
    client.send(method, target.url(), headers, body).await
}

/// The connection a request failed on.
fn broken_connection(error: &Error) -> Option<HttpInfo> {
    let mut extras = Extensions::new();
    cause::<hyper_util::client::legacy::Error>(error)?.connect_info()?.get_extras(&mut extras);
    extras.get().cloned()
}
