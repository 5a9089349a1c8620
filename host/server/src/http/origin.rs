//! Where clients reach this server, for the absolute URLs in replies.

use axum::http::header::HOST;
use axum::http::{HeaderMap, HeaderValue};

use crate::config::Config;

/// `scheme://host[:port]` for the sender of these headers: the configured public URL; else, behind a proxy that is trusted, what
/// the proxy says; else the `Host` header. Empty if the client did not say or said something strange.
pub(crate) fn origin(config: &Config, headers: &HeaderMap) -> String {
    if let Some(url) = &config.public_url {
        return url.trim_end_matches('/').to_owned();
    }
    let forwarded = |name: &str| headers.get(name).filter(|_| config.trust_forwarded);
    let scheme = match forwarded("x-forwarded-proto").map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        _ => "http",
    };
    let host = forwarded("x-forwarded-host").or_else(|| headers.get(HOST));
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    if host.is_empty() || host.len() > 255 || !host.bytes().all(plain) {
        String::new()
    } else {
        format!("{scheme}://{host}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = all
            .iter()
            .map(|(name, value)| (name.parse(), HeaderValue::from_static(value)));
        pairs.filter_map(|(name, value)| Some((name.ok()?, value))).collect()
    }

    #[test]
    fn a_strange_host_header_never_gets_into_a_url() {
        let config = Config::default();
        assert_eq!(origin(&config, &headers(&[])), "");
        let plain = headers(&[("host", "127.0.0.1:4747")]);
        assert_eq!(origin(&config, &plain), "http://127.0.0.1:4747");
        assert_eq!(origin(&config, &headers(&[("host", "evil/\"><script>")])), "");
    }

    #[test]
    fn a_proxy_is_believed_only_if_it_is_trusted() {
        let sent = headers(&[
            ("host", "inside:80"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "models.example.org"),
        ]);
        let mut config = Config::default();
        assert_eq!(origin(&config, &sent), "http://inside:80");
        config.trust_forwarded = true;
        assert_eq!(origin(&config, &sent), "https://models.example.org");
        config.public_url = Some("https://public.example.org/".to_owned());
        assert_eq!(origin(&config, &sent), "https://public.example.org");
    }
}
