//! Receivers that send without an end, and the others on their loop: with hyper-util's client, whose connections are ours.

use futures::future::join_all;
use rcgen::{CertifiedKey, KeyPair};

use super::{
    tls_receiver::{self_signed, tls_receiver, trusting},
    *,
};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
/// Long enough to tell a flood that is cut from one that is not.
const DEADLINE: Duration = Duration::from_mins(2);

/// What a receiver says once, and what it then repeats for as long as anybody listens.
#[derive(Debug, Clone, Copy)]
struct Flood {
    once: &'static str,
    forever: &'static str,
    status: Option<u16>,
}

/// Those that hyper would read without an end.
const FLOODS: &[Flood] = &[
    Flood { once: CHUNKED, forever: "0", status: Some(200) },
    Flood { once: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1", forever: " ", status: Some(200) },
    Flood { once: "", forever: "HTTP/1.1 100 Continue\r\n\r\n", status: None },
    Flood { once: "", forever: "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", status: None },
];

impl Flood {
    fn write(self, connection: &mut impl std::io::Write) {
        let piece = self.forever.repeat(16 * 1024 / self.forever.len());
        let mut written = connection.write_all(self.once.as_bytes());
        while written.is_ok() {
            written = connection.write_all(piece.as_bytes());
        }
    }

    fn receiver(self) -> Receiver {
        Receiver::start(move |connection, _| {
            self.write(connection);
            false
        })
    }
}

/// One that does it over TLS.
fn flooding_over_tls(flood: Flood, certificate: &CertifiedKey<KeyPair>) -> SocketAddr {
    tls_receiver(certificate, Duration::ZERO, move |stream| {
        if read_request(stream).is_some() {
            flood.write(stream);
        }
    })
}

fn patient() -> Config {
    Config { http_client: HttpClient::Hyper, attempt_timeout: DEADLINE, attempt_timeout_max: DEADLINE, ..loopback() }
}

fn check_cut(result: &AttemptResult, flood: Flood) {
    let text = "1088 KiB came, and the answer was not complete";
    assert_eq!(failed(result), (flood.status, Some(ErrorClass::Protocol), text), "{flood:?}");
    assert!(result.latency < DEADLINE / 2, "{flood:?}: {:?}", result.latency);
}

#[tokio::test]
async fn a_flood_is_cut_long_before_the_deadline() {
    for &flood in FLOODS {
        let result = attempt(patient(), &flood.receiver().url()).await;
        check_cut(&result, flood);
    }
}

#[tokio::test]
async fn a_flood_over_tls_is_cut_as_well() {
    let certificate = self_signed();
    let dns = dns_server(&[[127, 0, 0, 1]]);
    for &flood in FLOODS {
        let attempts = attempts_trusting(&trusting(&certificate), &patient(), &dns);
        let url = format!("https://receiver.test:{}/", flooding_over_tls(flood, &certificate).port());
        check_cut(&attempts.perform(job(&url, b"{}")).await.result.unwrap(), flood);
    }
}

/// Promise 3: on one thread, with many floods at a time.
#[tokio::test]
async fn others_on_the_loop_are_served_meanwhile() {
    let receivers: Vec<_> = FLOODS.iter().cycle().take(8).map(|flood| flood.receiver()).collect();
    let healthy = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let attempts = attempts(&patient(), &resolver::hosts_file_only());
    let floods = join_all(receivers.iter().map(|receiver| attempts.perform(job(&receiver.url(), b"{}"))));
    let served = async {
        let mut slowest = Duration::ZERO;
        for served in 1.. {
            let result = attempts.perform(job(&healthy.url(), b"{}")).await.result.unwrap();
            assert_eq!(failed(&result), (Some(200), None, ""));
            slowest = slowest.max(result.latency);
            if served == 10 {
                break;
            }
        }
        slowest
    };
    // The floods begin first.
    let (floods, slowest) = tokio::join!(floods, served);
    assert!(slowest < DEADLINE / 4, "{slowest:?}");
    for (flooded, &flood) in floods.iter().zip(FLOODS.iter().cycle()) {
        check_cut(flooded.result.as_ref().unwrap(), flood);
    }
}

/// The connection of an answer that is long, but no flood, is used again and again.
#[tokio::test]
async fn what_is_read_of_one_answer_does_not_count_for_the_next() {
    // Almost as much as is read of a body, and so much for its chunks that a few of them would be too long together.
    let chunks = "1\r\na\r\n".repeat(RESPONSE_READ_BYTES_MAX - 1);
    let answer: &'static str = Box::leak(format!("{CHUNKED}{chunks}0\r\n\r\n").into_boxed_str());
    let receiver = Receiver::answering(answer);
    let attempts = attempts(&patient(), &resolver::hosts_file_only());
    for _ in 0..4 {
        let result = attempts.perform(job(&receiver.url(), b"{}")).await.result.unwrap();
        assert_eq!(failed(&result), (Some(200), None, ""));
    }
    assert_eq!(receiver.connections(), 1);
}
