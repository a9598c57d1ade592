//! The URL of a webhook, checked and normalised.
//!
//! Everything is judged on the parsed URL, which is also what the request is made from: no second parser can read the text
//! differently. Parsing follows WHATWG, so `http://2130706433`, `http://0x7f.1` and `http://[::ffff:127.0.0.1]` are seen as
//! the addresses they are. What a name resolves to is judged by the resolver of the delivery stage, at every attempt.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use thiserror::Error;
use url::{Host, Position, Url};

use super::address::{AddressPolicy, Forbidden};
use crate::limits::URL_BYTES_MAX;

/// Longest host name DNS can carry as text (RFC 1035, 2.3.4), without a last dot.
const HOST_BYTES_MAX: usize = 253;
/// Longest part of a host name between two dots (RFC 1035, 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// What `localhost` means, in the order of preference.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// What the operator allows webhooks to call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetRules {
    /// Whether plain http is allowed to all allowed addresses, not only to those in opened ranges.
    pub allow_http: bool,
    /// Which addresses are allowed.
    pub policy: AddressPolicy,
}

impl TargetRules {
    /// Rules that allow every address, for reading a URL that nothing will be sent to.
    pub fn unjudged() -> Self {
        Self { allow_http: true, policy: AddressPolicy::unjudged() }
    }

    /// Whether a request of this scheme may go to this address.
    pub fn admit(&self, scheme: Scheme, address: IpAddr) -> Result<(), NotAllowed> {
        self.policy.judge(address)?;
        match scheme {
            Scheme::Https => Ok(()),
            Scheme::Http if self.allow_http || self.policy.is_opened(address) => Ok(()),
            Scheme::Http => Err(NotAllowed::PlainHttp),
        }
    }

    /// Which loopback addresses a request of this scheme to `localhost` may go to; never none.
    pub fn localhost(&self, scheme: Scheme) -> Result<impl Iterator<Item = IpAddr>, NotAllowed> {
        let admitted = LOOPBACK.map(|address| self.admit(scheme, address).is_ok().then_some(address));
        if admitted == [None, None] {
            return Err(NotAllowed::Localhost);
        }
        Ok(admitted.into_iter().flatten())
    }
}

/// How requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Unencrypted.
    Http,
    /// Over TLS.
    Https,
}

/// A host, by how its addresses are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetHost<'a> {
    /// It is an address.
    Literal(IpAddr),
    /// It is `localhost` or a name below it: loopback, without asking DNS (RFC 6761).
    Localhost,
    /// It must be resolved.
    Name(&'a str),
}

/// A URL deliveries may be sent to as far as its text tells. `Debug` and [`Target::redacted`] leave its query out.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Url);

impl Target {
    /// Checks everything that can be judged from the text alone.
    pub fn parse(text: &str, rules: &TargetRules) -> Result<Self, TargetError> {
        let target = Self::well_formed(text)?;
        target.check(rules)?;
        Ok(target)
    }

    /// Reads back what [`Target::url`] said when the target was stored. The rules may have changed since: attempts check again.
    pub fn from_stored(text: &str) -> Result<Self, TargetError> {
        Ok(Self::well_formed(text)?)
    }

    fn well_formed(text: &str) -> Result<Self, Malformed> {
        if text.len() > URL_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        // The parser would drop them in silence.
        if text.contains(|c: char| c.is_ascii_control()) || text.trim() != text {
            return Err(Malformed::Whitespace);
        }
        let url = Url::parse(text).map_err(Malformed::Syntax)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Malformed::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Malformed::UserInformation);
        }
        if url.fragment().is_some() {
            return Err(Malformed::Fragment);
        }
        if url.port() == Some(0) {
            return Err(Malformed::PortZero);
        }
        if url.as_str().len() > URL_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        let host_fits = match url.host() {
            Some(Host::Domain(name)) => could_resolve(name),
            Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
            None => false,
        };
        // The client reads hosts more strictly than WHATWG does.
        if !host_fits || http::Uri::try_from(url.as_str()).is_err() {
            return Err(Malformed::Host);
        }
        Ok(Self(url))
    }

    /// Whether a request may be made, as far as can be told without resolving a name. The same at create and at every attempt.
    pub fn check(&self, rules: &TargetRules) -> Result<(), NotAllowed> {
        let port = self.port();
        if !matches!(port, 80 | 443 | 1024..) {
            return Err(NotAllowed::Port(port));
        }
        match self.host() {
            TargetHost::Literal(address) => rules.admit(self.scheme(), address),
            TargetHost::Localhost => rules.localhost(self.scheme()).map(|_| ()),
            // It may resolve to an opened address, and the resolver insists that it does.
            TargetHost::Name(_) if rules.allow_http || rules.policy.opens_any() => Ok(()),
            TargetHost::Name(_) => match self.scheme() {
                Scheme::Https => Ok(()),
                Scheme::Http => Err(NotAllowed::PlainHttp),
            },
        }
    }

    /// The same with more in its query, which keeps what it has: names and texts, in this order, as forms write them.
    #[must_use]
    pub fn with_query<'a>(&self, more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut more = more.into_iter().peekable();
        let mut url = self.0.clone();
        if more.peek().is_some() {
            url.query_pairs_mut().extend_pairs(more);
        }
        Self(url)
    }

    /// The URL, normalised.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// How requests are sent.
    pub fn scheme(&self) -> Scheme {
        match self.0.scheme() {
            "https" => Scheme::Https,
            _ => Scheme::Http,
        }
    }

    /// The port requests are sent to, whether the URL says it or its scheme.
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().expect("http and https have a port")
    }

    /// Where requests are sent.
    pub fn host(&self) -> TargetHost<'_> {
        match self.0.host() {
            Some(Host::Ipv4(address)) => TargetHost::Literal(address.into()),
            Some(Host::Ipv6(address)) => TargetHost::Literal(address.into()),
            Some(Host::Domain(name)) if is_localhost(name) => TargetHost::Localhost,
            Some(Host::Domain(name)) => TargetHost::Name(name),
            None => unreachable!("http and https URLs have a host"),
        }
    }

    /// The URL up to its query, for logs.
    pub fn redacted(&self) -> &str {
        &self.0[..Position::AfterPath]
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.redacted()).finish()
    }
}

/// Whether a lower-case name is `localhost` or below it.
pub fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.strip_suffix("localhost").is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether DNS could carry a name: WHATWG lets `localhost..` pass, which some resolvers read as `localhost`.
fn could_resolve(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= HOST_BYTES_MAX && name.split('.').all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len()))
}

/// Why a text is not a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    /// Nothing could be sent to it, whatever the operator allowed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// This server's operator did not allow it.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
}

/// Why a text is not a URL for webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Longer than `URL_BYTES_MAX`, as given or normalised.
    #[error("must be at most {URL_BYTES_MAX} bytes")]
    TooLong,
    /// Has spaces around it or control characters in it.
    #[error("must not have spaces around it or control characters in it")]
    Whitespace,
    /// Not a URL.
    #[error("must be a URL such as https://example.com/hook: {0}")]
    Syntax(url::ParseError),
    /// Neither http nor https.
    #[error("must start with https:// (or http://, where this server allows it)")]
    Scheme,
    /// Has a user name or a password.
    #[error("must not contain a user name or password")]
    UserInformation,
    /// Has a fragment, which is never sent.
    #[error("must not contain a fragment (#…)")]
    Fragment,
    /// Port 0.
    #[error("must not have port 0")]
    PortZero,
    /// Its host cannot be one.
    #[error("must have a valid host name or address")]
    Host,
}

/// Why a URL may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotAllowed {
    /// The address is not public, nor opened.
    #[error("{0}; the operator of this server can open it with --allow-cidr")]
    Address(#[from] Forbidden),
    /// `localhost`, and no loopback address is opened.
    #[error(
        "localhost is not a public address (loopback); the operator of this server can open it with --allow-cidr 127.0.0.0/8"
    )]
    Localhost,
    /// Plain http to an address that is not opened.
    #[error(
        "plain http is not allowed; use https, or let the operator of this server open the address with --allow-cidr or plain http with --allow-http"
    )]
    PlainHttp,
    /// A privileged port that is not a web server's.
    #[error("port {0} is not allowed; use 80, 443, or 1024 and above")]
    Port(u16),
    /// It leads back to a port this server serves on.
    #[error("it leads to this server itself, which is no receiver")]
    OwnListener,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow_http: bool, opened: &[&str]) -> TargetRules {
        let opened = opened.iter().map(|range| range.parse().expect("a range")).collect();
        TargetRules { allow_http, policy: AddressPolicy::new(opened) }
    }

    #[test]
    fn targets_are_normalised() {
        let check = |text: &str, expected: &str| {
            let target = Target::parse(text, &rules(true, &[])).expect(text);
            assert_eq!(target.url().as_str(), expected);
            assert_eq!(Target::from_stored(expected).as_ref(), Ok(&target));
        };
        check("https://example.com", "https://example.com/");
        check("HTTPS://Example.COM:443/A?b=C", "https://example.com/A?b=C");
        check("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC");
        check("https://example.com./", "https://example.com./");
        check("https://example.com:8443", "https://example.com:8443/");
        check("http://134744072/", "http://8.8.8.8/");
        check("https:\\\\example.com\\a", "https://example.com/a");
        check("https://@example.com/", "https://example.com/");
        let label = "a".repeat(63);
        let name = format!("https://{label}.{label}.{label}.{}/", "a".repeat(61));
        check(&name, &name);
    }

    #[test]
    fn a_query_grows_and_nothing_else_changes() {
        let check = |text: &str, more: &[(&str, &str)], expected: &str| {
            let target = Target::from_stored(text).expect(text);
            let longer = target.with_query(more.iter().copied());
            assert_eq!(longer.url().as_str(), expected);
            assert_eq!((longer.host(), longer.redacted()), (target.host(), target.redacted()));
            assert_eq!(Target::from_stored(expected), Ok(longer), "it is a URL like any other");
        };
        check("https://e.example/a", &[], "https://e.example/a");
        check("https://e.example/a?", &[], "https://e.example/a?");
        check("https://e.example", &[("a", "b c"), ("a", "")], "https://e.example/?a=b+c&a=");
        check("https://e.example/?x=%20&x", &[("x", "1")], "https://e.example/?x=%20&x&x=1");
        let hostile = [("@evil.example/", "#\r\n&=é"), ("", "/../")];
        check("https://e.example/", &hostile, "https://e.example/?%40evil.example%2F=%23%0D%0A%26%3D%C3%A9&=%2F..%2F");
    }

    #[test]
    fn malformed_targets_are_refused_whatever_is_allowed() {
        let everything = rules(true, &["0.0.0.0/0", "::/0"]);
        let check = |text: &str, expected: Malformed| {
            assert_eq!(Target::parse(text, &everything), Err(TargetError::Malformed(expected.clone())), "{text:?}");
            assert_eq!(Target::from_stored(text), Err(TargetError::Malformed(expected)), "{text:?}");
        };
        let long = |length: usize| format!("https://e.example/{}", "x".repeat(length - "https://e.example/".len()));
        assert!(Target::parse(&long(2048), &everything).is_ok());
        check(&long(2049), Malformed::TooLong);
        check(&format!("https://e.example/{}", "ü".repeat(400)), Malformed::TooLong);
        for text in [" https://e.example/", "https://e.example/\n", "https://e.exa\tmple/", "https://e.example/\0"] {
            check(text, Malformed::Whitespace);
        }
        check("", Malformed::Syntax(url::ParseError::RelativeUrlWithoutBase));
        check("example.com/hook", Malformed::Syntax(url::ParseError::RelativeUrlWithoutBase));
        check("https://", Malformed::Syntax(url::ParseError::EmptyHost));
        check("https://e.example:99999/", Malformed::Syntax(url::ParseError::InvalidPort));
        check("https://1.2.3.4.5/", Malformed::Syntax(url::ParseError::InvalidIpv4Address));
        check("https://[::1%25eth0]/", Malformed::Syntax(url::ParseError::InvalidIpv6Address));
        for text in ["ftp://e.example/", "file:///etc/passwd", "gopher://e.example/", "data:,x", "localhost:8080"] {
            check(text, Malformed::Scheme);
        }
        for text in ["https://user@e.example/", "https://user:pass@e.example/", "https://:pass@e.example/"] {
            check(text, Malformed::UserInformation);
        }
        check("https://e.example/#", Malformed::Fragment);
        check("https://e.example/#a", Malformed::Fragment);
        check("https://e.example:0/", Malformed::PortZero);
        check("https://{{host}}/", Malformed::Host);
        check(&format!("https://{}/", "a.".repeat(128)), Malformed::Host);
        check(&format!("https://{}.example/", "a".repeat(64)), Malformed::Host);
        for text in ["https://localhost../", "https://localhost。./", "https://a..example/", "https://.example/"] {
            check(text, Malformed::Host);
        }
    }

    #[test]
    fn addresses_are_seen_through_every_spelling() {
        let spellings = [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://127.0.0.1./",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://017700000001/",
            "https://127.0.0.1:8443/",
            "https://%31%32%37.0.0.1/",
            "https://127。0。0。1/",
            "https://１２７.0.0.1/",
            "https://[::1]/",
            "https://[0:0:0:0:0:0:0:1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://0/",
            "https://0.0.0.0/",
            "https://[::]/",
            "https://169.254.169.254/latest/meta-data",
            "https://2852039166/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://[fd00:ec2::254]/",
            "https://100.100.100.200/",
            "https://168.63.129.16/",
            "https://10.0.0.1/",
            "https://192.168.1.1/",
        ];
        for text in spellings {
            let refused = Target::parse(text, &rules(true, &["198.51.100.0/24"]));
            assert!(matches!(refused, Err(TargetError::NotAllowed(NotAllowed::Address(_)))), "{text}: {refused:?}");
        }
        let localhosts = [
            "https://localhost/",
            "https://LOCALHOST/",
            "https://localhost./",
            "https://a.localhost/",
            "https://a.b.localhost.:8443/",
            "https://ｌocalhost/",
        ];
        for text in localhosts {
            let refused = Target::parse(text, &rules(true, &[]));
            assert_eq!(refused, Err(TargetError::NotAllowed(NotAllowed::Localhost)), "{text}");
            assert!(Target::parse(text, &rules(false, &["127.0.0.0/8"])).is_ok(), "{text}");
        }
        for text in ["https://notlocalhost/", "https://localhost.example/", "https://169.254.169.254.nip.io/"] {
            assert!(Target::parse(text, &rules(false, &[])).is_ok(), "{text}: a name like any other");
        }
    }

    #[test]
    fn plain_http_needs_an_opened_range_or_its_flag() {
        let check = |text: &str, rules: TargetRules, expected: Result<(), NotAllowed>| {
            let parsed = Target::parse(text, &rules).map(|_| ());
            assert_eq!(parsed, expected.map_err(TargetError::NotAllowed), "{text} with {rules:?}");
        };
        let none = || rules(false, &[]);
        let loopback = || rules(false, &["127.0.0.0/8"]);
        check("http://e.example/", none(), Err(NotAllowed::PlainHttp));
        check("http://8.8.8.8/", none(), Err(NotAllowed::PlainHttp));
        check("http://8.8.8.8/", loopback(), Err(NotAllowed::PlainHttp));
        check("http://8.8.8.8/", rules(true, &[]), Ok(()));
        check("http://e.example/", rules(true, &[]), Ok(()));
        // Judged at each attempt.
        check("http://e.example/", loopback(), Ok(()));
        check("http://127.0.0.1:8080/", loopback(), Ok(()));
        check("http://localhost:8080/", loopback(), Ok(()));
        check("http://localhost:8080/", rules(false, &["::1/128"]), Ok(()));
        check("http://localhost:8080/", rules(true, &["10.0.0.0/8"]), Err(NotAllowed::Localhost));
        assert!(Target::parse("http://[::1]/", &loopback()).is_err());
    }

    #[test]
    fn privileged_ports_other_than_the_webs_are_refused() {
        for port in [1, 22, 25, 53, 81, 444, 1023] {
            let refused = Target::parse(&format!("https://e.example:{port}/"), &rules(true, &[]));
            assert_eq!(refused, Err(TargetError::NotAllowed(NotAllowed::Port(port))));
        }
        for port in [80, 443, 1024, 8080, 65535] {
            assert!(Target::parse(&format!("https://e.example:{port}/"), &rules(true, &[])).is_ok());
        }
    }

    #[test]
    fn logs_and_debug_never_show_the_query() {
        let target = Target::parse("https://e.example/a?token=s3cret", &rules(false, &[])).unwrap();
        assert_eq!(target.redacted(), "https://e.example/a");
        assert!(!format!("{target:?}").contains("s3cret"));
    }
}
