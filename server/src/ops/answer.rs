//! What is asked, and what is said to it.

use std::{fmt::Display, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use prometheus_client::encoding::text;
use tokio::task::spawn_blocking;
use tracing::error;

use super::Desk;

/// The media type of what [`text`] writes: `OpenMetrics`, which Prometheus prefers.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

impl Desk {
    /// Answers one request, whose body nobody looks at.
    pub(super) async fn answer<B>(self: Arc<Self>, request: Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/livez" | "/readyz") {
            return plain(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/metrics" => self.metrics().await,
            "/livez" => verdict(self.liveness()),
            _ => verdict(self.readiness().await),
        }
    }

    async fn metrics(self: Arc<Self>) -> Response<Full<Bytes>> {
        // For the gauges that come with it.
        let _verdict = self.readiness().await;
        // One at a time, and away from the runtime's threads: some of it asks the file system, which may not answer.
        let registry = self.registry.clone().lock_owned().await;
        let encoded = spawn_blocking(move || {
            let mut exposition = String::new();
            text::encode(&mut exposition, &registry).map(|()| exposition)
        });
        if let Ok(Ok(exposition)) = encoded.await {
            return respond(StatusCode::OK, OPEN_METRICS, exposition);
        }
        error!("the metrics could not be written");
        plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written")
    }
}

fn verdict(judged: Result<(), impl Display>) -> Response<Full<Bytes>> {
    match judged {
        Ok(()) => plain(StatusCode::OK, "ok"),
        Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, &reason.to_string()),
    }
}

fn plain(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    respond(status, PLAIN, format!("{line}\n"))
}

fn respond(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
