//! The digest of a program's structure: what the host knows a program by.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::dim::Dim;
use crate::program::Description;
use crate::types::Attr;

impl Description {
    /// The sha256, in 64 lower-case hex digits, of the canonical encoding: the text `maquette-program/1`; then inputs, weights,
    /// constants, caches, nodes and outputs, each list as its length and its items. Numbers are little-endian 64 bits, a text or bytes
    /// are a length and the bytes, a dimension is the list of its terms (coefficient, symbols) in canonical order, an attribute
    /// is its kind as text and its value, a float its IEEE 754 bits.
    ///
    /// Names of symbols and inputs, and locations, are left out: they change no result.
    pub fn digest(&self) -> String {
        let mut e = Encoder(Sha256::new());
        e.text("maquette-program/1");
        e.list(&self.inputs, |e, input| {
            e.text(input.dtype.name());
            e.dims(&input.shape);
        });
        e.list(&self.weights, |e, weight| {
            e.text(&weight.file);
            e.text(&weight.name);
            e.text(weight.dtype.name());
            e.list(&weight.shape, |e, dim| e.number(u64::from(*dim)));
        });
        e.list(&self.constants, |e, constant| {
            e.text(constant.dtype.name());
            e.list(&constant.shape, |e, dim| e.number(u64::from(*dim)));
            e.bytes(&constant.data);
        });
        e.list(&self.caches, |e, cache| {
            for number in [cache.layers, cache.heads, cache.width, cache.value_width] {
                e.number(u64::from(number));
            }
        });
        e.list(&self.nodes, |e, node| {
            e.text(&node.op);
            e.list(&node.inputs, |e, input| e.number(u64::from(*input)));
            e.list(&node.attrs, Encoder::attr);
        });
        e.list(&self.outputs, |e, output| e.number(u64::from(*output)));
        e.0.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

struct Encoder(Sha256);

impl Encoder {
    fn number(&mut self, value: u64) {
        self.0.update(value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        for item in items {
            each(self, item);
        }
    }

    fn dims(&mut self, dims: &[Dim]) {
        self.list(dims, |e, dim| {
            e.list(dim.terms(), |e, (coefficient, symbols)| {
                e.number(*coefficient as u64);
                e.list(symbols, |e, symbol| e.number(u64::from(*symbol)));
            });
        });
    }

    fn attr(&mut self, attr: &Attr) {
        match attr {
            Attr::Unset => self.text("unset"),
            Attr::Flag(flag) => {
                self.text("flag");
                self.number(u64::from(*flag));
            }
            Attr::Int(int) => {
                self.text("int");
                self.number(*int as u64);
            }
            Attr::Float(float) => {
                self.text("float");
                self.number(float.to_bits());
            }
            Attr::Ints(ints) => {
                self.text("ints");
                self.list(ints, |e, int| e.number(*int as u64));
            }
            Attr::Dims(dims) => {
                self.text("dims");
                self.dims(dims);
            }
            Attr::DType(dtype) => {
                self.text("dtype");
                self.text(dtype.name());
            }
        }
    }
}
