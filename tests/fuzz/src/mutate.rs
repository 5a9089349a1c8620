//! Deterministic mutations of seeds, for the test suite: small damage of the kinds that parsers and checks get wrong.

/// A generator of numbers: xorshift64* (Vigna, 2016).
pub struct Random(u64);

impl Random {
    /// One that always gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.number() >> 32) as usize) % end
    }
}

/// Numbers on whose far side something else begins, as files and messages write them.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// A seed with up to eight changes; `other` is a seed that parts may come from. At most `longest` bytes.
pub fn mutate(seed: &[u8], other: &[u8], random: &mut Random, longest: usize) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..=random.below(8) {
        change(&mut data, other, random);
    }
    data.truncate(longest);
    data
}

fn change(data: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if data.is_empty() {
        data.extend((0..=random.below(64)).map(|_| random.number() as u8));
        return;
    }
    let at = random.below(data.len());
    match random.below(9) {
        0 => data[at] ^= 1 << random.below(8),
        1 => data[at] = random.number() as u8,
        2 => data.insert(at, random.number() as u8),
        3 => drop(data.remove(at)),
        4 => data.truncate(at),
        5 => {
            let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
            let width = 1 << random.below(4);
            for (to, from) in data[at..].iter_mut().zip(&edge[..width]) {
                *to = *from;
            }
        }
        6 => {
            let end = (at + 1 + random.below(32)).min(data.len());
            let part = data[at..end].to_vec();
            data.splice(at..at, part);
        }
        7 if !other.is_empty() => {
            let from = random.below(other.len());
            let end = (from + 1 + random.below(64)).min(other.len());
            data.splice(at..at, other[from..end].iter().copied());
        }
        _ => {
            let digits = EDGES[random.below(EDGES.len())].to_string();
            data.splice(at..at, digits.bytes());
        }
    }
}
