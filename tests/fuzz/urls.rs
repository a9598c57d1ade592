//! URLs of webhooks.

use postrider_server::{
    limits::URL_BYTES_MAX,
    model::target::{Target, TargetRules},
};
use proptest::prelude::*;
use url::Host;

use crate::harness::{explore, texts};

/// Whatever is taken is https to a name or a public address, without credentials, on an allowed port, reads back as itself, and the
/// HTTP client sees the same host in it.
#[test]
fn a_url_that_is_taken_leads_where_it_may() {
    let rules = TargetRules::default();
    explore("urls", texts(include_str!("corpus/urls.txt")), |text| {
        // Whatever the operator allows, reading it does not panic.
        let _ = Target::parse(&text, &TargetRules::unjudged());
        let Ok(target) = Target::parse(&text, &rules) else { return Ok(()) };
        let url = target.url();
        prop_assert_eq!(url.scheme(), "https");
        prop_assert_eq!((url.username(), url.password(), url.fragment()), ("", None, None));
        prop_assert!(matches!(url.port(), None | Some(80 | 443 | 1024..)), "port {:?}", url.port());
        prop_assert!(url.as_str().len() <= URL_BYTES_MAX);
        prop_assert!(url.as_str().bytes().all(|byte| (b'!'..=b'~').contains(&byte)), "{}", url);
        let again = Target::parse(url.as_str(), &rules);
        prop_assert_eq!(again.as_ref(), Ok(&target));
        let uri: http::Uri = url.as_str().parse().expect("the client can read it");
        prop_assert_eq!(uri.host(), url.host_str());
        match url.host() {
            Some(Host::Ipv4(address)) => {
                let special = address.is_private() || address.is_loopback() || address.is_link_local();
                let special =
                    special || address.is_unspecified() || address.is_multicast() || address.octets()[0] >= 240;
                prop_assert!(!special, "{}", address);
            }
            Some(Host::Ipv6(address)) => {
                let special = address.is_loopback() || address.is_unspecified() || address.is_multicast();
                let special = special || address.is_unique_local() || address.is_unicast_link_local();
                prop_assert!(!special && address.to_ipv4_mapped().is_none_or(|v4| !v4.is_loopback()), "{}", address);
            }
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                prop_assert!(name != "localhost" && !name.ends_with(".localhost"), "{}", name);
            }
            None => prop_assert!(false, "no host"),
        }
        Ok(())
    });
}
