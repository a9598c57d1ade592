//! End to end: the real binary, real gRPC, real HTTP receivers. Each test starts a daemon of its own on a fresh directory
//! and proves the promise in its doc comment; none sleeps.

mod attempts;
mod audit;
mod audit_bounds;
mod backup;
mod backup_faults;
mod bad_input;
mod bench;
mod canary;
mod clock;
mod credentials;
mod default_start;
mod delete;
mod directory;
mod disk_full;
mod egress;
mod egress_proxy;
mod erase;
mod fan_out;
mod grpcurl;
mod hostile_clients;
mod hostile_receivers;
mod life;
mod listing;
mod main_job;
mod master_key;
mod operational;
mod ops;
mod ordered;
mod ownership;
mod policy;
mod protection;
mod publish_stream;
mod quotas;
mod receiver_tls;
mod repair;
mod replay;
mod request_id;
mod request_shape;
mod restart;
mod retention;
mod retries;
mod scope;
mod shutdown;
mod siege;
mod signatures;
mod stats;
mod test_event;
mod tls;
mod update;
mod verifier;

use postrider_tests::daemon::Setup;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_postriderd-under-test");

/// A daemon on a fresh directory that may deliver to 127.0.0.0/8.
fn setup() -> Setup {
    Setup::new(BINARY)
}

/// A daemon that tries again every 100 ms, many times.
fn impatient() -> Setup {
    setup().flag("--retry-schedule", &["100ms"; 100].join(","))
}

/// A daemon that, after a failure, tries again in an hour: what fails once stays pending.
fn patient() -> Setup {
    setup().flag("--retry-schedule", "1h,1h")
}
