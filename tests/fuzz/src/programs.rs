//! Programs: descriptions that mostly make sense and are then damaged, compiled with weight files, and run with inputs and caches that
//! fit or do not.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use maquette_tensor::ops::program::{CacheSpec, Constant, Description, Input, Node, WeightRef};
use maquette_tensor::ops::{Attr, Dim, Occurs, Op, Type};
use maquette_tensor::{KvCache, Program, Scope, WeightFile};

use crate::tensors::{answered, attrs, dim, dtype, elements, op, scope, shape};

/// Nodes that are recorded.
const MAX_NODES: usize = 24;

type Files = BTreeMap<String, Arc<WeightFile>>;

pub(crate) fn run(data: &[u8]) {
    let (scope, budget) = scope();
    let mut u = Unstructured::new(data);
    // What is left when the bytes are used up is as good as any.
    let mut description = Description::default();
    let _ = record(&mut description, &mut u);
    let _ = damage(&mut description, &mut u);
    if let Some(program) = answered(scope.compile(&description, files())) {
        assert_eq!(program.digest(), description.digest());
        for _ in 0..4 {
            if execute(&scope, &program, &mut u).is_err() {
                break;
            }
        }
    }
    assert_eq!(budget.used(), 0, "what is gone is still paid for");
}

/// Two weight files, one of each format.
fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let (scope, _) = scope();
        let contents: [(&str, &[u8]); 2] = [
            ("plain", include_bytes!("../corpus/safetensors/linear")),
            ("quantized", include_bytes!("../corpus/gguf/small-blocks")),
        ];
        let open = |(name, bytes): (&str, &[u8])| {
            let mut stored = tempfile::NamedTempFile::new().unwrap();
            stored.write_all(bytes).unwrap();
            (
                name.to_owned(),
                scope.runtime().weights().open(name, stored.path()).unwrap(),
            )
        };
        contents.into_iter().map(open).collect()
    })
}

/// A dimension over the first `symbols` symbols.
fn symbolic(symbols: u32, u: &mut Unstructured<'_>) -> Result<Dim> {
    if symbols == 0 || u.arbitrary::<u8>()? < 0x60 {
        return Ok(Dim::from(dim(u)?));
    }
    let symbol = Dim::symbol(u.int_in_range(0..=symbols - 1)?);
    Ok(match u.int_in_range(0..=7)? {
        0 => {
            let terms = (0..u.int_in_range(0..=3)?)
                .map(|_| {
                    Ok((
                        u.arbitrary()?,
                        (0..u.int_in_range(0..=3)?)
                            .map(|_| u.int_in_range(0..=3))
                            .collect::<Result<_>>()?,
                    ))
                })
                .collect::<Result<Vec<(i64, Vec<u32>)>>>()?;
            Dim::from_terms(terms).unwrap_or_default()
        }
        1 => symbol + Dim::from(dim(u)?),
        2 => symbol * Dim::from(dim(u)?),
        3 => symbol - Dim::from(dim(u)?),
        _ => symbol,
    })
}

fn record(description: &mut Description, u: &mut Unstructured<'_>) -> Result<()> {
    let symbols = u.int_in_range(0..=3)?;
    description.symbols = (0..symbols).map(|i| format!("s{i}")).collect();
    for i in 0..u.int_in_range(symbols..=4)? {
        let mut dims = (0..u.int_in_range(0..=4)?)
            .map(|_| symbolic(symbols, u))
            .collect::<Result<Vec<_>>>()?;
        // Each symbol has to be some input's dimension.
        dims.extend((i < symbols).then(|| Dim::symbol(i)));
        description.inputs.push(Input {
            name: format!("x{i}"),
            dtype: dtype(u)?,
            shape: dims,
        });
    }
    for _ in 0..u.int_in_range(0..=2)? {
        let (file_name, file) = files().iter().nth(u.int_in_range(0..=1)?).unwrap();
        let info = u.choose(file.tensors())?;
        description.weights.push(WeightRef {
            file: file_name.clone(),
            name: info.name.clone(),
            dtype: if u.ratio(1, 4)? {
                dtype(u)?
            } else {
                maquette_tensor::ops::DType::F32
            },
            shape: info.shape.to_vec(),
        });
    }
    for _ in 0..u.int_in_range(0..=2)? {
        let (dtype, shape) = (dtype(u)?, shape(u)?);
        let data = elements(dtype, &shape, u)?.unwrap_or_default();
        description.constants.push(Constant { dtype, shape, data });
    }
    if u.ratio(1, 3)? {
        description.caches.push(CacheSpec {
            layers: u.int_in_range(0..=2)?,
            heads: u.int_in_range(0..=3)?,
            width: u.int_in_range(0..=9)?,
            value_width: u.int_in_range(0..=9)?,
        });
    }
    let leaves = description.leaves();
    let mut types = types(description);
    for _ in 0..MAX_NODES {
        if types.is_empty() || u.is_empty() {
            break;
        }
        node(description, &mut types, symbols, u)?;
    }
    let last = leaves + description.nodes.len();
    description.outputs = (last.saturating_sub(2)..last).map(|value| value as u32).collect();
    for _ in 0..u.int_in_range(0..=2)? {
        description.outputs.push(u.int_in_range(0..=last as u32)?);
    }
    Ok(())
}

/// The types of the leaves.
fn types(description: &Description) -> Vec<Type<Dim>> {
    let inputs = description
        .inputs
        .iter()
        .map(|input| Type::new(input.dtype, input.shape.iter().cloned()));
    let plain = |dtype, shape: &[u32]| Type::new(dtype, shape.iter().map(|dim| Dim::from(*dim)));
    let weights = description
        .weights
        .iter()
        .map(|weight| plain(weight.dtype, &weight.shape));
    let constants = description
        .constants
        .iter()
        .map(|constant| plain(constant.dtype, &constant.shape));
    inputs.chain(weights).chain(constants).collect()
}

/// Records a node, most often only one that the rules allow.
fn node(
    description: &mut Description,
    types: &mut Vec<Type<Dim>>,
    symbols: u32,
    u: &mut Unstructured<'_>,
) -> Result<()> {
    let (_, spec) = op(u)?;
    let mut inputs = Vec::new();
    for input in spec.inputs {
        let times = match input.occurs {
            Occurs::Once => 1,
            Occurs::Optional => u.int_in_range(0..=1)?,
            Occurs::Repeated => u.int_in_range(0..=3)?,
        };
        for _ in 0..times {
            inputs.push(u.choose_index(types.len())? as u32);
        }
    }
    let mut attrs = attrs(spec, &mut |u| symbolic(symbols, u), u)?;
    if spec.op == Op::CachedAttention && u.ratio(7, 8)? {
        let layer = description.nodes.iter().filter(|node| node.op == spec.name).count();
        attrs = vec![Attr::Int(0), Attr::Int(layer as i64)];
    }
    let known: Vec<&Type<Dim>> = inputs.iter().map(|value| &types[*value as usize]).collect();
    let made = spec.infer_refs(&known, &attrs);
    if made.is_err() && u.ratio(63, 64)? {
        return Ok(());
    }
    types.push(made.unwrap_or_else(|_| types[0].clone()));
    description.nodes.push(Node {
        op: spec.name.to_owned(),
        inputs,
        attrs,
        location: if u.arbitrary()? {
            "src/lib.rs:1".to_owned()
        } else {
            String::new()
        },
    });
    Ok(())
}

/// Changes that the recorder of the SDK would not make.
fn damage(description: &mut Description, u: &mut Unstructured<'_>) -> Result<()> {
    if !u.ratio(1, 4)? {
        return Ok(());
    }
    for _ in 0..=u.int_in_range(0..=2)? {
        let number: u32 = dim(u)?;
        match u.int_in_range(0..=11)? {
            0 => description.symbols.truncate(number as usize),
            1 => description.symbols.push(String::new()),
            2 if !description.inputs.is_empty() => drop(description.inputs.pop()),
            3 => description.outputs.push(number),
            4 => description.outputs.clear(),
            5 => description.caches.push(CacheSpec {
                layers: dim(u)?,
                heads: dim(u)?,
                width: dim(u)?,
                value_width: dim(u)?,
            }),
            6 => {
                for node in &mut description.nodes {
                    node.inputs.push(number);
                }
            }
            7 => {
                for node in &mut description.nodes {
                    node.op = u.arbitrary::<&str>()?.to_owned();
                }
            }
            8 => description
                .constants
                .iter_mut()
                .for_each(|constant| constant.data.truncate(number as usize)),
            9 => description
                .weights
                .iter_mut()
                .for_each(|weight| weight.shape.push(number)),
            10 => description.weights.iter_mut().for_each(|weight| weight.name.push('?')),
            _ => description.nodes.reverse(),
        }
    }
    Ok(())
}

/// Runs a program, most often on what it asks for.
fn execute(scope: &Scope, program: &Arc<Program>, u: &mut Unstructured<'_>) -> Result<()> {
    let description = program.description();
    let symbols = description.symbols.iter().map(|_| dim(u)).collect::<Result<Vec<_>>>()?;
    let mut inputs = Vec::new();
    for input in &description.inputs {
        let wanted: Option<Vec<u32>> = input.shape.iter().map(|dim| dim.eval(&symbols).ok()).collect();
        let shape = match wanted.filter(|_| !u.ratio(1, 32).unwrap_or(false)) {
            Some(shape) => shape,
            None => shape(u)?,
        };
        let dtype = if u.ratio(1, 64)? { dtype(u)? } else { input.dtype };
        let Some(bytes) = elements(dtype, &shape, u)? else {
            return Ok(());
        };
        let Some(tensor) = answered(scope.from_bytes(dtype, &shape, &bytes)) else {
            return Ok(());
        };
        inputs.push(tensor);
    }
    let shapes: Vec<&[u32]> = inputs.iter().map(|input| input.shape()).collect();
    answered(program.cost(&shapes));
    let inputs: Vec<_> = inputs.iter().collect();
    let caches: Vec<KvCache> = (description.caches.iter())
        .filter_map(|spec| answered(KvCache::new(scope.budget(), *spec, dim(u).unwrap_or(8))))
        .collect();
    let mut given: Vec<&KvCache> = caches.iter().collect();
    if u.ratio(1, 32)? {
        given.extend(caches.first());
    }
    for _ in 0..2 {
        let before: Vec<u32> = caches.iter().map(KvCache::len).collect();
        match answered(program.run_with(scope, &inputs, &given)) {
            Some(outputs) => {
                assert_eq!(outputs.len(), description.outputs.len());
                for output in &outputs {
                    if let Some(bytes) = answered(scope.read(output)) {
                        assert_eq!(bytes.len() as u64, output.bytes());
                    }
                }
            }
            None => assert!(
                caches.iter().map(KvCache::len).eq(before),
                "a run that failed has changed a cache"
            ),
        }
        if let (Some(cache), true) = (caches.first(), u.arbitrary::<bool>()?)
            && let Some(fork) = answered(cache.fork())
        {
            answered(fork.truncate(dim(u)?));
        }
    }
    Ok(())
}
