//! Watchers: a stream for each webhook that reads as it should, and one of everything that never reads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use postrider_proto::v1::{
    WatchDeliveriesRequest, WatchDeliveriesResponse, delivery_service_client::DeliveryServiceClient,
};
use tokio::{runtime, task::JoinSet};
use tonic::Streaming;

use crate::{
    protocol::{Watch, Watched, serve},
    rig::connect,
};

/// Runs watchers until stdin is closed.
pub(crate) fn run() -> Result<()> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut watching: Option<Watching> = None;
    serve(|command| {
        if let Watch::Open { endpoint, webhooks } = command {
            watching = Some(runtime.block_on(open(&endpoint, webhooks))?);
        }
        let watching = watching.as_ref().context("nothing is watched yet")?;
        Ok(Watched { updates: watching.updates.load(Ordering::Relaxed) })
    })
}

struct Watching {
    updates: Arc<AtomicU64>,
    _readers: JoinSet<Result<()>>,
    /// Its window fills and stays full.
    _deaf: Streaming<WatchDeliveriesResponse>,
}

async fn open(endpoint: &str, webhooks: Vec<crate::rig::Hook>) -> Result<Watching> {
    let updates = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    let client = DeliveryServiceClient::new(connect(endpoint).await?);
    for webhook in webhooks {
        let request = WatchDeliveriesRequest {
            tenant: webhook.tenant,
            webhook_ids: vec![webhook.id],
            ..WatchDeliveriesRequest::default()
        };
        let mut stream = client.clone().watch_deliveries(request).await?.into_inner();
        // The first message says where the watch starts: from then on it misses nothing.
        stream.message().await?.context("a watch that ends at once")?;
        let updates = updates.clone();
        readers.spawn(async move {
            while let Some(message) = stream.message().await? {
                updates.fetch_add(u64::try_from(message.updates.len())?, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    // On a connection of its own, whose window it may fill without holding up the others.
    let all = WatchDeliveriesRequest { tenant: "-".into(), ..WatchDeliveriesRequest::default() };
    let deaf = DeliveryServiceClient::new(connect(endpoint).await?).watch_deliveries(all).await?.into_inner();
    Ok(Watching { updates, _readers: readers, _deaf: deaf })
}
