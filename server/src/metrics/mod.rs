//! What the stages count: one struct of handles per stage, registered by name in one registry and read by `ops`.
//!
//! A stage is handed its struct and calls a method where something happens. Everything that happens per delivery is a few
//! relaxed atomic additions: label sets are resolved beforehand, as arrays indexed by an enum, so that nothing is looked up,
//! locked or allocated. What can be read at any time, such as the depth of a queue, is not counted at all but read when
//! somebody scrapes.
//!
//! Invariant: labels are enums of ours, so the number of time series is fixed. Tenants, webhooks and URLs are never labels.
//!
//! Deliberately absent: globals. The handles of a struct that was not registered, as in tests, count for nobody.

mod accept;
mod audit;
mod clock;
mod deliver;
mod dispatch;
mod filters;
mod histogram;
mod label;
mod outcomes;
mod queues;
mod serve;
mod store;
mod watch;

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::{Registry, Unit},
};

pub(crate) use self::histogram::approximate;
pub use self::{
    accept::{AcceptMetrics, Novelty, Reason},
    audit::AuditMetrics,
    deliver::{AttemptClass, AttemptUnderWay, DeliverMetrics},
    dispatch::DispatchMetrics,
    histogram::Histogram,
    label::{CounterBy, Label},
    outcomes::{Conclusion, OutcomesMetrics},
    queues::{Depth, Queues},
    serve::ServeMetrics,
    store::{CommitSize, StoreMetrics},
    watch::{StreamPlace, WatchMetrics},
};

/// What every name of ours begins with.
pub const PREFIX: &str = "postrider";

/// The handles of all stages. The store engine has its own, which come with it.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Events coming in.
    pub accept: AcceptMetrics,
    /// Deliveries being launched.
    pub dispatch: DispatchMetrics,
    /// Attempts.
    pub deliver: DeliverMetrics,
    /// What attempts led to.
    pub outcomes: OutcomesMetrics,
    /// Those who follow.
    pub watch: WatchMetrics,
    /// Who did what.
    pub audit: AuditMetrics,
    /// Those who connect.
    pub serve: ServeMetrics,
}

impl Metrics {
    /// Gives every handle its name. `registry` adds [`PREFIX`].
    pub fn register(&self, registry: &mut Registry) {
        self.accept.register(registry);
        self.dispatch.register(registry);
        self.deliver.register(registry);
        self.outcomes.register(registry);
        self.watch.register(registry);
        self.audit.register(registry);
        self.serve.register(registry);
    }
}

/// Writes a gauge that is read when somebody scrapes. `help` ends without a full stop, as that of registered handles.
pub fn write_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    let help = format!("{help}.");
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, &help, unit, MetricType::Gauge)?)
}
