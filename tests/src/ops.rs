//! Looking at a daemon from outside: its metrics and its health, over a plain socket.

use std::{collections::BTreeMap, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::deadline::within;

/// An answer of the port for metrics and health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The lines of the head after the first, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks for `path`.
///
/// # Panics
/// When nobody answers in time, or what comes is not HTTP.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    let answer = within(&format!("an answer to GET {path}"), exchange).await.expect("the port answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let (first, head) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an answer has a status");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// Whether work should be sent there: the line, and whether it is a yes.
pub async fn ready(address: SocketAddr) -> (bool, String) {
    let answer = get(address, "/readyz").await;
    assert!(matches!(answer.status, 200 | 503), "{answer:?}");
    (answer.status == 200, answer.body.trim_end().to_owned())
}

/// Asks until readiness is told in a line that begins so.
///
/// # Panics
/// When that does not come in time.
pub async fn until_told(address: SocketAddr, line: &str) {
    let told = async {
        while !ready(address).await.1.starts_with(line) {
            tokio::task::yield_now().await;
        }
    };
    within(&format!("readiness {line:?}"), told).await;
}

/// What was scraped: values by name and labels, as they are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Scrapes.
    ///
    /// # Panics
    /// When a line is not a value.
    pub async fn of(address: SocketAddr) -> Self {
        let answer = get(address, "/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
        let values = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a line is a name and a value");
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
        });
        Self(values.collect())
    }

    /// Scrapes until `enough`.
    ///
    /// # Panics
    /// When that does not come in time; the message names `what`.
    pub async fn until(address: SocketAddr, what: &str, enough: impl Fn(&Self) -> bool) -> Self {
        let scraping = async {
            loop {
                let scrape = Self::of(address).await;
                if enough(&scrape) {
                    return scrape;
                }
            }
        };
        within(what, scraping).await
    }

    /// One value, by its name (the prefix `postrider_` left out) and labels.
    ///
    /// # Panics
    /// When there is none.
    pub fn value(&self, name: &str) -> f64 {
        let full = format!("postrider_{name}");
        *self.0.get(&full).unwrap_or_else(|| panic!("no {full} in {:#?}", self.0))
    }

    /// A value that counts something.
    ///
    /// # Panics
    /// When there is none, or it is not a whole number.
    pub fn count(&self, name: &str) -> u64 {
        let value = self.value(name);
        format!("{value}").parse().unwrap_or_else(|_| panic!("{name} is {value}"))
    }

    /// Of the values with a label, those that are not 0.
    ///
    /// # Panics
    /// When there are none with that name.
    pub fn by_label(&self, name: &str) -> BTreeMap<String, u64> {
        let start = format!("postrider_{name}{{");
        let series: Vec<_> = self.0.iter().filter(|(series, _)| series.starts_with(&start)).collect();
        assert!(!series.is_empty(), "no {start} in {:#?}", self.0);
        let label = |series: &str| series.split('"').nth(1).unwrap_or_default().to_owned();
        let counted = series.into_iter().filter(|(_, value)| **value != 0.0);
        counted.map(|(series, value)| (label(series), format!("{value}").parse().expect("a count"))).collect()
    }
}
