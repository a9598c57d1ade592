//! What others notice of a webhook, or an event, that is hard work.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use super::throughput::ROUNDS;
use crate::{
    moment::now_micros,
    protocol::Behaviour,
    rig::{HOSTS, Receiver, Rig},
    spread::Spread,
    statistics::{Percentiles, median, number, per_second},
    table::{Figure, Table, Target::RatioAtMost},
};

/// Events per second of the others.
const RATE: f64 = 1_000.0;
/// Webhooks of the wide event.
const WIDE_TARGETS: u64 = 10_000;
/// How long the others have been at it when the wide event comes.
const LEAD: Duration = Duration::from_millis(300);

/// One event that matches 10,000 webhooks, while another tenant publishes.
pub(crate) fn wide(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let targets = WIDE_TARGETS;
    let (others, wide) = (Spread::one(), Spread::fan(u32::try_from(targets)?).of("wide").hosts(HOSTS));
    let mut receiver = Receiver::start(HOSTS)?;
    let daemon = rig.daemon_with(&[], &others)?;
    rig.create_webhooks(&daemon, &wide, &receiver)?;
    let (micros, rounds) = if rig.scale.quick { (1_500_000, 3) } else { (3_000_000, 7) };
    rig.latency(&daemon, &others, RATE, micros)?;
    let (mut alone, mut meanwhile, mut accepts, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(rig.latency(&daemon, &others, RATE, micros)?.ack.p99_ms());
        receiver.reset(false)?;
        rig.start_latency(&daemon, &others, RATE, micros)?;
        thread::sleep(LEAD);
        let start = now_micros();
        let deliveries = rig.publish_one(&daemon, &wide)?;
        accepts.push(number(now_micros() - start) / 1e3);
        ensure!(deliveries == targets, "the event goes to {deliveries} webhooks, not to {targets}");
        let end = receiver.wait(targets)?.last;
        rates.push(per_second(targets, end.saturating_sub(start)));
        let acks = rig.finish_latency(&daemon)?.acks;
        let acks: Vec<u32> =
            acks.into_iter().filter(|(due, _)| (start..end).contains(due)).map(|(_, micros)| micros).collect();
        ensure!(!acks.is_empty(), "nobody else published while the event was delivered");
        meanwhile.push(Percentiles::of(acks).p99_ms());
        daemon.settle()?;
        ensure!(receiver.seen()?.arrived == targets, "more than {targets} deliveries of one event");
    }
    let note = format!(
        "p99 ack of others at 1,000/s from the publish of an event for {targets} webhooks to its last delivery; \
         {rounds} ×, over the same without; defaults"
    );
    let figure = Figure::new("wide", median(meanwhile), "ms", note).over(median(alone));
    table.add(figure.target(RatioAtMost(3.0)));
    table.add(Figure::new("wide_accept", median(accepts), "ms", "publish to ack of that event, connecting included"));
    table.add(Figure::new("wide_rate", median(rates), "deliveries/s", "of that event, from its publish on"));
    Ok(())
}

/// One webhook hangs with a backlog, 99 others are well.
pub(crate) fn fairness(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let healthy = Spread::over(99).hosts(99);
    let hanging = Spread::one().of("hanging");
    let mut receiver = Receiver::start(1)?;
    receiver.behave(Behaviour::Hang)?;
    let alone = rig.daemon_with(&[], &healthy)?;
    let crowded = rig.daemon_with(&[], &healthy)?;
    rig.create_webhooks(&crowded, &hanging, &receiver)?;
    let micros = rig.scale.micros(10_000_000, 1_500_000);
    for daemon in [&alone, &crowded] {
        rig.latency(daemon, &healthy, RATE, micros / 2)?;
    }
    let pending = rig.scale.count(1_000_000, 100_000);
    let command = rig.publish_command(&crowded, &hanging, pending);
    rig.publish(&crowded, &command)?;
    receiver.wait(1)?;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        before.push(rig.latency(&alone, &healthy, RATE, micros)?.arrival);
        after.push(rig.latency(&crowded, &healthy, RATE, micros)?.arrival);
    }
    let note = format!(
        "publish to arrival; {ROUNDS} × 99 webhooks at 1,000/s in all beside one that hangs with {pending} pending, over \
         a daemon without; defaults"
    );
    let of = |latencies: &[Percentiles], percentile: fn(Percentiles) -> f64| {
        median(latencies.iter().copied().map(percentile))
    };
    let figure = Figure::new("fairness", of(&after, Percentiles::p99_ms), "ms", format!("p99 {note}"));
    table.add(figure.over(of(&before, Percentiles::p99_ms)).target(RatioAtMost(2.0)));
    let figure = Figure::new("fairness_p50", of(&after, Percentiles::p50_ms), "ms", format!("p50 {note}"));
    table.add(figure.over(of(&before, Percentiles::p50_ms)));
    table
        .add(Figure::new("fairness_rss", crowded.resident_peak_mib()?, "MiB", "peak").over(alone.resident_peak_mib()?));
    Ok(())
}
