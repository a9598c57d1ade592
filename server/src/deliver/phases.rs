//! How far an attempt has come, and how long each part of it took.
//!
//! The client looks names up, connects and shakes hands somewhere inside of one call. What of ours it asks there (the resolver, a
//! layer around its connector, the TLS configuration's store of sessions) notes here what begins and what ends, for the attempt
//! that is being polled: the client makes a connection within the future of the request that wants one.
//!
//! ```text
//!   connecting ─▶ [looking up ─▶] connecting ─▶ [handshake ─▶] made ─▶ answered
//! ```
//!
//! A request may be given a connection that becomes free while its own is being made. Its own then goes on in a task of the
//! client, out of sight from here, and serves somebody else. Hence
//!
//! Invariant: the parts of making a connection count for an attempt only if that ended, or was dropped, as part of the attempt;
//! and if an answer came, only if it came over that very connection.
//!
//! One case is not told apart: an attempt whose own connection is complete and which is given another one in that very moment,
//! and then waits for an answer until its deadline. It shows its own.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
};

use http::Extensions;
use hyper_util::client::legacy::connect::{Connection, HttpInfo};

use crate::{
    clock::Clock,
    model::{exchange::Timings, time::Timestamp},
};

tokio::task_local! {
    /// The attempt that is being polled.
    static PRESENT: RefCell<Phases>;
}

/// A part of making a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Lookup,
    Connect,
    Handshake,
}

/// What is known of an attempt.
#[derive(Debug)]
struct Phases {
    clock: Clock,
    /// When it began.
    started: Timestamp,
    /// What is going on, and since when.
    under_way: Option<(Phase, Timestamp)>,
    /// The connection that was made for it, and since when it is there.
    made: Option<(Ends, Timestamp)>,
    timings: Timings,
    /// Where the connection that it used goes.
    remote: Option<SocketAddr>,
    /// Whether the receiver asked for a certificate when the connection was made.
    asked: Option<AskedForCertificate>,
}

/// A receiver asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AskedForCertificate {
    /// Whether it was given one.
    pub(super) given: bool,
}

/// Both ends of a connection. Through a proxy, the other one is where the tunnel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Ends {
    /// Of the connection that these extras belong to: it tells them itself, or the client does.
    pub(super) fn of(extras: &Extensions) -> Option<Self> {
        let info = extras.get::<HttpInfo>();
        info.map(|info| Self { local: info.local_addr(), remote: info.remote_addr() }).or_else(|| extras.get().copied())
    }
}

impl Phases {
    fn new(clock: Clock, started: Timestamp) -> Self {
        Self { clock, started, under_way: None, made: None, timings: Timings::default(), remote: None, asked: None }
    }

    /// Ends what is under way and begins the next part.
    fn turn_to(&mut self, next: Option<Phase>) {
        let now = self.clock.now();
        if let Some((phase, since)) = self.under_way {
            let part = match phase {
                Phase::Lookup => &mut self.timings.dns,
                Phase::Connect => &mut self.timings.connect,
                Phase::Handshake => &mut self.timings.tls,
            };
            *part = Some(now.since(since));
        }
        self.under_way = next.map(|phase| (phase, now));
    }

    /// The request went over another connection than the one that was being made for it, if there was one.
    fn forget_connecting(&mut self) {
        (self.under_way, self.made, self.timings, self.asked) = (None, None, Timings::default(), None);
    }

    /// The request went over this connection.
    fn used(&mut self, ends: Ends) {
        if self.made.is_none_or(|(made, _)| made != ends) {
            self.forget_connecting();
        }
        self.remote = Some(ends.remote);
    }

    fn answered(&mut self, ends: Ends, now: Timestamp) {
        self.used(ends);
        let since = self.made.map_or(self.started, |(_, since)| since);
        self.timings.first_byte = Some(now.since(since));
    }

    fn conclude(&mut self) -> (Timings, Option<SocketAddr>) {
        if self.under_way.is_some() {
            self.forget_connecting();
        }
        let remote = self.remote.or(self.made.map(|(ends, _)| ends.remote));
        (self.timings, remote.map(canonical))
    }
}

/// An IPv4 address as such, also if it was written as an IPv6 one.
fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    (ip, address.port()).into()
}

fn note(change: impl FnOnce(&mut Phases)) {
    // Outside: a connection that goes on without the attempt it was begun for.
    let _outside = PRESENT.try_with(|phases| change(&mut phases.borrow_mut()));
}

/// Makes an attempt and observes it: what it led to, how long its parts took, and where the connection went that it used.
pub(super) async fn observed<T>(
    clock: Clock,
    started: Timestamp,
    attempt: impl Future<Output = T>,
) -> (T, Timings, Option<SocketAddr>) {
    let observed = async {
        // What it holds is dropped here, if it was cut short.
        let ended = attempt.await;
        let (timings, remote) = PRESENT.with(|phases| phases.borrow_mut().conclude());
        (ended, timings, remote)
    };
    PRESENT.scope(RefCell::new(Phases::new(clock, started)), observed).await
}

/// The head of an answer came over this connection.
pub(super) fn answered(connection: Ends, now: Timestamp) {
    note(|phases| phases.answered(connection, now));
}

/// The request was sent over this connection, and no answer came.
pub(super) fn broke(connection: Ends) {
    note(|phases| phases.used(connection));
}

/// Makes a connection, TLS included: for the attempt that is being polled, for as long as that waits for it.
pub(super) async fn connecting<C: Connection, E>(connect: impl Future<Output = Result<C, E>>) -> Result<C, E> {
    note(|phases| {
        phases.forget_connecting();
        phases.turn_to(Some(Phase::Connect));
    });
    let _end = ConnectingEnds;
    let connection = connect.await?;
    let mut extras = Extensions::new();
    connection.connected().get_extras(&mut extras);
    note(|phases| {
        phases.turn_to(None);
        phases.made = Ends::of(&extras).map(|ends| (ends, phases.clock.now()));
    });
    Ok(connection)
}

/// Ends what is under way: also if it fails, or is cut short with the attempt.
struct ConnectingEnds;

impl Drop for ConnectingEnds {
    fn drop(&mut self) {
        note(|phases| phases.turn_to(None));
    }
}

/// Looks a name up, as part of connecting.
pub(super) async fn looking_up<T, E>(lookup: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    // Instead of connecting, which has not begun yet.
    note(|phases| phases.under_way = Some((Phase::Lookup, phases.clock.now())));
    let found = lookup.await;
    note(|phases| phases.turn_to(found.is_ok().then_some(Phase::Connect)));
    found
}

/// As part of connecting, the receiver asks for a certificate, and is given one or not.
pub(super) fn asked_for_certificate(given: bool) {
    note(|phases| phases.asked = Some(AskedForCertificate { given }));
}

/// Whether the receiver asked for a certificate when the connection was made that the present attempt uses.
pub(super) fn certificate_asked_for() -> Option<AskedForCertificate> {
    PRESENT.try_with(|phases| phases.borrow().asked).ok().flatten()
}

/// A TLS handshake begins, as part of connecting.
pub(super) fn handshake_begins() {
    note(|phases| phases.turn_to(Some(Phase::Handshake)));
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        pin::Pin,
        time::Duration,
    };

    use futures::poll;
    use hyper_util::client::legacy::connect::Connected;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// A connection that says nothing of its ends.
    struct Mute;

    impl Connection for Mute {
        fn connected(&self) -> Connected {
            Connected::new()
        }
    }

    async fn observe<T>(clock: Clock, attempt: impl Future<Output = T>) -> (T, Timings, Option<SocketAddr>) {
        observed(clock, clock.now(), attempt).await
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn split(timings: Timings) -> [Option<u64>; 4] {
        let Timings { dns, connect, tls, first_byte } = timings;
        let millis = |part: Duration| u64::try_from(part.as_millis()).unwrap();
        [dns, connect, tls, first_byte].map(|part| part.map(millis))
    }

    fn ends(local: u16) -> Ends {
        let at = |port| (IpAddr::from([127, 0, 0, 1]), port).into();
        Ends { local: at(local), remote: at(443) }
    }

    async fn part(millis: u64, works: bool) -> Result<(), ()> {
        sleep(ms(millis)).await;
        if works { Ok(()) } else { Err(()) }
    }

    /// Connects in parts of 1, 10 and 100 ms of which the last one asked for works or not.
    async fn connect(parts: usize, works: bool) -> Result<Mute, ()> {
        looking_up(part(1, works || parts > 1)).await?;
        part(10, works || parts > 2).await?;
        handshake_begins();
        part(100, works).await?;
        Ok(Mute)
    }

    #[tokio::test(start_paused = true)]
    async fn parts_are_set_as_far_as_they_were_reached() {
        let check = async |parts, works, deadline, expected| {
            let attempt = timeout(ms(deadline), connecting(connect(parts, works)));
            let (_, timings, remote) = observe(Clock::start(), attempt).await;
            assert_eq!((split(timings), remote), (expected, None), "{parts} {works} {deadline}");
        };
        check(1, false, 1_000, [Some(1), None, None, None]).await;
        check(2, false, 1_000, [Some(1), Some(10), None, None]).await;
        check(3, false, 1_000, [Some(1), Some(10), Some(100), None]).await;
        check(3, true, 1_000, [Some(1), Some(10), Some(100), None]).await;
        // At the deadline, what is under way has taken until then.
        check(3, true, 6, [Some(1), Some(5), None, None]).await;
        check(3, true, 21, [Some(1), Some(10), Some(10), None]).await;
        let literal = connecting(async { part(10, false).await.map(|()| Mute) });
        let (_, timings, _) = observe(Clock::start(), literal).await;
        assert_eq!(split(timings), [None, Some(10), None, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_goes_on_without_the_attempt_does_not_count() {
        type Connecting = Pin<Box<dyn Future<Output = Result<Mute, ()>>>>;
        let mut left_behind: Option<Connecting> = None;
        let attempt = async {
            let mut own: Connecting = Box::pin(connecting(connect(3, true)));
            assert!(poll!(&mut own).is_pending());
            sleep(ms(5)).await;
            assert!(poll!(&mut own).is_pending(), "looked up, and connecting");
            left_behind = Some(own);
            sleep(ms(20)).await;
        };
        let ((), timings, remote) = observe(Clock::start(), attempt).await;
        assert_eq!((split(timings), remote), ([None; 4], None));

        // It ends outside of any attempt, where there is nobody to note it for.
        assert!(left_behind.expect("left behind").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_connection_that_was_used_counts() {
        let check = async |made: Option<u16>, used: u16, expected: [Option<u64>; 4]| {
            let clock = Clock::start();
            let attempt = async {
                if let Some(local) = made {
                    connecting(connect(3, true)).await.unwrap();
                    note(|phases| phases.made = Some((ends(local), clock.now())));
                }
                sleep(ms(7)).await;
                note(|phases| phases.answered(ends(used), clock.now()));
                // The body.
                sleep(ms(1_000)).await;
            };
            let ((), timings, remote) = observe(clock, attempt).await;
            assert_eq!((split(timings), remote), (expected, Some(ends(0).remote)), "{made:?} {used}");
        };
        check(None, 1, [None, None, None, Some(7)]).await;
        check(Some(1), 1, [Some(1), Some(10), Some(100), Some(7)]).await;
        check(Some(1), 2, [None, None, None, Some(118)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_made_tells_where_a_silent_attempt_went() {
        let clock = Clock::start();
        let attempt = async {
            connecting(connect(3, true)).await.unwrap();
            note(|phases| phases.made = Some((ends(1), clock.now())));
            pending::<()>().await;
        };
        let (_, timings, remote) = observe(clock, timeout(ms(500), attempt)).await;
        let expected = [Some(1), Some(10), Some(100), None];
        assert_eq!((split(timings), remote), (expected, Some(ends(1).remote)));
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:443".parse().unwrap();
        assert_eq!(canonical(mapped).to_string(), "192.0.2.7:443");
    }

    #[tokio::test]
    async fn outside_of_attempts_nothing_is_noted() {
        handshake_begins();
        assert!(connecting(ready(Ok::<_, ()>(Mute))).await.is_ok());
    }
}
