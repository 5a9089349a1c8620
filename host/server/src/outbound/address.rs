//! Which addresses of the internet are public. Everything else (this machine, its networks, clouds' metadata, protocols that carry
//! one address inside another) is not reached for a caller.
//!
//! Source: IANA's special-purpose address registries for IPv4 and IPv6, and the clouds' documentation for metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Why an address is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// `0.0.0.0/8`, `::`
    Unspecified,
    /// This machine.
    Loopback,
    /// A private network.
    Private,
    /// A cable's own network.
    LinkLocal,
    /// Behind a provider's translation (`100.64.0.0/10`).
    Shared,
    /// A cloud's metadata service.
    Metadata,
    /// Many receivers.
    Multicast,
    /// Every receiver.
    Broadcast,
    /// Only for documents.
    Documentation,
    /// Only for measuring.
    Benchmark,
    /// Set aside, or not given out.
    Reserved,
    /// An IPv4 address inside an IPv6 one: mapped, compatible, 6to4, NAT64, Teredo.
    Embedded,
}

impl Why {
    /// For an error's text: `… is NAME`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "this machine itself (loopback)",
            Self::Private => "in a private network",
            Self::LinkLocal => "link-local",
            Self::Shared => "in a provider's shared network",
            Self::Metadata => "a cloud's metadata service",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Documentation => "for documentation only",
            Self::Benchmark => "for benchmarks only",
            Self::Reserved => "reserved",
            Self::Embedded => "an IPv4 address inside an IPv6 one",
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(head: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = head;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// Networks that are not public; the first that holds an address says why.
const CLOSED_V4: &[(Ipv4Net, Why)] = &[
    (v4(169, 254, 169, 254, 32), Why::Metadata), // most clouds
    (v4(169, 254, 170, 2, 32), Why::Metadata),   // credentials of containers
    (v4(168, 63, 129, 16, 32), Why::Metadata),   // an address that looks public
    (v4(100, 100, 100, 200, 32), Why::Metadata),
    (v4(192, 0, 0, 192, 32), Why::Metadata),
    (v4(0, 0, 0, 0, 8), Why::Unspecified),
    (v4(10, 0, 0, 0, 8), Why::Private),
    (v4(100, 64, 0, 0, 10), Why::Shared),
    (v4(127, 0, 0, 0, 8), Why::Loopback),
    (v4(169, 254, 0, 0, 16), Why::LinkLocal),
    (v4(172, 16, 0, 0, 12), Why::Private),
    (v4(192, 0, 0, 0, 24), Why::Reserved),
    (v4(192, 0, 2, 0, 24), Why::Documentation),
    (v4(192, 88, 99, 0, 24), Why::Reserved), // relays of 6to4
    (v4(192, 168, 0, 0, 16), Why::Private),
    (v4(198, 18, 0, 0, 15), Why::Benchmark),
    (v4(198, 51, 100, 0, 24), Why::Documentation),
    (v4(203, 0, 113, 0, 24), Why::Documentation),
    (v4(224, 0, 0, 0, 4), Why::Multicast),
    (v4(255, 255, 255, 255, 32), Why::Broadcast),
    (v4(240, 0, 0, 0, 4), Why::Reserved),
];

/// As [`CLOSED_V4`]; what is in none of these and not in [`GLOBAL_V6`] is reserved.
const CLOSED_V6: &[(Ipv6Net, Why)] = &[
    (v6([0; 8], 128), Why::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Why::Loopback),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), Why::Embedded), // mapped
    (v6([0; 8], 96), Why::Embedded),                        // compatible
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), Why::Embedded), // NAT64
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Why::Embedded), // NAT64 of a network's own
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), Why::Metadata),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Why::Private),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Why::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Why::Private), // the site-local of old
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Why::Multicast),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Why::Embedded), // Teredo
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Why::Benchmark),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Why::Documentation),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Why::Documentation),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Why::Reserved), // protocols
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Why::Embedded), // 6to4
];

/// What is given out of IPv6.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Whether an address is public.
///
/// # Errors
/// Which kind of address it is instead.
pub(crate) fn allowed(ip: IpAddr) -> Result<(), Why> {
    let closed = match ip {
        IpAddr::V4(ip) => CLOSED_V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, why)| *why),
        IpAddr::V6(ip) => {
            let listed = CLOSED_V6.iter().find(|(net, _)| net.contains(&ip)).map(|(_, why)| *why);
            listed.or_else(|| (!GLOBAL_V6.contains(&ip)).then_some(Why::Reserved))
        }
    };
    closed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_class_of_address_is_told_apart_up_to_its_borders() {
        let table: &[(&str, Option<Why>)] = &[
            ("0.0.0.0", Some(Why::Unspecified)),
            ("0.255.255.255", Some(Why::Unspecified)),
            ("1.0.0.0", None),
            ("9.255.255.255", None),
            ("10.0.0.0", Some(Why::Private)),
            ("10.255.255.255", Some(Why::Private)),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.64.0.0", Some(Why::Shared)),
            ("100.100.100.200", Some(Why::Metadata)),
            ("100.127.255.255", Some(Why::Shared)),
            ("100.128.0.0", None),
            ("126.255.255.255", None),
            ("127.0.0.0", Some(Why::Loopback)),
            ("127.0.0.1", Some(Why::Loopback)),
            ("127.255.255.255", Some(Why::Loopback)),
            ("128.0.0.0", None),
            ("168.63.129.16", Some(Why::Metadata)),
            ("168.63.129.17", None),
            ("169.253.255.255", None),
            ("169.254.0.0", Some(Why::LinkLocal)),
            ("169.254.169.254", Some(Why::Metadata)),
            ("169.254.170.2", Some(Why::Metadata)),
            ("169.254.255.255", Some(Why::LinkLocal)),
            ("169.255.0.0", None),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(Why::Private)),
            ("172.31.255.255", Some(Why::Private)),
            ("172.32.0.0", None),
            ("191.255.255.255", None),
            ("192.0.0.0", Some(Why::Reserved)),
            ("192.0.0.192", Some(Why::Metadata)),
            ("192.0.0.255", Some(Why::Reserved)),
            ("192.0.1.0", None),
            ("192.0.2.0", Some(Why::Documentation)),
            ("192.0.2.255", Some(Why::Documentation)),
            ("192.0.3.0", None),
            ("192.88.98.255", None),
            ("192.88.99.1", Some(Why::Reserved)),
            ("192.88.100.0", None),
            ("192.167.255.255", None),
            ("192.168.0.0", Some(Why::Private)),
            ("192.168.255.255", Some(Why::Private)),
            ("192.169.0.0", None),
            ("198.17.255.255", None),
            ("198.18.0.0", Some(Why::Benchmark)),
            ("198.19.255.255", Some(Why::Benchmark)),
            ("198.20.0.0", None),
            ("198.51.99.255", None),
            ("198.51.100.1", Some(Why::Documentation)),
            ("198.51.101.0", None),
            ("203.0.112.255", None),
            ("203.0.113.0", Some(Why::Documentation)),
            ("203.0.114.0", None),
            ("223.255.255.255", None),
            ("224.0.0.0", Some(Why::Multicast)),
            ("239.255.255.255", Some(Why::Multicast)),
            ("240.0.0.0", Some(Why::Reserved)),
            ("255.255.255.254", Some(Why::Reserved)),
            ("255.255.255.255", Some(Why::Broadcast)),
            ("::", Some(Why::Unspecified)),
            ("::1", Some(Why::Loopback)),
            ("::2", Some(Why::Embedded)),
            ("::7f00:1", Some(Why::Embedded)),
            ("::ffff:127.0.0.1", Some(Why::Embedded)),
            ("::ffff:8.8.8.8", Some(Why::Embedded)),
            ("::ffff:0:127.0.0.1", Some(Why::Reserved)),
            ("64:ff9b::7f00:1", Some(Why::Embedded)),
            ("64:ff9b::808:808", Some(Why::Embedded)),
            ("64:ff9b:1::1", Some(Why::Embedded)),
            ("64:ff9b:2::1", Some(Why::Reserved)),
            ("100::1", Some(Why::Reserved)),
            ("1fff:ffff::", Some(Why::Reserved)),
            ("2000::1", None),
            ("2001::1", Some(Why::Embedded)),
            ("2001:0:ffff::1", Some(Why::Embedded)),
            ("2001:1::1", Some(Why::Reserved)),
            ("2001:2::1", Some(Why::Benchmark)),
            ("2001:2:1::1", Some(Why::Reserved)),
            ("2001:10::1", Some(Why::Reserved)),
            ("2001:20::1", Some(Why::Reserved)),
            ("2001:1ff:ffff::", Some(Why::Reserved)),
            ("2001:200::", None),
            ("2001:4860:4860::8888", None),
            ("2001:db7:ffff::", None),
            ("2001:db8::1", Some(Why::Documentation)),
            ("2001:db9::", None),
            ("2002:7f00:1::", Some(Why::Embedded)),
            ("2003::1", None),
            ("2606:4700::1111", None),
            ("3ffe::1", None),
            ("3fff::1", Some(Why::Documentation)),
            ("3fff:fff:ffff::", Some(Why::Documentation)),
            ("3fff:1000::", None),
            ("4000::", Some(Why::Reserved)),
            ("5f00::1", Some(Why::Reserved)),
            ("fbff::", Some(Why::Reserved)),
            ("fc00::", Some(Why::Private)),
            ("fd00:ec2::254", Some(Why::Metadata)),
            ("fdff:ffff::", Some(Why::Private)),
            ("fe00::", Some(Why::Reserved)),
            ("fe80::1", Some(Why::LinkLocal)),
            ("febf:ffff::", Some(Why::LinkLocal)),
            ("fec0::1", Some(Why::Private)),
            ("ff02::1", Some(Why::Multicast)),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Why::Multicast)),
        ];
        for (text, why) in table {
            assert_eq!(allowed(text.parse().unwrap()).err(), *why, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_the_standard_library_knows_to_be_special_is_never_public(bits: u32) {
            let ip = Ipv4Addr::from(bits);
            let special = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_broadcast() || ip.is_multicast()
                || ip.is_unspecified() || ip.is_documentation();
            prop_assert!(!special || allowed(ip.into()).is_err(), "{}", ip);
        }

        #[test]
        fn no_ipv4_address_is_reached_inside_an_ipv6_one(bits: u32, tail: u64) {
            let [hi, lo] = [(bits >> 16) as u16, bits as u16];
            let ip = Ipv4Addr::from(bits);
            let t = |shift: u32| (tail >> shift) as u16;
            for inside in [
                ip.to_ipv6_mapped(),
                ip.to_ipv6_compatible(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, hi, lo),
                Ipv6Addr::new(0x2002, hi, lo, t(0), t(16), t(32), t(48), 1),
                Ipv6Addr::new(0x2001, 0, t(0), t(16), t(32), t(48), hi, lo),
            ] {
                prop_assert!(allowed(inside.into()).is_err(), "{}", inside);
            }
        }

        #[test]
        fn only_what_is_given_out_of_ipv6_is_public(bits: u128) {
            let ip = Ipv6Addr::from(bits);
            prop_assert!(allowed(ip.into()).is_err() || ip.segments()[0] >> 13 == 1, "{}", ip);
        }
    }
}
