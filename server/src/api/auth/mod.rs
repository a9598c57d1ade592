//! Who may speak, decided in one place: a layer around all services.
//!
//! ```text
//!  call ─▶ rules: is there one? ─▶ gate: who is it, may they do this? ─▶ tenants: for whom? ─▶ service
//!                                                                                                 │
//!    │ refused                  │ who changes something: committed before the service is called        │
//!    └──────────▶ audit ◀───────┘                                                                      │
//!  caller ◀── lasting: a stream ends when its caller's credentials do ◀──────────────────────────┘
//! ```
//!
//! Services see requests only of those who may make them, for tenants they may act for. What the layer cannot see is who each
//! event of a publish stream belongs to: there the service makes a [`Publisher`] of the [`Caller`], who is asked for every one.
//!
//! Deliberately absent: sessions, passwords, and rights that include other rights.

mod audit;
mod caller;
mod gate;
mod lasting;
mod pace;
mod publisher;
mod rules;
mod subject;
#[cfg(test)]
mod tests;

pub use self::audit::Audit;
pub(super) use self::{
    caller::Caller,
    gate::Gate,
    publisher::{Publisher, Trespass},
};
