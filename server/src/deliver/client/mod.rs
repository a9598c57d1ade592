//! The one HTTP client that may connect anywhere: it follows no redirects, uses no proxy but the operator's, decodes nothing, and
//! checks where it goes.
//!
//! This file is the guard. The HTTP libraries it guards are one setting apart: reqwest (`reqwest.rs`), or the client of hyper-util
//! that it stands on (`bare.rs`), over connections that `direct.rs` makes or, with a proxy, always, `tunnel.rs`. Either
//! - obeys the limits and the resolver it is built with, sends over kept connections of HTTP/1.1, and makes new ones within
//!   [`phases::connecting`],
//! - answers with reqwest's `Response`: status, headers, extensions with the `HttpInfo` of the connection, and the body in chunks,
//! - fails with an error that tells a URL it cannot use, no connection, and no connection in time from the rest, and has the errors
//!   of hyper and hyper-util behind it.

mod any;
mod bare;
mod direct;
mod metered;
mod own_tls;
mod reqwest;
mod tunnel;

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method};
use tracing::{error, warn};

use self::{any::Client, metered::TooLong, own_tls::OwnTls};
pub(super) use self::{any::Error, reqwest::Response};
use super::{
    Config,
    connections::Answered,
    own::OwnPorts,
    phases::{self, Ends},
    resolver::{Dns, GuardedResolver},
    result::{Failure, broke_in_silence, cause},
    tls::Tls,
};
use crate::{
    clock::Clock,
    model::{
        target::{Scheme, Target, TargetRules},
        time::Timestamp,
        tls::TlsSettings,
    },
};

/// What is sent, besides where to.
type Request = (Method, HeaderMap, Bytes);

/// Sends requests to targets, as far as the rules allow. One per delivery loop.
pub(super) struct GuardedClient {
    pub(super) rules: TargetRules,
    maker: Maker,
    tls: Tls,
    /// The schemes have clients of their own because they have a resolver each: fewer addresses are open to plain http.
    http: Clients,
    https: Clients,
    /// Of webhooks with TLS settings of their own.
    own_tls: RefCell<OwnTls<Clients>>,
    own: OwnPorts,
    answered: RefCell<Answered>,
}

/// Clients for one scheme with one configuration of TLS.
struct Clients {
    /// Keeps connections for the next request.
    pooled: Client,
    /// A new connection for every request: for one that failed on a kept connection.
    fresh: Client,
    /// For the few targets whose port is also one of ours: never connects to this machine, keeps no connections.
    elsewhere: Client,
}

/// What all clients are made with.
struct Maker {
    config: Config,
    dns: Dns,
}

impl Maker {
    fn clients(&self, scheme: Scheme, tls: &rustls::ClientConfig) -> Result<Clients, Error> {
        let Self { config, dns } = self;
        let client = |idle_per_host, own_port| {
            let resolver = GuardedResolver { dns: dns.clone(), rules: config.rules.clone(), scheme, own_port };
            Client::build(config, tls, resolver, idle_per_host)
        };
        Ok(Clients {
            pooled: client(config.idle_per_host, false)?,
            fresh: client(0, false)?,
            elsewhere: client(0, true)?,
        })
    }
}

impl GuardedClient {
    pub(super) fn build(config: &Config, tls: &Tls, dns: &Dns) -> Result<Self, Error> {
        let maker = Maker { config: config.clone(), dns: dns.clone() };
        Ok(Self {
            http: maker.clients(Scheme::Http, tls.shared())?,
            https: maker.clients(Scheme::Https, tls.shared())?,
            own_tls: RefCell::default(),
            own: config.own.clone(),
            answered: RefCell::default(),
            rules: config.rules.clone(),
            tls: tls.clone(),
            maker,
        })
    }

    /// Sends one request, with the TLS settings of its webhook if that has some, and returns when the head of the answer is there.
    ///
    /// A kept connection that breaks before anything of an answer was understood was most likely closed by its receiver while
    /// idle. The request is then sent once more, over a new connection, as part of the same attempt. The receiver may have
    /// seen the first one all the same: at least once is what is promised, and a retry would repeat it too, only later.
    pub(super) async fn send(
        &self,
        target: &Target,
        tls: Option<&TlsSettings>,
        clock: Clock,
        request: impl Fn() -> Result<Request, Failure>,
    ) -> Result<Response, Failure> {
        target.check(&self.rules).map_err(|refusal| Failure::blocked(&refusal))?;
        let own_tls;
        let clients = match (target.scheme(), tls) {
            (Scheme::Http, _) => &self.http,
            (Scheme::Https, None) => &self.https,
            (Scheme::Https, Some(settings)) => {
                own_tls = self.own_tls(settings)?;
                &*own_tls
            }
        };
        let (first, again) = if self.own.has(target.port()) {
            self.own.check(target).map_err(|refusal| Failure::blocked(&refusal))?;
            (&clients.elsewhere, &clients.elsewhere)
        } else {
            (&clients.pooled, &clients.fresh)
        };
        let sent = clock.now();
        let response = match send(first, target, request()?).await {
            Err(error) if self.is_stale_connection(&error, sent) => send(again, target, request()?).await,
            ended => ended,
        };
        let response = response.map_err(|error| {
            if let Some(connection) = broken_connection(&error) {
                phases::broke(connection);
            }
            Failure::from_request(&error, phases::certificate_asked_for())
        })?;
        if let Some(connection) = Ends::of(response.extensions()) {
            self.verify(target, connection.remote.ip())?;
            let now = clock.now();
            phases::answered(connection, now);
            self.answered.borrow_mut().note(connection.local.port(), now);
        }
        Ok(response)
    }

    /// Clients for webhooks with these settings.
    fn own_tls(&self, settings: &TlsSettings) -> Result<Arc<Clients>, Failure> {
        let unusable = || Failure::unsendable("the TLS settings of this webhook cannot be used");
        self.own_tls.borrow_mut().get(settings.fingerprint(), || {
            let config = self.tls.own(settings).map_err(|problem| {
                warn!(error = %problem, "TLS settings that were stored cannot be used");
                unusable()
            })?;
            self.maker.clients(Scheme::Https, &config).map_err(|_| unusable())
        })
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
                .is_some_and(|connection| self.answered.borrow().was_reused(connection.local.port(), sent))
    }
}

async fn send(client: &Client, target: &Target, (method, headers, body): Request) -> Result<Response, Error> {
    client.send(method, target.url(), headers, body).await
}

/// Whether more came than an answer can be long.
pub(super) fn is_too_long(error: &Error) -> bool {
    cause::<TooLong>(error).is_some()
}

/// The connection a request failed on.
fn broken_connection(error: &Error) -> Option<Ends> {
    let mut extras = Extensions::new();
    cause::<hyper_util::client::legacy::Error>(error)?.connect_info()?.get_extras(&mut extras);
    Ends::of(&extras)
}
