//! URLs that callers name, of files and of webhooks: whatever is taken is plain http to a public address or to a name.

use std::net::IpAddr;

use maquette_server::fuzzing;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        let Some(url) = fuzzing::outbound(line) else { continue };
        let rest = url.strip_prefix("https://").or(url.strip_prefix("http://")).unwrap();
        let host = rest.split(['/', '?']).next().unwrap();
        assert!(!host.is_empty() && !host.contains('@') && !url.contains('#'), "{url}");
        let host = match host.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => host,
        };
        let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        if let Some(IpAddr::V4(ip)) = literal {
            let closed = ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified();
            assert!(!closed && !ip.is_multicast() && !ip.is_broadcast(), "{url}");
        }
        if let Some(IpAddr::V6(ip)) = literal {
            let inside = ip.to_ipv4().is_some() || ip.is_unique_local() || ip.is_unicast_link_local();
            assert!(
                !inside && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
                "{url}"
            );
        }
        // What is taken is taken again as it is shown.
        assert_eq!(fuzzing::outbound(&url).as_deref(), Some(url.as_str()));
    }
}
