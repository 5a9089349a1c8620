//! A recorded tensor graph as plain data: its parts, its check, and the digest of its structure.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Error;
use crate::rules::{Attr, Type, check_shape};
use crate::table::{lookup, spec};
use crate::{MAX_CONSTANT_BYTES, MAX_NODES, MAX_RANK};

/// An input: its symbols take their values from the tensors passed to a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// For messages.
    pub name: String,
    /// Of its elements.
    pub dtype: DType,
    /// Over the program's symbols.
    pub shape: Vec<Dim>,
}

/// A tensor of one of the version's weight files.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightRef {
    /// The file's name in the manifest.
    pub file: String,
    /// The tensor's name in the file.
    pub name: String,
    /// The element type to use it as.
    pub dtype: DType,
    /// What the program expects.
    pub shape: Vec<u32>,
}

/// A tensor that is part of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Of its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u32>,
    /// Row-major, little-endian.
    pub data: Vec<u8>,
}

/// One op applied to values before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The op's versioned name.
    pub op: String,
    /// Values, by number.
    pub inputs: Vec<u32>,
    /// Attributes, by position.
    pub attrs: Vec<Attr>,
    /// Where the guest recorded it; may be empty.
    pub location: String,
}

/// A whole program. Values are numbered: the inputs, the weights, the constants, then each node's output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Names of the symbolic dimensions.
    pub symbols: Vec<String>,
    /// What is passed to a run.
    pub inputs: Vec<Input>,
    /// What is bound when the program is compiled.
    pub weights: Vec<WeightRef>,
    /// What is part of it.
    pub constants: Vec<Constant>,
    /// What it does, in order.
    pub nodes: Vec<Node>,
    /// The values that a run returns.
    pub outputs: Vec<u32>,
}

impl Description {
    /// How many values come before the first node's.
    pub fn leaves(&self) -> usize {
        self.inputs.len() + self.weights.len() + self.constants.len()
    }

    /// The sha256, in hex, of the canonical encoding: `maquette-program/1`, then each list with its length, each number as
    /// little-endian 64 bits, each text with its length. Names of symbols and inputs, and locations, are left out: they change
    /// no result.
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

    /// Checks everything that can be known before weights and inputs are: counts, order, ops, attributes, types. Returns the
    /// type of each value.
    ///
    /// # Errors
    /// The first thing wrong, naming the node, its op, the shapes and where it was recorded.
    pub fn check(&self) -> Result<Vec<Type<Dim>>, Error> {
        if self.nodes.len() > MAX_NODES {
            return Err(Error::quota(format!(
                "a program has {} nodes; at most {MAX_NODES} are allowed",
                self.nodes.len()
            )));
        }
        let total: usize = self
            .constants
            .iter()
            .map(|c| c.data.len())
            .fold(0, usize::saturating_add);
        if total > MAX_CONSTANT_BYTES {
            return Err(Error::quota(format!(
                "a program's constants take {total} bytes; at most {MAX_CONSTANT_BYTES} are allowed: put them into [weights]"
            )));
        }
        let mut types = Vec::with_capacity(self.leaves() + self.nodes.len());
        let mut bound = vec![false; self.symbols.len()];
        for input in &self.inputs {
            for dim in &input.shape {
                if dim
                    .max_symbol()
                    .is_some_and(|symbol| symbol as usize >= self.symbols.len())
                {
                    return Err(Error::invalid_input(format!(
                        "input `{}`: a symbol has no name in `symbols`",
                        input.name
                    )));
                }
                if let Some(seen) = dim.as_symbol().and_then(|symbol| bound.get_mut(symbol as usize)) {
                    *seen = true;
                }
            }
            check_shape(&input.shape).map_err(|e| Error::shape(format!("input `{}`: {}", input.name, e.message)))?;
            types.push(Type::new(input.dtype, input.shape.iter().cloned()));
        }
        if let Some(at) = bound.iter().position(|seen| !seen) {
            return Err(Error::invalid_input(format!(
                "symbol `{}` is no dimension of any input on its own, so a run could not know its value",
                self.symbols[at]
            )));
        }
        for weight in &self.weights {
            types.push(fixed(weight.dtype, &weight.shape, &weight.name)?);
        }
        for (i, constant) in self.constants.iter().enumerate() {
            types.push(fixed(constant.dtype, &constant.shape, &format!("constant {i}"))?);
            let wants = constant.shape.iter().map(|d| u64::from(*d)).product::<u64>() * constant.dtype.size() as u64;
            if constant.data.len() as u64 != wants {
                return Err(Error::shape(format!(
                    "constant {i} has {} bytes; its shape takes {wants}",
                    constant.data.len()
                )));
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            let output = self.check_node(node, &types).map_err(|e| located(i, node, e))?;
            types.push(output);
        }
        match self.outputs.iter().find(|output| **output as usize >= types.len()) {
            Some(output) => Err(Error::invalid_input(format!(
                "output {output} is no value of the program"
            ))),
            None if self.outputs.is_empty() => Err(Error::invalid_input("a program must have an output")),
            None => Ok(types),
        }
    }

    fn check_node(&self, node: &Node, types: &[Type<Dim>]) -> Result<Type<Dim>, Error> {
        let id = lookup(&node.op)?;
        let spec = spec(id).ok_or_else(|| Error::internal("an op left the table"))?;
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            let Some(value) = types.get(*input as usize) else {
                return Err(Error::invalid_input(format!(
                    "input {input} is not a value before this node"
                )));
            };
            inputs.push(value);
        }
        for attr in &node.attrs {
            let Attr::Dims(dims) = attr else { continue };
            if dims.iter().any(|d| {
                d.max_symbol()
                    .is_some_and(|symbol| symbol as usize >= self.symbols.len())
            }) {
                return Err(Error::invalid_input(
                    "an attribute has a symbol that the program does not",
                ));
            }
        }
        spec.infer_refs(&inputs, &node.attrs)
    }
}

/// An error with the node that it came from.
pub fn located(index: usize, node: &Node, mut error: Error) -> Error {
    let place = if node.location.is_empty() {
        String::new()
    } else {
        format!(" at {}", node.location)
    };
    error.message = format!("node {index}{place}: {}", error.message);
    error
}

fn fixed(dtype: DType, shape: &[u32], name: &str) -> Result<Type<Dim>, Error> {
    if shape.len() > MAX_RANK {
        return Err(Error::shape(format!(
            "{name}: {} dimensions; at most {MAX_RANK} are allowed",
            shape.len()
        )));
    }
    check_shape(shape).map_err(|e| Error::shape(format!("{name}: {}", e.message)))?;
    Ok(Type::new(dtype, shape.iter().map(|dim| Dim::from(*dim))))
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
