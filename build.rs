//! Compiles `proto/` in pure Rust (no `protoc` to install) and keeps the descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const SERVICES: [&str; 10] = [
    "postrider/v1/webhook.proto",
    "postrider/v1/event_type.proto",
    "postrider/v1/event.proto",
    "postrider/v1/delivery.proto",
    "postrider/v1/tenant.proto",
    "postrider/v1/key.proto",
    "postrider/v1/replay.proto",
    "postrider/v1/clock.proto",
    "postrider/v1/quota.proto",
    "postrider/v1/audit.proto",
];

/// Not used by any message of ours: they travel packed inside `google.rpc.Status`, and clients that speak reflection
/// (grpcurl) can only print what the server describes.
const DETAILS: &str = "google/rpc/error_details.proto";

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts where to write in the environment")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    for file in SERVICES {
        compiler.open_file(file)?;
    }
    compiler.open_file(DETAILS)?;
    let descriptors = compiler.file_descriptor_set();

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("postrider_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Bodies stay shared slices of the receive buffer all the way to the receiver.
        .bytes(".postrider.v1.Event.body")
        // Sorted: the same settings have the same bytes.
        .btree_map(".postrider.v1.Webhook")
        // Theirs show no secret: see `proto/lib.rs`.
        .skip_debug([
            ".postrider.v1.BasicCredentials",
            ".postrider.v1.BearerToken",
            ".postrider.v1.CreateKeyResponse",
            ".postrider.v1.CreateWebhookRequest",
            ".postrider.v1.CreateWebhookResponse",
            ".postrider.v1.RotateSecretRequest",
            ".postrider.v1.RotateSecretResponse",
            ".postrider.v1.TlsSettings",
            ".postrider.v1.Webhook",
        ])
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}
