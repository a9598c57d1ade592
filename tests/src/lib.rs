//! The harness of Postrider's tests: the real daemon in a process of its own, receivers that do as they are told and
//! record everything, and a client for the contract.
//!
//! Nothing here uses the product's own code to judge the product: signatures are recomputed from the standard's text
//! ([`independent`]), deliveries are what arrived at a socket, and outcomes are read over gRPC.

pub mod client;
pub mod daemon;
pub mod deadline;
pub mod events;
pub mod hostile;
pub mod http2;
pub mod independent;
pub mod memory;
pub mod ops;
pub mod payloads;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod rejection;
pub mod tls;
pub mod tools;
pub mod wall;
