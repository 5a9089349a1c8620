//! A recorded tensor graph as plain data: its parts and its check.

use crate::attrs::attr_int;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Error;
use crate::table::{Op, lookup, spec};
use crate::types::{Attr, Type, check_shape};
use crate::{MAX_CACHE_LAYERS, MAX_CONSTANT_BYTES, MAX_DESCRIPTION_BYTES, MAX_NODES, MAX_SYMBOLS};

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

/// A key-value cache that a run is given: what its layers hold of each place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// How many layers there are.
    pub layers: u32,
    /// Heads of keys and values.
    pub heads: u32,
    /// Elements of a key.
    pub width: u32,
    /// Elements of a value.
    pub value_width: u32,
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
    /// What a run appends to.
    pub caches: Vec<CacheSpec>,
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

    /// About how many bytes the description takes in memory.
    pub fn bytes(&self) -> usize {
        let dims = |dims: &[Dim]| {
            let terms = dims.iter().flat_map(Dim::terms);
            dims.len() * 24 + terms.map(|(_, symbols)| 32 + symbols.len() * 4).sum::<usize>()
        };
        let attr = |attr: &Attr| {
            32 + match attr {
                Attr::Ints(ints) => ints.len() * 8,
                Attr::Dims(d) => dims(d),
                _ => 0,
            }
        };
        let symbols = self.symbols.iter().map(|name| 24 + name.len());
        let inputs = self
            .inputs
            .iter()
            .map(|input| 56 + input.name.len() + dims(&input.shape));
        let weights = self
            .weights
            .iter()
            .map(|weight| 80 + weight.file.len() + weight.name.len() + weight.shape.len() * 4);
        let constants = self.constants.iter().map(|c| 56 + c.shape.len() * 4 + c.data.len());
        let nodes = self.nodes.iter().map(|node| {
            let attrs: usize = node.attrs.iter().map(attr).sum();
            96 + node.op.len() + node.location.len() + node.inputs.len() * 4 + attrs
        });
        let lists = symbols.chain(inputs).chain(weights).chain(constants).chain(nodes);
        lists.fold(self.outputs.len() * 4, usize::saturating_add)
    }

    /// Checks everything that can be known before weights and inputs are: counts, order, ops, attributes, types. Returns the
    /// type of each value.
    ///
    /// # Errors
    /// The first thing wrong, naming the node, its op, the shapes and where it was recorded.
    pub fn check(&self) -> Result<Vec<Type<Dim>>, Error> {
        self.check_while(&mut || Ok(()))
    }

    /// [`Description::check`], asking before each node whether to go on.
    ///
    /// # Errors
    /// As there, and what `go_on` says.
    pub fn check_while(&self, go_on: &mut dyn FnMut() -> Result<(), Error>) -> Result<Vec<Type<Dim>>, Error> {
        let size = self.bytes();
        if size > MAX_DESCRIPTION_BYTES {
            return Err(Error::quota(format!(
                "a program's description takes {size} bytes; at most {MAX_DESCRIPTION_BYTES} are allowed"
            )));
        }
        if self.symbols.len() > MAX_SYMBOLS {
            return Err(Error::quota(format!(
                "a program has {} symbols; at most {MAX_SYMBOLS} are allowed",
                self.symbols.len()
            )));
        }
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
        let mut layers = self.cache_layers()?;
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
            let wants = Type::new(constant.dtype, constant.shape.iter().copied()).bytes();
            if constant.data.len() as u64 != wants {
                return Err(Error::shape(format!(
                    "constant {i} has {} bytes; its shape takes {wants}",
                    constant.data.len()
                )));
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            go_on()?;
            let output = self.check_node(node, &types);
            let output = output.and_then(|output| self.check_cache(node, &types, &mut layers).map(|()| output));
            types.push(output.map_err(|e| located(i, node, e))?);
        }
        if let Some(layer) = layers.iter().position(|seen| !seen) {
            return Err(Error::invalid_input(format!(
                "the program has caches with {} layers in all, but appends nothing to number {layer}",
                layers.len()
            )));
        }
        match self.outputs.iter().find(|output| **output as usize >= types.len()) {
            Some(output) => Err(Error::invalid_input(format!(
                "output {output} is no value of the program"
            ))),
            None if self.outputs.is_empty() => Err(Error::invalid_input("a program must have an output")),
            None => Ok(types),
        }
    }

    /// A mark for each layer of each cache, one cache after the other.
    fn cache_layers(&self) -> Result<Vec<bool>, Error> {
        let total = self
            .caches
            .iter()
            .map(|cache| cache.layers as usize)
            .fold(0, usize::saturating_add);
        if total > MAX_CACHE_LAYERS || self.caches.len() > MAX_CACHE_LAYERS {
            return Err(Error::quota(format!(
                "a program's caches have {total} layers; at most {MAX_CACHE_LAYERS} are allowed"
            )));
        }
        for cache in &self.caches {
            check_shape(&[cache.heads.max(1), cache.width.max(cache.value_width)])
                .map_err(|e| Error::shape(format!("a cache's heads: {}", e.message)))?;
            if cache.heads == 0 || cache.width == 0 || cache.value_width == 0 {
                return Err(Error::shape("a cache's heads, width and value width must not be 0"));
            }
        }
        Ok(vec![false; total])
    }

    /// Checks what a node says of caches, and marks the layer that it appends to.
    fn check_cache(&self, node: &Node, types: &[Type<Dim>], layers: &mut [bool]) -> Result<(), Error> {
        let id = lookup(&node.op)?;
        let Some(spec) = spec(id).filter(|spec| spec.op == Op::CachedAttention) else {
            return Ok(());
        };
        let number = |at: usize| attr_int(spec, &node.attrs, at).and_then(|value| usize::try_from(value).ok());
        let (at, layer) = (number(0).unwrap_or(usize::MAX), number(1).unwrap_or(usize::MAX));
        let Some(cache) = self.caches.get(at) else {
            return Err(Error::invalid_input(format!(
                "cache {at}: the program has {} caches",
                self.caches.len()
            )));
        };
        let first: usize = self.caches[..at].iter().map(|cache| cache.layers as usize).sum();
        match layers.get_mut(first + layer.min(layers.len())) {
            Some(seen) if layer < cache.layers as usize && !*seen => *seen = true,
            Some(_) if layer < cache.layers as usize => {
                return Err(Error::invalid_input(format!(
                    "layer {layer} of cache {at} is appended to twice"
                )));
            }
            _ => {
                return Err(Error::invalid_input(format!(
                    "layer {layer}: cache {at} has {} layers",
                    cache.layers
                )));
            }
        }
        for (value, width) in node.inputs.iter().skip(1).zip([cache.width, cache.value_width]) {
            let expected = [Dim::from(cache.heads), Dim::from(width)];
            let ty = types.get(*value as usize);
            let fits = ty.is_some_and(|ty| ty.shape.get(2..) == Some(&expected[..]));
            if !fits {
                return Err(Error::shape(format!(
                    "cache {at} holds {} heads of {width} elements; this is {}",
                    cache.heads,
                    ty.map_or_else(String::new, ToString::to_string)
                )));
            }
        }
        Ok(())
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
    check_shape(shape).map_err(|e| Error::shape(format!("{name}: {}", e.message)))?;
    Ok(Type::new(dtype, shape.iter().map(|dim| Dim::from(*dim))))
}
