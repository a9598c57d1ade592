//! Rust client of Postrider: publish events, follow what became of them, and verify webhooks on the receiving side.
//!
//! - [`Client`]: every call of the API, over one lazy connection that comes back by itself.
//! - [`Publisher`]: many events over one stream, in order, resent after a break without doubling them.
//! - [`Watch`]: outcomes as a `Stream` that resumes where it was after any break.
//! - [`verify`]: for receivers, whether a request really comes from your Postrider.
//!
//! Messages are those of the contract ([`v1`]); its comments are the reference manual.
//!
//! ```no_run
//! use bytes::Bytes;
//! use postrider_client::{Client, PublisherConfig, v1::{Event, event::Payload}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect_lazy("http://127.0.0.1:50051")?;
//! let publisher = client.publisher(PublisherConfig::default());
//! let event = Event {
//!     r#type: "ADD_TAG".into(),
//!     payload: Some(Payload::Body(Bytes::from_static(br#"{"tag":"vip"}"#))),
//!     ..Event::default()
//! };
//! let receipt = publisher.publish(event).await?;
//! println!("{} goes to {} webhooks", receipt.event_id, receipt.deliveries);
//! publisher.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Deliberately absent: unbounded queues of any kind.

mod backoff;
mod builder;
mod client;
mod credentials;
mod error;
mod publisher;
mod quotas;
mod replays;
pub mod verify;
mod watch;

#[cfg(test)]
mod fake;

pub use backoff::Backoff;
pub use builder::ClientBuilder;
pub use client::{Client, Pages};
pub use error::{Error, code_name};
pub use postrider_proto::{error_info, v1};
pub use publisher::{
    EVENT_BODY_BYTES_MAX, MESSAGE_BYTES_MAX, Pending, PublishError, Publisher, PublisherConfig, Receipt,
};
pub use replays::ReplayWatch;
pub use tonic::Code;
pub use tonic_types::FieldViolation;
pub use v1::delivery_update::Update;
pub use watch::{Batch, Batches, Watch, WatchConfig};
