//! The yardstick of deliveries: a bare loop that signs and posts the same bodies to the same receiver, with no daemon and
//! nothing stored.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use sha2::Sha256;
use tokio::{runtime, task::JoinSet};
use uuid::Uuid;

use crate::{
    moment::now_micros,
    payload::{self, BODY_BYTES},
    protocol::{HttpClient, Post, Posted, serve},
};

/// As many as the machine has processors in the setting the targets are for.
const WORKERS: usize = 2;

/// Runs a poster until stdin is closed.
pub(crate) fn run() -> Result<()> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    serve(|post: Post| runtime.block_on(post_all(post)))
}

#[derive(Clone)]
enum Poster {
    Reqwest { client: reqwest::Client, url: reqwest::Url },
    Hyper { client: Client<HttpConnector, Full<Bytes>>, url: Uri },
}

impl Poster {
    #[expect(clippy::disallowed_methods, reason = "what it is to be compared with")]
    fn new(post: &Post) -> Result<Self> {
        Ok(match post.client {
            HttpClient::Reqwest => {
                let client = reqwest::Client::builder()
                    .http1_only()
                    .no_proxy()
                    .tls_backend_preconfigured(no_tls()?)
                    .pool_max_idle_per_host(post.in_flight)
                    .tcp_nodelay(true)
                    .build()?;
                Self::Reqwest { client, url: post.url.parse()? }
            }
            HttpClient::Hyper => {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                let client =
                    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(post.in_flight).build(connector);
                Self::Hyper { client, url: post.url.parse()? }
            }
        })
    }

    async fn post(&self, headers: HeaderMap, body: Bytes) -> Result<StatusCode> {
        match self {
            Self::Reqwest { client, url } => {
                let response = client.post(url.clone()).headers(headers).body(body).send().await?;
                let status = response.status();
                response.bytes().await?;
                Ok(status)
            }
            Self::Hyper { client, url } => {
                let mut request = Request::post(url.clone()).body(Full::new(body))?;
                *request.headers_mut() = headers;
                let response = client.request(request).await?;
                let status = response.status();
                response.into_body().collect().await?;
                Ok(status)
            }
        }
    }
}

/// reqwest insists on a TLS configuration; nothing here is reached over TLS.
fn no_tls() -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

async fn post_all(post: Post) -> Result<Posted> {
    let poster = Poster::new(&post)?;
    let key = Hmac::<Sha256>::new_from_slice(&[7; 32])?;
    let next = Arc::new(AtomicU64::new(0));
    let start = now_micros();
    let end = start + post.micros;
    let mut loops = JoinSet::new();
    for _ in 0..post.in_flight {
        let (poster, key, next) = (poster.clone(), key.clone(), next.clone());
        loops.spawn(async move {
            let mut count = 0;
            loop {
                let now = now_micros();
                if now >= end {
                    return Ok(count);
                }
                let body = payload::body(next.fetch_add(1, Ordering::Relaxed), now, BODY_BYTES);
                let status = poster.post(signed(&key, &body, now / 1_000_000)?, body).await?;
                ensure!(status == StatusCode::OK, "the receiver answered {status}");
                count += 1;
            }
        });
    }
    let mut requests = 0;
    while let Some(posted) = loops.join_next().await {
        requests += posted??;
    }
    Ok(Posted { requests, micros: now_micros() - start })
}

/// The headers of Standard Webhooks, signed.
fn signed(key: &Hmac<Sha256>, body: &[u8], timestamp: u64) -> Result<HeaderMap> {
    let id = format!("evt_{}", Uuid::now_v7().simple());
    let timestamp = timestamp.to_string();
    let mut mac = key.clone();
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", id.try_into()?);
    headers.insert("webhook-timestamp", timestamp.try_into()?);
    headers.insert("webhook-signature", signature.try_into()?);
    Ok(headers)
}
