//! The edge: gRPC services over the stages and the store.
//!
//! One file per service; `convert/` turns what callers write into the model's values and back; `status` alone picks codes.
//! Deliberately absent: what lies below a connection (listening, accepting, TLS) and the decision when to stop.

mod audit;
mod auth;
mod clock;
mod convert;
mod deliveries;
mod event_types;
mod events;
mod explain;
mod handshake;
mod health;
mod history;
mod json;
mod keys;
mod page;
mod publish;
mod quotas;
mod replays;
mod status;
mod tenants;
mod trial;
mod webhooks;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use postrider_proto::v1::{
    audit_service_server::AuditServiceServer, clock_service_server::ClockServiceServer,
    delivery_service_server::DeliveryServiceServer, event_type_service_server::EventTypeServiceServer,
    key_service_server::KeyServiceServer, quota_service_server::QuotaServiceServer,
    replay_service_server::ReplayServiceServer, tenant_service_server::TenantServiceServer,
    webhook_service_server::WebhookServiceServer,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::util::MapResponseLayer;

use self::{
    audit::AuditService, auth::Gate, clock::ClockService, convert::webhook::Rules, deliveries::DeliveryService,
    event_types::EventTypeService, events::EventService, handshake::Asker, history::History, keys::KeyService,
    quotas::QuotaService, replays::ReplayService, status::Failure, tenants::TenantService, webhooks::WebhookService,
};
pub use self::{auth::Audit, convert::policy::PolicyLimits, handshake::Handshake, health::Health, trial::Trial};
use crate::{
    accept::Accept,
    clock::Clock,
    flow::Gates,
    limits::GRPC_MESSAGE_BYTES_MAX,
    metrics::AuditMetrics,
    model::{
        credentials::Grant,
        ownership::Origin,
        target::{Target, TargetRules},
    },
    store::Store,
    watch::Watch,
};

/// What the edge needs to be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which URLs webhooks may have.
    pub target_rules: TargetRules,
    /// How long and how often webhooks may have deliveries attempted.
    pub policy_limits: PolicyLimits,
    /// How long events are kept.
    pub retention: Duration,
    /// Our name to receivers that are asked for their consent.
    pub origin: Origin,
    /// Whether callers need credentials even if no API key was ever created.
    pub require_auth: bool,
    /// What clients' certificates are good for; with any, callers need credentials.
    pub grants: Vec<Grant>,
    /// A stream that follows a replay and has said nothing for this long says how it stands.
    pub heartbeat: Duration,
}

/// Judges host names when a webhook is created.
#[async_trait]
pub trait NameJudge: Send + Sync + 'static {
    /// Fails, saying why, if the host of `target` resolves to an address this server may not call. A name that does not
    /// resolve passes.
    async fn judge(&self, target: &Target) -> Result<(), String>;
}

/// What the services work on.
pub struct Deps {
    /// Holds everything.
    pub store: Arc<dyn Store>,
    /// Takes events in.
    pub accept: Accept,
    /// Follows outcomes.
    pub watch: Watch,
    /// Which webhooks are held back.
    pub gates: Arc<Gates>,
    /// Says when.
    pub clock: Clock,
    /// Judges host names.
    pub names: Arc<dyn NameJudge>,
    /// Sends test events.
    pub trial: Arc<dyn Trial>,
    /// Asks receivers for their consent.
    pub handshake: Arc<dyn Handshake>,
    /// Counts what is written to the audit log.
    pub audited: AuditMetrics,
    /// Fires when calls are no longer taken and publish streams are to wind up.
    pub stop: CancellationToken,
    /// Fires when the last outcome is committed and watch streams are to end.
    pub stop_watching: CancellationToken,
}

/// The services, ready to be served.
pub struct Api {
    /// Every service, health and reflection included.
    pub routes: Routes,
    /// What the health service says.
    pub health: Health,
    /// Writes the audit log; to be run, so that nothing is left untold.
    pub audit: Arc<Audit>,
}

impl Config {
    /// Builds the services. Health says `NOT_SERVING` until told otherwise.
    pub async fn build(self, deps: Deps) -> Api {
        let Deps { store, accept, watch, gates, clock, names, trial, handshake, audited, stop, stop_watching } = deps;
        let asker = Asker { handshake, origin: self.origin, clock };
        let rules = Rules { targets: self.target_rules, policy: self.policy_limits };
        let (kept, stops) = (store.clone(), stop.clone());
        let webhooks = WebhookService { store: kept, gates, clock, rules, names, trial, asker, stop: stops };
        let event_types = EventTypeService { store: store.clone(), clock, stop: stop.clone() };
        let history = History { store: store.clone(), clock, retention: self.retention };
        let audit = Arc::new(Audit::new(store.clone(), clock, audited));
        let (past, audited) = (history.clone(), audit.clone());
        let events = EventService { store: store.clone(), history: past, accept, audit: audited, stop: stop.clone() };
        let tenants = TenantService { store: store.clone(), clock, stop: stop.clone() };
        let keys = KeyService { store: store.clone(), clock, stop: stop.clone() };
        let clocks = ClockService { store: store.clone(), clock, stop: stop.clone() };
        let quotas = QuotaService { store: store.clone(), clock, stop: stop.clone() };
        let required = self.require_auth || !self.grants.is_empty();
        let grants = self.grants.into_iter().map(Arc::new).collect();
        let gate = Gate { store: store.clone(), clock, grants, required, audit: audit.clone() };
        let entries = AuditService { store: store.clone(), stop: stop.clone() };
        let replays = ReplayService {
            store: store.clone(),
            clock,
            history: history.clone(),
            heartbeat: self.heartbeat,
            stop: stop.clone(),
        };
        let deliveries = DeliveryService { store, watch, clock, history, stop, stop_watching };

        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health = Health::new(reporter);
        health.set_serving(false).await;
        let routes = Routes::new(health_service)
            .add_service(WebhookServiceServer::new(webhooks).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(EventTypeServiceServer::new(event_types).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(events)
            .add_service(TenantServiceServer::new(tenants).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(DeliveryServiceServer::new(deliveries).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(KeyServiceServer::new(keys).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(AuditServiceServer::new(entries).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(ClockServiceServer::new(clocks).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(QuotaServiceServer::new(quotas).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(ReplayServiceServer::new(replays).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(reflection().build_v1().expect("the descriptor set was compiled with this program"))
            .add_service(reflection().build_v1alpha().expect("the descriptor set was compiled with this program"));
        let routes = routes.into_axum_router().layer(MapResponseLayer::new(status::in_our_words)).layer(gate).into();
        Api { routes, health, audit }
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(postrider_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Every call asks this first.
fn refuse_if(stop: &CancellationToken) -> Result<(), Failure> {
    if stop.is_cancelled() { Err(Failure::stopping()) } else { Ok(()) }
}
