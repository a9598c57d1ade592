//! What the health service says.

use std::sync::Arc;

use postrider_proto::v1::{
    clock_service_server::ClockServiceServer, delivery_service_server::DeliveryServiceServer,
    event_type_service_server::EventTypeServiceServer, key_service_server::KeyServiceServer,
    webhook_service_server::WebhookServiceServer,
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    clock::ClockService, deliveries::DeliveryService, event_types::EventTypeService, events::EventService,
    keys::KeyService, webhooks::WebhookService,
};

/// What the health service says about the server and each of its services. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    reporter: HealthReporter,
    stopped: Arc<Mutex<bool>>,
}

impl Health {
    pub(super) fn new(reporter: HealthReporter) -> Self {
        Self { reporter, stopped: Arc::default() }
    }

    /// Says `SERVING` or `NOT_SERVING` of the whole and of every service. Once it is stopped, nothing changes any more.
    pub async fn set_serving(&self, serving: bool) {
        let stopped = self.stopped.lock().await;
        if !*stopped {
            self.say(serving).await;
        }
    }

    /// Says `NOT_SERVING` for good.
    pub async fn stop(&self) {
        let mut stopped = self.stopped.lock().await;
        *stopped = true;
        self.say(false).await;
    }

    /// Says `NOT_SERVING` whenever the store does not work, and `SERVING` when it does again, until `stop`. It is to be
    /// serving when this begins.
    pub async fn follow(self, mut works: watch::Receiver<bool>, stop: CancellationToken) {
        let mut serving = true;
        loop {
            let working = *works.borrow_and_update();
            if working != serving {
                serving = working;
                self.set_serving(serving).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = works.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn say(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in [
            "",
            WebhookServiceServer::<WebhookService>::NAME,
            EventTypeServiceServer::<EventTypeService>::NAME,
            EventService::NAME,
            DeliveryServiceServer::<DeliveryService>::NAME,
            KeyServiceServer::<KeyService>::NAME,
            ClockServiceServer::<ClockService>::NAME,
        ] {
            self.reporter.set_service_status(name, status).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Request;
    use tonic_health::{
        pb::{HealthCheckRequest, health_check_response::ServingStatus as Said, health_server::Health as _},
        server::HealthService,
    };

    use super::*;

    #[tokio::test]
    async fn health_follows_the_store_and_nothing_revives_it_once_it_is_stopped() {
        let reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        let said = async || {
            let request = HealthCheckRequest { service: EventService::NAME.into() };
            service.check(Request::new(request)).await.unwrap().into_inner().status()
        };
        let (health, works, stop) = (Health::new(reporter), watch::Sender::new(true), CancellationToken::new());
        health.set_serving(true).await;
        let mut following = Box::pin(health.clone().follow(works.subscribe(), stop.clone()));
        let mut follow = async || {
            for _ in 0..100 {
                let _pending = futures::poll!(&mut following);
            }
        };
        follow().await;
        assert_eq!(said().await, Said::Serving);
        works.send_replace(false);
        follow().await;
        assert_eq!(said().await, Said::NotServing);
        works.send_replace(true);
        follow().await;
        assert_eq!(said().await, Said::Serving);
        works.send_replace(false);
        follow().await;
        health.stop().await;
        works.send_replace(true);
        follow().await;
        assert_eq!(said().await, Said::NotServing);
        stop.cancel();
        following.await;
    }
}
