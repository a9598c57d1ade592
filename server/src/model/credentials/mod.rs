//! Who may speak: API keys, what each may do, and for which tenants. Pure.
//!
//! Deliberately absent: the text of a key, once its owner has it. What is kept is its digest, and no digest is ever printed.

mod api_key;
mod grant;
mod rights;
mod secret;
mod tenants;

pub use self::{
    api_key::{ApiKey, ApiKeyId, ApiKeySpec, key_name},
    grant::Grant,
    rights::{Right, Rights, UnknownRight},
    secret::{ApiKeySecret, Digest},
    tenants::TenantScope,
};
