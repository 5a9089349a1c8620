//! Philox4x32-10, a generator of random numbers that counts: number `i` of a stream is a function of the stream's key and `i`.
//! Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).

/// Four random words of a counter and a key.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut c = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let first = u64::from(c[0]) * 0xD251_1F53;
        let second = u64::from(c[2]) * 0xCD9E_8D57;
        let (low, high) = (|x: u64| x as u32, |x: u64| (x >> 32) as u32);
        c = [
            high(second) ^ c[1] ^ k0,
            low(second),
            high(first) ^ c[3] ^ k1,
            low(first),
        ];
        // Weyl sequences of the golden ratio and of the square root of 3.
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    c
}

/// A number from 0 up to but without 1, with 53 random bits, from two words.
pub fn uniform(high: u32, low: u32) -> f64 {
    let bits = u64::from(high) << 32 | u64::from(low);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_as_random123_does() {
        // The known answers that Random123 publishes for philox4x32-10.
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn uniform_numbers_stay_below_one() {
        assert_eq!(uniform(0, 0), 0.0);
        let most = uniform(u32::MAX, u32::MAX);
        assert!(most < 1.0 && most > 0.999_999);
    }
}
