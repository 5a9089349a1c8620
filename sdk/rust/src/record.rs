//! Recording: what a closure does with tensors becomes a program, which the host compiles once and runs with one call.

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::Location;

use maquette_ops::program::{CacheSpec, Constant, Description, Input, Node, WeightRef};
use maquette_ops::{Attr, DType, Dim, OpSpec, Type};

use crate::bindings::maquette::model::programs;
use crate::cache::KvCache;
use crate::error::from_host;
use crate::ops::{attr_in_program, dim_to_host, dtype_to_host, ours};
use crate::shape::IntoShape;
use crate::tensor::{Inner, Tensor};
use crate::{Error, Result};

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// A program in the making. Values are numbered in the order in which they turn up, and renumbered at the end.
struct Recording {
    id: u64,
    description: Description,
    /// What each value is, in the order in which they turned up.
    values: Vec<Value>,
}

#[derive(Clone, Copy)]
enum Value {
    Input(u32),
    Weight(u32),
    Constant(u32),
    Node(u32),
}

impl Recording {
    fn add(&mut self, value: Value) -> u32 {
        self.values.push(value);
        self.values.len() as u32 - 1
    }

    /// The value of a tensor in this program.
    fn value(&mut self, tensor: &Tensor) -> Result<u32> {
        match &*tensor.0 {
            Inner::Recorded { program, value, .. } if *program == self.id => Ok(*value),
            Inner::Recorded { .. } => Err(Error::internal(
                "a tensor of one program cannot be used in another: run the first",
            )),
            Inner::Eager { .. } => Err(Error::internal(
                "a tensor with elements cannot be used while recording: make it an input of the program",
            )),
            Inner::Weight { file, name, ty, .. } => {
                let shape: Vec<u32> = ty
                    .shape
                    .iter()
                    .map(|dim| dim.as_constant().unwrap_or(0) as u32)
                    .collect();
                let weights = &self.description.weights;
                let same =
                    |w: &WeightRef| w.file == *file && w.name == *name && w.dtype == ty.dtype && w.shape == shape;
                if let Some(at) = weights.iter().position(same) {
                    let found = self
                        .values
                        .iter()
                        .position(|v| matches!(v, Value::Weight(w) if *w as usize == at));
                    return Ok(found.unwrap_or_default() as u32);
                }

                let weight = WeightRef {
                    file: file.clone(),
                    name: name.clone(),
                    dtype: ty.dtype,
                    shape,
                };
                self.description.weights.push(weight);
                Ok(self.add(Value::Weight(self.description.weights.len() as u32 - 1)))
            }
        }
    }

    /// The description with values in its own order: inputs, weights, constants, nodes.
    fn finish(mut self, outputs: &[Tensor]) -> Result<Description> {
        let outputs = outputs
            .iter()
            .map(|tensor| self.value(tensor))
            .collect::<Result<Vec<_>>>()?;
        let d = &mut self.description;
        let (inputs, weights, constants) = (d.inputs.len() as u32, d.weights.len() as u32, d.constants.len() as u32);
        let number = |value: u32| match self.values[value as usize] {
            Value::Input(at) => at,
            Value::Weight(at) => inputs + at,
            Value::Constant(at) => inputs + weights + at,
            Value::Node(at) => inputs + weights + constants + at,
        };
        for input in d.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
            *input = number(*input);
        }
        d.outputs = outputs.into_iter().map(number).collect();
        Ok(self.description)
    }
}

/// Records an op, if something is being recorded.
pub(crate) fn apply(
    spec: &OpSpec,
    inputs: &[&Tensor],
    attrs: &[Attr],
    caller: &Location<'_>,
) -> Option<Result<Tensor>> {
    RECORDING.with_borrow_mut(|recording| {
        let recording = recording.as_mut()?;
        let mut run = || {
            let values = inputs
                .iter()
                .map(|tensor| recording.value(tensor))
                .collect::<Result<Vec<_>>>()?;
            let types: Vec<Type<Dim>> = inputs
                .iter()
                .map(|tensor| Type::new(tensor.dtype(), tensor.dims().iter().cloned()))
                .collect();
            let ty = spec.infer(&types, attrs).map_err(ours)?;
            let location = format!("{}:{}:{}", caller.file(), caller.line(), caller.column());
            let node = Node {
                op: spec.name.to_owned(),
                inputs: values,
                attrs: attrs.to_vec(),
                location,
            };
            recording.description.nodes.push(node);
            let value = recording.add(Value::Node(recording.description.nodes.len() as u32 - 1));
            Ok(Tensor::recorded(recording.id, value, ty))
        };
        Some(run().map_err(|error: Error| {
            Error::new(
                error.code(),
                format_args!("{} (at {}:{})", error.message(), caller.file(), caller.line()),
            )
        }))
    })
}

/// Records elements as a constant, if something is being recorded.
pub(crate) fn constant(dtype: DType, shape: &[u32], bytes: &[u8]) -> Option<Result<Tensor>> {
    RECORDING.with_borrow_mut(|recording| {
        let recording = recording.as_mut()?;
        recording.description.constants.push(Constant {
            dtype,
            shape: shape.to_vec(),
            data: bytes.to_vec(),
        });
        let value = recording.add(Value::Constant(recording.description.constants.len() as u32 - 1));
        let ty = Type::new(dtype, shape.iter().map(|dim| Dim::from(*dim)));
        Some(Ok(Tensor::recorded(recording.id, value, ty)))
    })
}

/// Where a program's symbols and inputs are declared.
pub struct Recorder(());

impl Recorder {
    /// A symbolic dimension: its value comes with each run, from the shapes of the inputs.
    pub fn dim(&mut self, name: &str) -> Dim {
        RECORDING.with_borrow_mut(|recording| {
            let symbols = recording.as_mut().map(|recording| &mut recording.description.symbols);
            let Some(symbols) = symbols else { return Dim::default() };
            symbols.push(name.to_owned());
            Dim::symbol(symbols.len() as u32 - 1)
        })
    }

    /// An input. Every symbol must be a dimension of some input on its own.
    ///
    /// # Errors
    /// If the shape is not allowed.
    pub fn input(&mut self, name: &str, dtype: DType, shape: impl IntoShape) -> Result<Tensor> {
        let dims: Option<Vec<Dim>> = shape.into_shape().into_iter().collect();
        let dims = dims.ok_or_else(|| Error::internal("an input needs a whole shape, without `()`"))?;
        maquette_ops::check_shape(&dims).map_err(ours)?;
        RECORDING.with_borrow_mut(|recording| {
            let recording = recording
                .as_mut()
                .ok_or_else(|| Error::internal("nothing is being recorded"))?;
            recording.description.inputs.push(Input {
                name: name.to_owned(),
                dtype,
                shape: dims.clone(),
            });
            let value = recording.add(Value::Input(recording.description.inputs.len() as u32 - 1));
            Ok(Tensor::recorded(recording.id, value, Type::new(dtype, dims)))
        })
    }
}

impl Recorder {
    /// A cache that each run is given, for [`Tensor::cached_attention`].
    pub fn cache(&mut self, spec: CacheSpec) -> CacheSlot {
        RECORDING.with_borrow_mut(|recording| {
            let caches = recording.as_mut().map(|recording| &mut recording.description.caches);
            let Some(caches) = caches else { return CacheSlot(0) };
            caches.push(spec);
            CacheSlot(caches.len() - 1)
        })
    }
}

/// A cache's place among those of a program.
#[derive(Clone, Copy, Debug)]
pub struct CacheSlot(pub(crate) usize);

/// What a recorded closure may return: a tensor, or several.
pub trait Outputs {
    /// In order.
    fn into_tensors(self) -> Vec<Tensor>;
}

impl Outputs for Tensor {
    fn into_tensors(self) -> Vec<Tensor> {
        vec![self]
    }
}

impl Outputs for Vec<Tensor> {
    fn into_tensors(self) -> Vec<Tensor> {
        self
    }
}

impl<const N: usize> Outputs for [Tensor; N] {
    fn into_tensors(self) -> Vec<Tensor> {
        self.into()
    }
}

/// Records what a closure does with tensors. Made for `load`: nothing is computed, and the result is part of the snapshot.
///
/// ```no_run
/// use maquette::prelude::*;
///
/// # fn main() -> Result<()> {
/// let double = compile(|program| {
///     let n = program.dim("n");
///     let x = program.input("x", DType::F32, (&n,))?;
///     &x * 2.0
/// })?;
/// let doubled = double.run1(&[&Tensor::from_slice(&[1f32, 2.0], (2,))?])?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The closure's; or what is wrong with the program, with the line that recorded it.
pub fn compile<O: Outputs>(record: impl FnOnce(&mut Recorder) -> Result<O>) -> Result<Program> {
    let id = COUNT.get() + 1;
    COUNT.set(id);
    let fresh = Recording {
        id,
        description: Description::default(),
        values: Vec::new(),
    };
    let outer = RECORDING.replace(Some(fresh));
    let outputs = record(&mut Recorder(()));
    let recording = RECORDING.replace(outer);
    let recording = recording.ok_or_else(|| Error::internal("the recording was lost"))?;
    let description = recording.finish(&outputs?.into_tensors())?;
    description.check().map_err(ours)?;
    Ok(Program {
        digest: description.digest(),
        description,
        handle: OnceCell::new(),
    })
}

/// A recorded program.
pub struct Program {
    description: Description,
    digest: String,
    /// The host's, from the first run in this sandbox on; a snapshot never holds one.
    handle: OnceCell<programs::Program>,
}

impl Program {
    /// What was recorded.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Runs the program.
    ///
    /// # Errors
    /// If the inputs do not fit; `quota`, `timeout`, `cancelled`.
    pub fn run(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        self.run_with(inputs, &[])
    }

    /// Runs a program that has caches, which grow if the run succeeds.
    ///
    /// # Errors
    /// As [`Program::run`]; `invalid-input` if a cache is full.
    pub fn run_with(&self, inputs: &[&Tensor], caches: &[&KvCache]) -> Result<Vec<Tensor>> {
        let handles = inputs
            .iter()
            .map(|tensor| tensor.handle())
            .collect::<Result<Vec<_>>>()?;
        let caches: Vec<_> = caches.iter().map(|cache| cache.handle()).collect();
        let outputs = self.handle()?.run(&handles, &caches).map_err(from_host)?;
        Ok(outputs.into_iter().map(Tensor::eager).collect())
    }

    /// Runs a program that has one output.
    ///
    /// # Errors
    /// As [`Program::run`]; or if it has more.
    pub fn run1(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let mut outputs = self.run(inputs)?;
        match (outputs.pop(), outputs.is_empty()) {
            (Some(output), true) => Ok(output),
            _ => Err(Error::internal("this program has several outputs: use `run`")),
        }
    }

    fn handle(&self) -> Result<&programs::Program> {
        if let Some(handle) = self.handle.get() {
            return Ok(handle);
        }
        // Another sandbox of this version has compiled it, but for the first call.
        let handle = match programs::Program::find(&self.digest) {
            Some(handle) => handle,
            None => programs::Program::compile(&to_host(&self.description)).map_err(from_host)?,
        };
        Ok(self.handle.get_or_init(|| handle))
    }
}

fn to_host(description: &Description) -> programs::Description {
    let dims = |shape: &[Dim]| shape.iter().map(dim_to_host).collect();
    programs::Description {
        symbols: description.symbols.clone(),
        inputs: description
            .inputs
            .iter()
            .map(|i| programs::Input {
                name: i.name.clone(),
                dtype: dtype_to_host(i.dtype),
                shape: dims(&i.shape),
            })
            .collect(),
        weights: description
            .weights
            .iter()
            .map(|w| programs::Weight {
                file: w.file.clone(),
                name: w.name.clone(),
                dtype: dtype_to_host(w.dtype),
                shape: w.shape.clone(),
            })
            .collect(),
        constants: description
            .constants
            .iter()
            .map(|c| programs::Constant {
                dtype: dtype_to_host(c.dtype),
                shape: c.shape.clone(),
                data: c.data.clone(),
            })
            .collect(),
        nodes: description
            .nodes
            .iter()
            .map(|n| programs::Node {
                op: n.op.clone(),
                inputs: n.inputs.clone(),
                attrs: n.attrs.iter().map(attr_in_program).collect(),
                location: n.location.clone(),
            })
            .collect(),
        caches: description.caches.iter().map(crate::cache::spec_to_host).collect(),
        outputs: description.outputs.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Weights;

    #[test]
    fn a_closure_becomes_a_program_with_its_weights_bound_by_name() {
        let weights = Weights::new("model").pp("dense");
        let program = compile(|p| {
            let (b, s) = (p.dim("batch"), p.dim("seq"));
            let x = p.input("x", DType::F32, (&b, &s, 3usize))?;
            let w = weights.get("weight", (2usize, 3usize))?;
            let rows = x.reshape((&b * &s, 3usize))?;
            let y = rows.linear(&w, None)?.reshape((&b, &s, ()))?;
            (&y + &y)?.mean(1)
        })
        .unwrap();
        let d = program.description();
        assert_eq!(d.symbols, ["batch", "seq"]);
        assert_eq!(
            (d.weights[0].file.as_str(), d.weights[0].name.as_str()),
            ("model", "dense.weight")
        );
        let ops: Vec<_> = d.nodes.iter().map(|n| n.op.as_str()).collect();
        assert_eq!(ops, ["reshape/1", "linear/1", "reshape/1", "add/1", "mean/1"]);
        let types = d.check().unwrap();
        assert_eq!(types.last().unwrap().to_string(), "f32[s0, 2]");
        assert!(d.nodes[1].location.contains("record.rs"), "{}", d.nodes[1].location);
    }

    #[test]
    fn a_mistake_names_the_op_the_shapes_and_the_line() {
        let error = compile(|p| {
            let x = p.input("x", DType::F32, (2usize, 3usize))?;
            x.matmul(&x)
        })
        .err()
        .unwrap();
        assert_eq!(error.code(), maquette_ops::Code::Shape);
        assert!(
            error.message().contains("matmul/1 of f32[2, 3] and f32[2, 3]"),
            "{error}"
        );
        assert!(error.message().contains("record.rs:"), "{error}");
    }

    #[test]
    fn the_digest_is_of_the_structure_not_of_names_or_lines() {
        let make = |name: &str, factor: f64| {
            compile(|p| {
                let n = p.dim(name);
                let x = p.input(name, DType::F32, (&n,))?;
                &x * factor
            })
            .unwrap()
            .digest
        };
        assert_eq!(make("a", 2.0), make("b", 2.0));
        assert_ne!(make("a", 2.0), make("a", 3.0));
    }
}
