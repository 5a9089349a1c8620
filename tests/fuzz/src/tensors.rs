//! What the targets of the tensor runtime share: a scope with a small budget, and types, shapes, bytes and attributes out of a fuzzer's bytes.

use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use maquette_tensor::ops::{Attr, AttrKind, Code, DType, Dim, Error, OpSpec, table};
use maquette_tensor::{Budget, Control, Runtime, RuntimeConfig, Scope};

/// What tensors and temporaries of one input may take, in bytes.
const BUDGET: u64 = 1 << 20;

/// A scope of its own for one input.
pub(crate) fn scope() -> (Scope, Arc<Budget>) {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let config = RuntimeConfig {
            weight_budget: 16 << 20,
            program_capacity: 4,
            ..RuntimeConfig::default()
        };
        Runtime::cpu(config).unwrap()
    });
    let budget = Budget::new(BUDGET);
    (
        Scope::new(Arc::clone(runtime), Arc::clone(&budget), Control::default()),
        budget,
    )
}

/// An answer that is a value or says what the guest did wrong; a fault of the host is what is looked for.
pub(crate) fn answered<T>(answer: std::result::Result<T, Error>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.code != Code::Internal, "a fault of the host: {error}");
            assert!(
                error.message.len() < 1 << 16,
                "a message of {} bytes",
                error.message.len()
            );
            None
        }
    }
}

pub(crate) fn dtype(u: &mut Unstructured<'_>) -> Result<DType> {
    u.choose(&DType::ALL).copied()
}

/// A dimension: mostly small, now and then one at which arithmetic wraps around.
pub(crate) fn dim(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match u.arbitrary::<u8>()? {
        byte @ 0..=0xdf => u32::from(byte % 9),
        byte @ 0xe0..=0xf3 => u32::from(byte),
        0xf4 => 1 << 10,
        0xf5 => 1 << 15,
        0xf6 => 1 << 16,
        0xf7 => (1 << 31) - 1,
        0xf8 => 1 << 31,
        0xf9 => u32::MAX,
        _ => u.arbitrary()?,
    })
}

pub(crate) fn shape(u: &mut Unstructured<'_>) -> Result<Vec<u32>> {
    // One more than is allowed.
    let rank = u.int_in_range(0..=9)?;
    (0..rank).map(|_| dim(u)).collect()
}

/// Elements for a shape, all of them from two bytes: small numbers, with what arithmetic trips over in between.
pub(crate) fn elements(dtype: DType, shape: &[u32], u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    let count = shape.iter().try_fold(1_u64, |n, dim| n.checked_mul(u64::from(*dim)));
    let Some(count) = count.filter(|n| n.saturating_mul(dtype.size() as u64) <= BUDGET) else {
        return Ok(None);
    };
    let [kind, seed] = u.arbitrary::<[u8; 2]>()?;
    let mut bytes = Vec::with_capacity(count as usize * dtype.size());
    for i in 0..count {
        let n = (i.wrapping_mul(7).wrapping_add(u64::from(seed)) % 11) as f32 - if kind & 1 == 0 { 0.0 } else { 5.0 };
        let wild = kind & 2 != 0 && i % 3 == 0;
        match dtype {
            DType::F32 => {
                let wilds = [
                    f32::NAN,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                    f32::MAX,
                    f32::MIN_POSITIVE / 2.0,
                    -0.0,
                ];
                let value = if wild { wilds[i as usize % wilds.len()] } else { n };
                bytes.extend(value.to_le_bytes());
            }
            DType::F16 | DType::BF16 => {
                let wilds = [0x7fff_u16, 0x7c00, 0xfc00, 0x7f80, 0x0001, 0x8000];
                let one: u16 = if dtype == DType::F16 { 0x3c00 } else { 0x3f80 };
                let value = if wild {
                    wilds[i as usize % wilds.len()]
                } else {
                    one.wrapping_add(n as i32 as u16)
                };
                bytes.extend(value.to_le_bytes());
            }
            DType::U8 => bytes.push(if wild { u8::MAX } else { n as u8 }),
            DType::U32 => bytes.extend(if wild { u32::MAX } else { n as u32 }.to_le_bytes()),
            DType::I64 => bytes.extend(if wild { i64::MIN + i as i64 } else { n as i64 }.to_le_bytes()),
        }
    }
    Ok(Some(bytes))
}

/// An op of the table.
pub(crate) fn op(u: &mut Unstructured<'_>) -> Result<(u32, &'static OpSpec)> {
    let number = u.int_in_range(0..=table().len() as u32 - 1)?;
    Ok((number, &table()[number as usize]))
}

/// Attributes of an op: mostly of the right kind, sometimes any, sometimes fewer or more than it has.
pub(crate) fn attrs(
    spec: &OpSpec,
    dims: &mut dyn FnMut(&mut Unstructured<'_>) -> Result<Dim>,
    u: &mut Unstructured<'_>,
) -> Result<Vec<Attr>> {
    let mut attrs = Vec::new();
    for attr in spec.attrs {
        let kind: u8 = u.arbitrary()?;
        attrs.push(match kind {
            0xfd => return Ok(attrs),
            0xfe => any(dims, u)?,
            0xc0..=0xfc => Attr::Unset,
            _ => fitting(attr.kind, dims, u)?,
        });
    }
    if u.ratio(1, 64)? {
        attrs.push(any(dims, u)?);
    }
    Ok(attrs)
}

fn fitting(
    kind: AttrKind,
    dims: &mut dyn FnMut(&mut Unstructured<'_>) -> Result<Dim>,
    u: &mut Unstructured<'_>,
) -> Result<Attr> {
    Ok(match kind {
        AttrKind::Flag(_) => Attr::Flag(u.arbitrary()?),
        AttrKind::Axis(_) => Attr::Int(u.int_in_range(-9..=9)?),
        AttrKind::Float(_) => Attr::Float(float(u)?),
        AttrKind::Int(_) => Attr::Int(integer(u)?),
        AttrKind::Pair(_) | AttrKind::Padding => ints(4, u)?,
        AttrKind::Axes => {
            let count = u.int_in_range(0..=9)?;
            Attr::Ints((0..count).map(|_| u.int_in_range(-9..=9)).collect::<Result<_>>()?)
        }
        AttrKind::Shape | AttrKind::Size if u.arbitrary()? => {
            let count = if kind == AttrKind::Size {
                1
            } else {
                u.int_in_range(0..=8)?
            };
            Attr::Dims((0..count).map(|_| dims(u)).collect::<Result<_>>()?)
        }
        AttrKind::Shape => ints(8, u)?,
        AttrKind::Size => Attr::Int(integer(u)?),
        AttrKind::DType(_) => Attr::DType(dtype(u)?),
    })
}

fn any(dims: &mut dyn FnMut(&mut Unstructured<'_>) -> Result<Dim>, u: &mut Unstructured<'_>) -> Result<Attr> {
    Ok(match u.int_in_range(0..=6)? {
        0 => Attr::Flag(u.arbitrary()?),
        1 => Attr::Int(integer(u)?),
        2 => Attr::Float(float(u)?),
        3 => ints(10, u)?,
        4 => Attr::DType(dtype(u)?),
        5 => Attr::Dims(vec![dims(u)?]),
        _ => Attr::Unset,
    })
}

fn ints(most: usize, u: &mut Unstructured<'_>) -> Result<Attr> {
    let count = u.int_in_range(0..=most)?;
    Ok(Attr::Ints((0..count).map(|_| integer(u)).collect::<Result<_>>()?))
}

pub(crate) fn integer(u: &mut Unstructured<'_>) -> Result<i64> {
    Ok(match u.arbitrary::<u8>()? {
        byte @ 0..=0xcf => i64::from(byte % 10),
        byte @ 0xd0..=0xdf => -i64::from(byte & 15),
        byte @ 0xe0..=0xf0 => 1 << (8 + 3 * (byte & 15)),
        0xf1 => i64::MAX,
        0xf2 => i64::MIN,
        0xf3 => i64::from(u32::MAX),
        0xf4 => i64::from(i32::MAX),
        0xf5 => i64::from(i32::MIN),
        _ => u.arbitrary()?,
    })
}

fn float(u: &mut Unstructured<'_>) -> Result<f64> {
    Ok(match u.arbitrary::<u8>()? {
        byte @ 0..=0xc0 => f64::from(byte) / 32.0 - 2.0,
        0xc1 => f64::NAN,
        0xc2 => f64::INFINITY,
        0xc3 => f64::NEG_INFINITY,
        0xc4 => f64::MAX,
        0xc5 => 1e-40,
        0xc6 => -0.0,
        0xc7 => 1e30,
        _ => u.arbitrary()?,
    })
}
