//! Which URLs the server goes to for a caller: schemes, ports and literal addresses, and what the operator allows beyond.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use url::{Host, Url};

use super::OutboundError;
use super::address::allowed;

/// The longest URL, in bytes.
const MAX_URL: usize = 8192;

/// What an operator allows although it is not public.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    /// These addresses, on every port.
    Net(IpNet),
    /// This address on this port.
    Socket(SocketAddr),
    /// This name on this port, whatever its addresses.
    Name(String, u16),
}

impl Exception {
    /// `10.1.0.0/16`, `10.1.2.3`, `127.0.0.1:9000`, `[::1]:9000` or `hooks.internal:9000`.
    fn parse(text: &str) -> Option<Self> {
        if let Ok(net) = text.parse() {
            return Some(Self::Net(net));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Self::Net(ip.into()));
        }
        if let Ok(socket) = text.parse() {
            return Some(Self::Socket(socket));
        }
        let (name, port) = text.rsplit_once(':')?;
        match Host::parse(name) {
            Ok(Host::Domain(name)) => Some(Self::Name(name, port.parse().ok()?)),
            _ => None,
        }
    }
}

/// The rules of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(Vec<Exception>);

impl Rules {
    /// The public internet, and these.
    ///
    /// # Errors
    /// Names the text that is neither a network nor an address nor a name with a port.
    pub(crate) fn new(exceptions: &[String]) -> Result<Self, String> {
        let parse = |text: &String| {
            Exception::parse(text).ok_or_else(|| {
                format!(
                    "`{text}` is not what --allow-outbound takes: a network (10.1.0.0/16), an address (10.1.2.3), or an address \
                     or name with a port (127.0.0.1:9000, hooks.internal:9000)"
                )
            })
        };
        Ok(Self(exceptions.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// Reads a URL and checks what can be checked before its name is looked up. Every way of writing an address (decimal, octal,
    /// hexadecimal, short) is the address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self, text: &str) -> Result<Url, OutboundError> {
        let refuse = |why: String| Err(OutboundError::Refused(why));
        if text.len() > MAX_URL {
            return refuse(format!("the URL is longer than {MAX_URL} bytes"));
        }
        let mut url = match Url::parse(text) {
            Ok(url) => url,
            Err(e) => return refuse(format!("this is not an absolute URL: {e}")),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(format!("the scheme `{}` is not http or https", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse(
                "a URL with a user name or password is not taken: leave out what stands before `@`".to_owned(),
            );
        }
        url.set_fragment(None);
        let (Some(host), Some(port)) = (url.host().map(|h| h.to_owned()), url.port_or_known_default()) else {
            return refuse("the URL has no host".to_owned());
        };
        let (name, literal) = match &host {
            Host::Domain(name) => (name.as_str(), None),
            Host::Ipv4(ip) => ("", Some(IpAddr::V4(*ip))),
            Host::Ipv6(ip) => ("", Some(IpAddr::V6(*ip))),
        };
        let excepted = match literal {
            Some(ip) => self.excepts(name, SocketAddr::new(ip, port)),
            // A network is known only when the name has been looked up, so any port may be right.
            None => {
                self.names(name, port)
                    || self
                        .0
                        .iter()
                        .any(|e| matches!(e, Exception::Net(_) | Exception::Socket(_)))
            }
        };
        if excepted {
            return Ok(url);
        }
        if !open_port(port) {
            return refuse(format!(
                "port {port} is not one that this server goes to: 80, 443, or 1024 and above"
            ));
        }
        match literal.map(allowed) {
            Some(Err(why)) => refuse(format!(
                "`{host}` is {}; this server goes to public addresses only",
                why.name()
            )),
            _ => Ok(url),
        }
    }

    /// Whether a connection may be made to an address that a name stands for.
    pub(super) fn permits(&self, name: &str, address: SocketAddr) -> bool {
        self.excepts(name, address) || (open_port(address.port()) && allowed(address.ip()).is_ok())
    }

    fn names(&self, name: &str, port: u16) -> bool {
        self.0
            .iter()
            .any(|e| matches!(e, Exception::Name(n, p) if n == name && *p == port))
    }

    fn excepts(&self, name: &str, address: SocketAddr) -> bool {
        self.names(name, address.port())
            || self.0.iter().any(|exception| match exception {
                Exception::Net(net) => net.contains(&address.ip()),
                Exception::Socket(socket) => socket.ip() == address.ip() && socket.port() == address.port(),
                Exception::Name(..) => false,
            })
    }
}

/// The web's ports, and all that need no privilege. Others are no web servers, and some (mail) would take a request for their own.
fn open_port(port: u16) -> bool {
    matches!(port, 80 | 443) || port >= 1024
}

/// A URL as logs may show it: without its query, which may hold secrets.
pub(crate) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    crate::names::shown(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_of_public_places_are_taken_and_all_others_are_refused() {
        let rules = Rules::default();
        for good in [
            "https://example.org/a?b=c",
            "http://example.org:8080/",
            "HTTP://93.184.215.14/",
            "https://[2606:4700::1111]:8443/x",
            "http://example.org:80/#part",
        ] {
            rules.check(good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for (bad, why) in [
            ("", "not an absolute URL"),
            ("/v1/files/x", "not an absolute URL"),
            ("file:///etc/passwd", "scheme"),
            ("ftp://example.org/", "scheme"),
            ("gopher://example.org/", "scheme"),
            ("javascript:alert(1)", "scheme"),
            ("http://", "not an absolute URL"),
            ("http://user@example.org/", "user name"),
            ("http://user:secret@example.org/", "user name"),
            ("http://public.example.org@127.0.0.1/", "user name"),
            ("http://example.org:25/", "port 25"),
            ("http://example.org:22/", "port 22"),
            ("http://127.0.0.1/", "loopback"),
            ("http://127.1/", "loopback"),
            ("http://2130706433/", "loopback"),
            ("http://0x7f000001/", "loopback"),
            ("http://0x7f.1/", "loopback"),
            ("http://017700000001/", "loopback"),
            ("http://0177.0.0.1/", "loopback"),
            ("http://①②⑦.⓪.⓪.①/", "loopback"),
            ("http://127.0.0.1./", "loopback"),
            ("http://%31%32%37.0.0.1/", "loopback"),
            ("http:\\\\127.0.0.1\\", "loopback"),
            ("http:/127.0.0.1/", "loopback"),
            ("http:127.0.0.1", "loopback"),
            ("\thttp://127.0.0.1/", "loopback"),
            ("http://0/", "unspecified"),
            ("http://169.254.169.254/latest/meta-data/", "metadata"),
            ("http://2852039166/", "metadata"),
            ("http://[::1]/", "loopback"),
            ("http://[::]/", "unspecified"),
            ("http://[::ffff:7f00:1]/", "inside"),
            ("http://[::ffff:169.254.169.254]/", "inside"),
            ("http://[fd00:ec2::254]/", "metadata"),
            ("http://[64:ff9b::a9fe:a9fe]/", "inside"),
            ("http://10.0.0.1:8080/", "private"),
            ("http://256.0.0.1/", "not an absolute URL"),
        ] {
            let error = rules.check(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(rules.check(&format!("http://a.b/{}", "x".repeat(9000))).is_err());
        assert_eq!(rules.check("http://a.b/x#y").unwrap().as_str(), "http://a.b/x");
    }

    #[test]
    fn an_operators_exception_opens_what_it_says_and_nothing_beside_it() {
        let rules = [
            "127.0.0.1:9000",
            "10.1.0.0/16",
            "[::1]:9001",
            "hooks.internal:25",
            "192.168.7.7",
        ];
        let rules = Rules::new(&rules.map(str::to_owned)).unwrap();
        let permits = |name: &str, address: &str| rules.permits(name, address.parse().unwrap());
        for good in [
            "http://127.0.0.1:9000/",
            "http://10.1.255.1:25/",
            "http://[::1]:9001/",
            "http://hooks.internal:25/",
        ] {
            rules.check(good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for bad in [
            "http://127.0.0.1:9001/",
            "http://127.0.0.2:9000/",
            "http://10.2.0.1/",
            "http://[::1]:9000/",
            "http://192.168.7.8/",
        ] {
            assert!(rules.check(bad).is_err(), "{bad}");
        }
        assert!(
            permits("a", "127.0.0.1:9000") && permits("hooks.internal", "10.9.9.9:25") && permits("a", "192.168.7.7:1")
        );
        assert!(!permits("a", "127.0.0.1:9001") && !permits("other.internal", "10.9.9.9:25"));
        assert!(
            !permits("hooks.internal", "10.9.9.9:26") && !permits("a", "8.8.8.8:25") && permits("a", "8.8.8.8:443")
        );
        for bad in [
            "",
            "x",
            "10.0.0.0/33",
            "http://127.0.0.1",
            "name:",
            "name:99999",
            ":80",
            "127.0.0.1:x",
        ] {
            assert!(Rules::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_secret() {
        assert_eq!(shown("https://a.b/c?token=x#y"), "https://a.b/c");
        assert_eq!(shown("https://a.b/c#y"), "https://a.b/c");
    }
}
