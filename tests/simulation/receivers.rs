//! Scripted receivers, behind the same channels as the delivery loops.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use postrider_server::{
    clock::Clock,
    flow::{Attempted, Job},
    model::{
        delivery::{AttemptResult, ErrorClass},
        exchange::Exchange,
    },
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::{sync::mpsc, time::sleep};

use crate::{plan::ATTEMPT_TIMEOUT, world::World};

/// What a receiver is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Answers 200 within milliseconds.
    Healthy,
    /// Answers 500.
    Failing,
    /// Fails two times out of three, in all ways there are.
    Flaky,
    /// Answers 429 and asks for a pause, every other time.
    Busy,
    /// Never answers.
    Hanging,
    /// Answers 200 late.
    Slow,
    /// Answers 410 one time out of ten.
    Leaving,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaction {
    /// `None`: it never comes, or the connection breaks.
    pub(crate) status: Option<u16>,
    pub(crate) after: Duration,
    pub(crate) retry_after: Option<Duration>,
}

impl Manner {
    /// A manner by chance; so many of a hundred are healthy.
    pub(crate) fn random(healthy: u32, rng: &mut StdRng) -> Self {
        if rng.random_range(0..100) < healthy {
            return Self::Healthy;
        }
        let others = [Self::Failing, Self::Flaky, Self::Busy, Self::Hanging, Self::Slow, Self::Leaving];
        others[rng.random_range(0..others.len())]
    }

    pub(crate) fn react(self, rng: &mut StdRng) -> Reaction {
        let soon = Duration::from_millis(rng.random_range(0..40));
        let late = Duration::from_millis(rng.random_range(1_100..1_900));
        let answer = |status| Reaction { status: Some(status), after: soon, retry_after: None };
        let pause = Some(Duration::from_secs(rng.random_range(0..50)));
        let silence = Reaction { status: None, after: ATTEMPT_TIMEOUT, retry_after: None };
        match self {
            Self::Failing => answer(500),
            Self::Flaky => match rng.random_range(0..6) {
                0 | 1 => answer(200),
                2 => answer(503),
                3 => silence,
                4 => Reaction { status: None, ..answer(0) },
                _ => Reaction { retry_after: pause, ..answer(429) },
            },
            Self::Busy if rng.random_bool(0.5) => Reaction { retry_after: pause, ..answer(429) },
            Self::Hanging => silence,
            Self::Slow => Reaction { after: late, ..answer(200) },
            Self::Leaving if rng.random_bool(0.1) => answer(410),
            Self::Healthy | Self::Busy | Self::Leaving => answer(200),
        }
    }
}

/// Makes attempts until there are no more jobs, as a delivery loop does.
pub(crate) async fn run(
    world: Arc<World>,
    clock: Clock,
    mut jobs: mpsc::Receiver<Vec<Job>>,
    attempted: mpsc::Sender<Vec<Attempted>>,
) {
    let (world, attempted) = (&world, &attempted);
    let mut running = FuturesUnordered::new();
    let mut more = true;
    while more || !running.is_empty() {
        tokio::select! {
            biased;
            Some(()) = running.next(), if !running.is_empty() => {}
            batch = jobs.recv(), if more => match batch {
                Some(batch) => running.extend(batch.into_iter().map(|job| perform(world, clock, job, attempted))),
                None => more = false,
            },
        }
    }
}

async fn perform(world: &World, clock: Clock, mut job: Job, attempted: &mpsc::Sender<Vec<Attempted>>) {
    let Some(reaction) = world.record.lock().attempt_started(clock.now(), &job) else { return };
    let started = clock.now();
    sleep(reaction.after).await;
    let time = clock.now();
    let error_class = match reaction.status {
        Some(200..300) => None,
        Some(_) => Some(ErrorClass::HttpStatus),
        None if reaction.after >= ATTEMPT_TIMEOUT => Some(ErrorClass::Timeout),
        None => Some(ErrorClass::Connect),
    };
    let result = AttemptResult {
        http_status: reaction.status,
        error_class,
        error: String::new(),
        latency: time.since(started),
        time,
        retry_after: reaction.retry_after,
        response_body: Bytes::new(),
        exchange: Exchange::default(),
    };
    world.record.lock().attempt_ended(time, &job, &result);
    job.event.event.body = Bytes::new();
    job.body_permit = None;
    // While the process stops nobody takes results any more.
    let _stopping = attempted.send(vec![Attempted { job, result: Some(result) }]).await;
}
