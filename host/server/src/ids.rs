//! Random ids, and ids that clients bring along.

use std::cell::RefCell;

use axum::http::HeaderValue;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The longest request id that is taken over from a client.
const MAX_FOREIGN_ID: usize = 128;

/// Bytes in lower-case base 32 without padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut buffer, mut bits) = (0_u32, 0);
    for byte in bytes {
        buffer = buffer << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits & 31) as usize]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits) & 31) as usize]));
    }
    text
}

/// Random bytes kept at hand by each thread: asking the system for every request would cost more than the request's routing.
struct Pool {
    bytes: [u8; 1024],
    left: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; 1024], left: 0 }) };
}

/// Random bytes for ids and seeds. Secrets come from the system directly.
fn random_bytes<const N: usize>() -> [u8; N] {
    POOL.with_borrow_mut(|pool| {
        if pool.left < N {
            // Without randomness an id is still an id; nothing secret hangs on it.
            let _ = getrandom::fill(&mut pool.bytes);
            pool.left = pool.bytes.len();
        }
        let mut taken = [0; N];
        taken.copy_from_slice(&pool.bytes[pool.left - N..pool.left]);
        pool.left -= N;
        taken
    })
}

/// A new id: 128 random bits as 26 lower-case letters and digits.
pub(crate) fn random() -> HeaderValue {
    let bytes: [u8; 16] = random_bytes();
    HeaderValue::try_from(base32(&bytes)).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// The id of a request: the client's own if it is harmless, else a new one.
pub(crate) fn of_request(sent: Option<&HeaderValue>) -> HeaderValue {
    let harmless = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        !bytes.is_empty() && bytes.len() <= MAX_FOREIGN_ID && bytes.iter().all(legal)
    };
    sent.filter(harmless).cloned().unwrap_or_else(random)
}

/// A random number, such as the seed of a call.
pub(crate) fn seed() -> u64 {
    u64::from_le_bytes(random_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_rfc_4648_in_lower_case() {
        for (bytes, text) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
        assert_eq!(random().len(), 26);
    }

    #[test]
    fn a_clients_id_is_taken_over_only_if_it_is_harmless() {
        let good = HeaderValue::from_static("req-1.a:b_c");
        assert_eq!(of_request(Some(&good)), good);
        let long = HeaderValue::try_from("x".repeat(200)).unwrap_or(HeaderValue::from_static(" "));
        for bad in [
            HeaderValue::from_static("a b"),
            HeaderValue::from_static("a\"b"),
            HeaderValue::from_static(""),
            long,
        ] {
            assert_ne!(of_request(Some(&bad)), bad);
        }
    }
}
