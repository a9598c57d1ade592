//! Which addresses may be connected to.
//!
//! Everything that is not the public Internet is refused unless the operator opened its range. The standard library's
//! `is_global` is not used: it is unstable, and counts transition addresses that carry a private IPv4 address as global.
//! Sources: IANA's special-purpose registries for IPv4 and IPv6 and, for what they do not list, the reasons given below.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

/// A range of addresses and what it is.
type Range<T> = (T, u32, &'static str);

/// IPv4 that is not public. What is not listed is allowed.
const FORBIDDEN_V4: &[Range<Ipv4Addr>] = &[
    (Ipv4Addr::UNSPECIFIED, 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private network"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private network"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private network"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// IPv6 that is not public, most particular first. What is not listed is allowed within `2000::/3` only.
const FORBIDDEN_V6: &[Range<Ipv6Addr>] = &[
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (v6(0, 0, 0), 96, "IPv4-compatible"),
    (v6(0x64, 0xff9b, 1), 48, "local NAT64"),
    (v6(0x100, 0, 0), 64, "discard-only"),
    (v6(0x2001, 0, 0), 32, "Teredo"),
    (v6(0x2001, 2, 0), 48, "benchmarking"),
    (v6(0x2001, 0x10, 0), 28, "ORCHID"),
    (v6(0x2001, 0x20, 0), 28, "ORCHID"),
    (v6(0x2001, 0, 0), 23, "protocol assignments"),
    (v6(0x2001, 0xdb8, 0), 32, "documentation"),
    (v6(0x2002, 0, 0), 16, "6to4"),
    (v6(0x3fff, 0, 0), 20, "documentation"),
    (v6(0x5f00, 0, 0), 16, "SRv6 segments"),
    (v6(0xfc00, 0, 0), 7, "private network"),
    (v6(0xfe80, 0, 0), 10, "link-local"),
    (v6(0xfec0, 0, 0), 10, "site-local"),
    (v6(0xff00, 0, 0), 8, "multicast"),
];

/// Where clouds hand credentials to their machines, or take orders from them. Ranges do not open these, only the address itself does:
/// who opens a network for its receivers does not mean them.
const METADATA: &[IpAddr] = &[
    // Nearly all clouds; the same for containers and pods of Amazon, and for Tencent's machines.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 23)),
    // Alibaba, and the older one of Oracle.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // A public address, but every virtual machine in Azure reaches its host's agent there.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Amazon's machines and pods, Google's machines, and OpenStack.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];
/// What these are called.
const METADATA_KIND: &str = "cloud metadata service";

/// Where all public IPv6 addresses lie.
const PUBLIC_V6: Range<Ipv6Addr> = (v6(0x2000, 0, 0), 3, "global unicast");

/// Addresses that stand for an IPv4 address behind a translator (RFC 6052).
const NAT64: Range<Ipv6Addr> = (v6(0x64, 0xff9b, 0), 96, "NAT64");

/// The IPv6 address that starts with these groups and is zero from there on.
const fn v6(first: u16, second: u16, third: u16) -> Ipv6Addr {
    Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0)
}

/// An address nobody may be made to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{address} is not a public address ({kind})")]
pub struct Forbidden {
    /// The address, as it was judged: IPv4 where it stood for one.
    pub address: IpAddr,
    /// What it is instead of public.
    pub kind: &'static str,
}

/// Decides which addresses may be connected to. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct AddressPolicy {
    opened: Arc<[IpNet]>,
    everything: bool,
}

impl AddressPolicy {
    /// Allows public addresses and those in `opened`, whatever they are.
    pub fn new(opened: Vec<IpNet>) -> Self {
        Self { opened: opened.into_iter().map(unmapped).collect(), everything: false }
    }

    /// Allows every address, for reading what nothing will be sent to.
    pub fn unjudged() -> Self {
        Self { opened: Arc::default(), everything: true }
    }

    /// The opened ranges, IPv4 where they were spelled as IPv4-mapped IPv6.
    pub fn opened(&self) -> &[IpNet] {
        &self.opened
    }

    /// Whether any range was opened.
    pub fn opens_any(&self) -> bool {
        self.everything || !self.opened.is_empty()
    }

    /// Whether the operator opened a range with this address in it; a metadata service must be named as a range of its own.
    pub fn is_opened(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let named_only = self.leads_to_metadata(address);
        // A NAT64 address is not the address behind it: the packet goes to a translator, wherever that is.
        let opens =
            |range: &IpNet| range.contains(&address) && (!named_only || range.prefix_len() == range.max_prefix_len());
        self.everything || self.opened.iter().any(opens)
    }

    /// Whether this address, or the IPv4 address it carries in any known way, is a metadata service.
    fn leads_to_metadata(&self, address: IpAddr) -> bool {
        // Asked of every address that an opened range could matter for; there is mostly none.
        !self.opened.is_empty()
            && (is_metadata(address) || carried_v4(address).is_some_and(|v4| is_metadata(v4.into())))
    }

    /// Whether this address may be connected to.
    pub fn judge(&self, address: IpAddr) -> Result<(), Forbidden> {
        let address = address.to_canonical();
        let judged = reached_through(address);
        match forbidden_kind(judged) {
            Some(kind) if !self.is_opened(address) => Err(Forbidden { address: judged, kind }),
            Some(_) | None => Ok(()),
        }
    }
}

impl fmt::Debug for AddressPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.opened.iter().map(|range| format_args!("{range}").to_string())).finish()
    }
}

/// The address that answers to this one as far as can be told: IPv4 where it is mapped or behind a translator.
pub fn reached_through(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    behind_nat64(address).map_or(address, IpAddr::V4)
}

fn is_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address)
}

/// What kind of address it is, unless it is public.
fn forbidden_kind(address: IpAddr) -> Option<&'static str> {
    match address {
        metadata if is_metadata(metadata) => Some(METADATA_KIND),
        IpAddr::V4(address) => FORBIDDEN_V4.iter().find(|range| contains_v4(range, address)).map(|(_, _, kind)| *kind),
        IpAddr::V6(address) => {
            let listed = FORBIDDEN_V6.iter().find(|range| contains_v6(range, address)).map(|(_, _, kind)| *kind);
            listed.or_else(|| (!contains_v6(&PUBLIC_V6, address)).then_some("not assigned for public use"))
        }
    }
}

/// The IPv4 address a NAT64 address stands for.
fn behind_nat64(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V6(address) if contains_v6(&NAT64, address) => {
            let [.., a, b, c, d] = address.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The IPv4 address inside one of IPv6, by any of the transition mechanisms: compatible, translated and NAT64 addresses end with it,
/// 6to4 has it after its prefix (RFC 3056), Teredo at the end with every bit flipped (RFC 4380).
fn carried_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let bits = address.to_bits();
    let low = |bits: u128| Ipv4Addr::from_bits(u32::try_from(bits & 0xffff_ffff).expect("it is 32 bits"));
    match address.segments() {
        [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0x64, 0xff9b, ..] => Some(low(bits)),
        [0x2002, ..] => Some(low(bits >> 80)),
        [0x2001, 0, ..] => Some(low(!bits)),
        _ => None,
    }
}

fn contains_v4(&(network, prefix, _): &Range<Ipv4Addr>, address: Ipv4Addr) -> bool {
    (network.to_bits() ^ address.to_bits()) >> (32 - prefix) == 0
}

fn contains_v6(&(network, prefix, _): &Range<Ipv6Addr>, address: Ipv6Addr) -> bool {
    (network.to_bits() ^ address.to_bits()) >> (128 - prefix) == 0
}

/// An IPv4-mapped range as the IPv4 range it stands for, since addresses are compared as IPv4.
fn unmapped(range: IpNet) -> IpNet {
    match range {
        IpNet::V6(mapped) if mapped.prefix_len() >= 96 => match mapped.addr().to_ipv4_mapped() {
            Some(address) => Ipv4Net::new(address, mapped.prefix_len() - 96).map_or(range, IpNet::V4),
            None => range,
        },
        IpNet::V4(_) | IpNet::V6(_) => range,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(opened: &[&str]) -> AddressPolicy {
        AddressPolicy::new(opened.iter().map(|range| range.parse().expect("a range")).collect())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    const FORBIDDEN: &[(&str, &str)] = &[
        ("0.0.0.0", "this network"),
        ("0.255.255.255", "this network"),
        ("10.0.0.0", "private network"),
        ("10.255.255.255", "private network"),
        ("100.64.0.0", "carrier-grade NAT"),
        ("100.100.100.200", "cloud metadata service"),
        ("100.127.255.255", "carrier-grade NAT"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.255", "loopback"),
        ("169.254.169.254", "cloud metadata service"),
        ("169.254.170.2", "cloud metadata service"),
        ("169.254.169.253", "link-local"),
        ("172.16.0.0", "private network"),
        ("172.31.255.255", "private network"),
        ("192.0.0.1", "protocol assignments"),
        ("192.0.0.192", "cloud metadata service"),
        ("192.0.2.1", "documentation"),
        ("192.88.99.1", "6to4 relay"),
        ("192.168.0.0", "private network"),
        ("192.168.255.255", "private network"),
        ("198.18.0.0", "benchmarking"),
        ("198.19.255.255", "benchmarking"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.255", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("240.0.0.0", "reserved"),
        ("255.255.255.255", "reserved"),
        ("168.63.129.16", "cloud metadata service"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::2", "IPv4-compatible"),
        ("::127.0.0.1", "IPv4-compatible"),
        ("::8.8.8.8", "IPv4-compatible"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "cloud metadata service"),
        ("::ffff:0:127.0.0.1", "not assigned for public use"),
        ("64:ff9b::127.0.0.1", "loopback"),
        ("64:ff9b::169.254.169.254", "cloud metadata service"),
        ("64:ff9b::168.63.129.16", "cloud metadata service"),
        ("64:ff9b:1::8.8.8.8", "local NAT64"),
        ("64:ff9b:1:ffff::1", "local NAT64"),
        ("64:ff9b:2::1", "not assigned for public use"),
        ("64:ff9b::1:0:0:1", "not assigned for public use"),
        ("100::1", "discard-only"),
        ("100:0:0:1::1", "not assigned for public use"),
        ("2001::1", "Teredo"),
        ("2001:0:7f00:1::", "Teredo"),
        ("2001:2::1", "benchmarking"),
        ("2001:10::1", "ORCHID"),
        ("2001:2f:ffff::1", "ORCHID"),
        ("2001:1::1", "protocol assignments"),
        ("2001:1ff:ffff::1", "protocol assignments"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::1", "6to4"),
        ("2002:808:808::1", "6to4"),
        ("3fff::1", "documentation"),
        ("3fff:fff:ffff::1", "documentation"),
        ("4000::1", "not assigned for public use"),
        ("5f00::1", "SRv6 segments"),
        ("8000::1", "not assigned for public use"),
        ("fc00::1", "private network"),
        ("fd00:ec2::254", "cloud metadata service"),
        ("fd00:ec2::253", "private network"),
        ("fe80::a9fe:a9fe", "cloud metadata service"),
        ("fdff:ffff::1", "private network"),
        ("fe00::1", "not assigned for public use"),
        ("fe80::1", "link-local"),
        ("febf::1", "link-local"),
        ("fec0::1", "site-local"),
        ("feff::1", "site-local"),
        ("ff02::1", "multicast"),
        ("ff0e::1", "multicast"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
    ];

    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2001:db7::1",
        "2001:db9::1",
        "2003::1",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "3ffe::1",
        "3fff:1000::1",
    ];

    #[test]
    fn only_public_addresses_are_allowed() {
        let policy = policy(&[]);
        for &(address, kind) in FORBIDDEN {
            assert_eq!(policy.judge(ip(address)).map_err(|forbidden| forbidden.kind), Err(kind), "{address}");
        }
        for address in PUBLIC {
            assert_eq!(policy.judge(ip(address)), Ok(()), "{address}");
            assert!(!policy.is_opened(ip(address)), "{address}");
        }
    }

    #[test]
    fn an_opened_range_wins_in_every_spelling() {
        let check = |range: &str, inside: &[&str], outside: &[&str]| {
            let policy = policy(&[range]);
            for address in inside {
                assert_eq!(policy.judge(ip(address)), Ok(()), "{address} in {range}");
                assert!(policy.is_opened(ip(address)), "{address} in {range}");
            }
            for address in outside {
                assert!(policy.judge(ip(address)).is_err(), "{address} with {range}");
                assert!(!policy.is_opened(ip(address)), "{address} with {range}");
            }
        };
        check("127.0.0.0/8", &["127.0.0.1", "::ffff:127.9.9.9"], &["::1", "10.0.0.1", "64:ff9b::127.0.0.1"]);
        check("::1/128", &["::1"], &["127.0.0.1", "::", "::2"]);
        check("::ffff:10.1.0.0/112", &["10.1.2.3", "::ffff:10.1.2.3"], &["10.2.0.1"]);
        check("::/0", &["::1", "fd00::1", "64:ff9b::127.0.0.1"], &["127.0.0.1", "::ffff:127.0.0.1"]);
        check("0.0.0.0/0", &["127.0.0.1", "169.254.169.253", "::ffff:10.0.0.1"], &["::1", "::127.0.0.1"]);
        check("169.254.169.254/32", &["169.254.169.254"], &["169.254.169.253"]);
        check("64:ff9b::/96", &["64:ff9b::127.0.0.1"], &["127.0.0.1"]);
        check("10.1.2.3/8", &["10.200.0.1"], &["127.0.0.1"]);
    }

    #[test]
    fn metadata_services_are_opened_by_name_only() {
        let check = |range: &str, address: &str, expected: bool| {
            let policy = policy(&[range]);
            assert_eq!(policy.judge(ip(address)).is_ok(), expected, "{address} with {range}");
            assert_eq!(policy.is_opened(ip(address)), expected, "{address} with {range}");
        };
        let carriers = |v4: &str| {
            let v4: Ipv4Addr = v4.parse().expect("an address");
            let bits = u128::from(v4.to_bits());
            let carrying = |start: &str, bits: u128| {
                let start: Ipv6Addr = start.parse().expect("an address");
                Ipv6Addr::from_bits(start.to_bits() | bits).to_string()
            };
            [
                carrying("64:ff9b::", bits),
                carrying("64:ff9b:1::", bits),
                carrying("::ffff:0:0:0", bits),
                carrying("::", bits),
                carrying("2002::", bits << 80),
                carrying("2001:0:1234::", bits ^ 0xffff_ffff),
            ]
        };
        for address in METADATA {
            let address = &address.to_string();
            for wide in ["0.0.0.0/0", "::/0", "169.254.0.0/16", "169.254.169.254/31", "100.64.0.0/10", "fd00:ec2::/64"]
            {
                check(wide, address, false);
            }
            let bits = if address.contains(':') { 128 } else { 32 };
            check(&format!("{address}/{bits}"), address, true);
        }
        for carrier in carriers("169.254.169.254") {
            check("::/0", &carrier, false);
            check(&format!("{carrier}/128"), &carrier, true);
        }
        for carrier in carriers("10.0.0.1") {
            check("::/0", &carrier, true);
        }
        check("::ffff:169.254.169.254/128", "169.254.169.254", true);
        check("169.254.169.254/32", "64:ff9b::169.254.169.254", false);
        for address in METADATA.iter().copied().chain(carriers("169.254.169.254").iter().map(|text| ip(text))) {
            assert_eq!(AddressPolicy::unjudged().judge(address), Ok(()), "{address}");
        }
    }

    proptest! {
        #[test]
        fn every_spelling_of_an_ipv4_address_is_judged_alike(bits: u32, within_opened: bool) {
            let bits = if within_opened { 0x0a00_0000 | bits >> 9 } else { bits };
            let policy = policy(&["10.0.0.0/9"]);
            let address = Ipv4Addr::from_bits(bits);
            let allowed = policy.judge(address.into()).is_ok();
            prop_assert!(allowed || !within_opened);
            prop_assert_eq!(policy.judge(address.to_ipv6_mapped().into()).is_ok(), allowed);
            prop_assert!(policy.judge(address.to_ipv6_compatible().into()).is_err());
            // Behind a translator only what is public anyway: what is opened here is not what lies there.
            let nat64 = Ipv6Addr::from_bits(NAT64.0.to_bits() | u128::from(bits));
            prop_assert_eq!(policy.judge(nat64.into()).is_ok(), forbidden_kind(address.into()).is_none());
        }

        #[test]
        fn nothing_outside_the_public_range_passes(bits: u128) {
            let address = Ipv6Addr::from_bits(bits);
            let is_public = address.segments()[0] >> 13 == 1;
            prop_assume!(address.to_ipv4_mapped().is_none() && behind_nat64(address.into()).is_none());
            prop_assert!(is_public || policy(&[]).judge(address.into()).is_err());
        }
    }
}
