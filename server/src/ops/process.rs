//! What the operating system says about this process, under the names every Prometheus client uses for it.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    registry::{Registry, Unit},
};

use crate::{metrics::write_gauge, model::time::Timestamp};

/// Adds them. `started` is when the process began.
pub(super) fn register(registry: &mut Registry, started: Timestamp) {
    registry.register_collector(Box::new(Process { started }));
}

#[derive(Debug)]
struct Process {
    started: Timestamp,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let started = self.started.since(Timestamp::UNIX_EPOCH).as_secs_f64();
        let help = "When the process started, in Unix time";
        write_gauge(&mut encoder, "process_start_time", help, Some(&Unit::Seconds), started)?;
        system::encode(&mut encoder)
    }
}

#[cfg(target_os = "linux")]
mod system {
    use prometheus_client::{
        encoding::EncodeMetric as _,
        metrics::{MetricType, counter::ConstCounter},
    };

    use super::{DescriptorEncoder, Unit, fmt, write_gauge};
    use crate::metrics::approximate;

    /// What `/proc` holds. What cannot be read is left out: the rest is still worth having.
    pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            let cpu = approximate(stat.utime + stat.stime) / approximate(procfs::ticks_per_second().max(1));
            let help = "Time spent on processors, in user and kernel mode.";
            let counter = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
            ConstCounter::new(cpu).encode(counter)?;
            let resident = stat.rss.saturating_mul(procfs::page_size());
            let help = "Memory of the process that is in RAM";
            write_gauge(encoder, "process_resident_memory", help, Some(&Unit::Bytes), resident)?;
            let help = "Address space of the process";
            write_gauge(encoder, "process_virtual_memory", help, Some(&Unit::Bytes), stat.vsize)?;
            let threads = u64::try_from(stat.num_threads).unwrap_or_default();
            write_gauge(encoder, "process_threads", "Threads of the process", None, threads)?;
        }
        if let Ok(open) = process.fd_count() {
            write_gauge(encoder, "process_open_fds", "File descriptors open", None, open as u64)?;
        }
        if let Ok(limits) = process.limits()
            && let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            write_gauge(encoder, "process_max_fds", "Most file descriptors open", None, most)?;
        }
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{DescriptorEncoder, fmt};

    /// There is no `/proc` here.
    #[expect(clippy::unnecessary_wraps, reason = "the same shape everywhere")]
    pub(super) fn encode(_: &mut DescriptorEncoder<'_>) -> fmt::Result {
        Ok(())
    }
}
