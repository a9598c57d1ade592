//! The operator's proxy, through which every connection to a receiver is made: by CONNECT (RFC 9110, section 9.3.6), plain http
//! included, so that nothing but the tunnel is the proxy's.
//!
//! Invariant: the proxy is asked for an address that was judged here, never for a name. The name stays in the TLS handshake and in
//! the header `host`, which only the receiver sees.
//!
//! Deliberately absent: proxies that the environment names, TLS to the proxy, and a way around the proxy for some receivers.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use url::{Host, Url};

use super::resolver::Dns;
use crate::model::target::is_localhost;

/// Longest head of the proxy's answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Its port where the URL has none.
const PORT: u16 = 80;

/// Where the proxy is, and who we are to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: Host<String>,
    port: u16,
    /// The value of `proxy-authorization`: a secret.
    authorization: Option<HeaderValue>,
}

/// Why there is no tunnel. Never names the proxy: tenants see these texts.
#[derive(Debug, Error)]
pub(super) enum ProxyError {
    /// Its name has no address.
    #[error("the egress proxy's name could not be looked up")]
    Name,
    /// Nobody takes connections there.
    #[error("no connection to the egress proxy: {}", .0.kind())]
    Unreachable(#[source] io::Error),
    /// It broke off before it had answered.
    #[error("the egress proxy closed the connection before it answered")]
    Closed,
    /// It is not a proxy.
    #[error("the egress proxy's answer to CONNECT is not valid HTTP")]
    NotHttp,
    /// It does not know us.
    #[error("the egress proxy wants credentials, or other ones (407)")]
    Credentials,
    /// It could not reach the receiver.
    #[error("the egress proxy could not reach the receiver ({0})")]
    Receiver(StatusCode),
    /// It does not want to.
    #[error("the egress proxy refused the connection ({0})")]
    Refused(StatusCode),
}

impl ProxyError {
    fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Self::Credentials,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Self::Receiver(status)
            }
            other => Self::Refused(other),
        }
    }
}

impl Proxy {
    /// Reads `http://HOST:PORT`, and `USER:PASSWORD` if there are credentials. What is wrong is said without repeating any of it.
    pub fn parse(url: &str, credentials: Option<&str>) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|_| "is not a URL such as http://proxy.internal:3128")?;
        if url.scheme() != "http" {
            return Err("must begin with http://: TLS to the proxy is not supported".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must have no credentials in it: put them into the file egress-proxy-credentials".into());
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("must have nothing after the port".into());
        }
        let host = url.host().ok_or("has no host")?.to_owned();
        let authorization = credentials.map(authorization).transpose()?;
        Ok(Self { host, port: url.port().unwrap_or(PORT), authorization })
    }

    /// A tunnel to this address.
    pub(super) async fn tunnel(&self, dns: &Dns, receiver: SocketAddr) -> Result<TcpStream, ProxyError> {
        let mut stream = self.connect(dns).await?;
        stream.set_nodelay(true).map_err(ProxyError::Unreachable)?;
        stream.write_all(&self.request(receiver)).await.map_err(|_| ProxyError::Closed)?;
        let status = answer(&mut stream).await?;
        if status.is_success() { Ok(stream) } else { Err(ProxyError::of(status)) }
    }

    /// To the first of its addresses that takes connections. The operator named it: it is not judged.
    async fn connect(&self, dns: &Dns) -> Result<TcpStream, ProxyError> {
        let addresses: Vec<IpAddr> = match &self.host {
            Host::Ipv4(address) => vec![(*address).into()],
            Host::Ipv6(address) => vec![(*address).into()],
            Host::Domain(name) if is_localhost(name) => vec![Ipv4Addr::LOCALHOST.into()],
            Host::Domain(name) => dns.lookup(name).await.map_err(|_| ProxyError::Name)?,
        };
        let mut problem = ProxyError::Name;
        for address in addresses {
            match TcpStream::connect((address, self.port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => problem = ProxyError::Unreachable(error),
            }
        }
        Err(problem)
    }

    fn request(&self, receiver: SocketAddr) -> Vec<u8> {
        let mut request = format!("CONNECT {receiver} HTTP/1.1\r\nhost: {receiver}\r\n").into_bytes();
        if let Some(authorization) = &self.authorization {
            request.extend_from_slice(b"proxy-authorization: ");
            request.extend_from_slice(authorization.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// RFC 7617, as UTF-8.
fn authorization(credentials: &str) -> Result<HeaderValue, String> {
    let (user, password) = credentials.split_once(':').ok_or("must be USER:PASSWORD")?;
    if user.is_empty() || [user, password].iter().any(|part| part.contains(char::is_control)) {
        return Err("must be USER:PASSWORD on one line, without control characters".into());
    }
    let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(credentials)));
    let mut value = value.expect("base64 can be sent");
    value.set_sensitive(true);
    Ok(value)
}

/// The status of the answer, whose head is read to its end. Nothing may follow: whoever speaks TLS or HTTP waits for the client.
async fn answer(stream: &mut TcpStream) -> Result<StatusCode, ProxyError> {
    let mut head = Vec::with_capacity(256);
    loop {
        if stream.read_buf(&mut head).await.map_err(|_| ProxyError::Closed)? == 0 {
            return Err(ProxyError::Closed);
        }
        let end = head.windows(4).position(|part| part == b"\r\n\r\n").map(|at| at + 4);
        if end.is_none() && head.len() <= HEAD_BYTES_MAX && is_http(&head) {
            continue;
        }
        let status = status(&head).filter(|_| end.is_some()).ok_or(ProxyError::NotHttp)?;
        // A refusal may have a body.
        let is_all = end == Some(head.len());
        return if is_all || !status.is_success() { Ok(status) } else { Err(ProxyError::NotHttp) };
    }
}

/// Whether this may be the beginning of an answer.
fn is_http(head: &[u8]) -> bool {
    head.iter().zip(b"HTTP/1.").all(|(is, should)| is == should)
}

/// The status of a complete head.
fn status(head: &[u8]) -> Option<StatusCode> {
    let digits = head.strip_prefix(b"HTTP/1.")?.get(1..5)?.strip_prefix(b" ")?;
    StatusCode::from_bytes(digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_and_their_credentials_not_shown() {
        let receiver = "[2001:db8::1]:443".parse().unwrap();
        let plain = Proxy::parse("http://proxy.internal:3128", None).unwrap();
        assert_eq!((plain.host.to_string().as_str(), plain.port), ("proxy.internal", 3128));
        assert_eq!(plain.request(receiver), b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nhost: [2001:db8::1]:443\r\n\r\n");
        let known = Proxy::parse("http://[::1]/", Some("Aladdin:open sesame")).unwrap();
        assert_eq!((known.host.to_string().as_str(), known.port), ("[::1]", 80));
        let request = String::from_utf8(known.request(receiver)).unwrap();
        assert!(request.contains("\r\nproxy-authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{request}");
        let shown = format!("{known:?}");
        assert!(!shown.contains("QWxh") && !shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_repeating_it() {
        for (url, credentials, says) in [
            ("s3cret", None, "is not a URL"),
            ("https://p.test", None, "TLS to the proxy"),
            ("socks5://p.test", None, "http://"),
            ("http://u:s3cret@p.test", None, "credentials"),
            ("http://p.test/s3cret", None, "after the port"),
            ("http://p.test?s3cret", None, "after the port"),
            ("http://p.test", Some("s3cret"), "USER:PASSWORD"),
            ("http://p.test", Some(":s3cret"), "USER:PASSWORD"),
            ("http://p.test", Some("u:s3cret\nx"), "control"),
        ] {
            let problem = Proxy::parse(url, credentials).unwrap_err();
            assert!(problem.contains(says) && !problem.contains("s3cret"), "{url}: {problem}");
        }
    }

    #[test]
    fn answers_are_told_apart() {
        let read = |head: &[u8]| status(head).map(|status| status.as_u16());
        assert_eq!(read(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(read(b"HTTP/1.0 407 \r\n\r\n"), Some(407));
        for wrong in [&b"HTTP/2 200\r\n\r\n"[..], b"HTTP/1.1 20\r\n\r\n", b"HTTP/1.1", b"SSH-2.0", b""] {
            assert_eq!(read(wrong), None);
        }
        assert!(is_http(b"HT") && is_http(b"HTTP/1.1 2") && !is_http(b"SSH"));
        let text = |code| ProxyError::of(StatusCode::from_u16(code).unwrap()).to_string();
        assert!(text(407).contains("credentials") && text(502).contains("reach") && text(403).contains("refused"));
    }
}
