//! Attributes by position: the value given, or the default that the table has.

use crate::dtype::DType;
use crate::error::Error;
use crate::table::{AttrKind, OpSpec};
use crate::types::Attr;

/// A flag attribute or its default.
pub fn attr_flag(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<bool> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Flag(flag)), _) => Some(*flag),
        (None | Some(Attr::Unset), AttrKind::Flag(default)) => Some(default),
        _ => None,
    }
}

/// A number attribute or its default.
pub fn attr_float(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<f64> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Float(value)), _) => Some(*value),
        (Some(Attr::Int(value)), _) => Some(*value as f64),
        (None | Some(Attr::Unset), AttrKind::Float(default)) => default,
        _ => None,
    }
}

/// A dtype attribute or its default.
pub fn attr_dtype(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<DType> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::DType(dtype)), _) => Some(*dtype),
        (None | Some(Attr::Unset), AttrKind::DType(default)) => default,
        _ => None,
    }
}

/// An axis attribute or its default, as given.
pub fn attr_axis(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<i64> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Int(axis)), _) => Some(*axis),
        (None | Some(Attr::Unset), AttrKind::Axis(default)) => default,
        _ => None,
    }
}

/// An integer attribute or its default.
pub fn attr_int(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<i64> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Int(value)), _) => Some(*value),
        (None | Some(Attr::Unset), AttrKind::Int(default)) => default,
        _ => None,
    }
}

/// A pair attribute, `[y, x]`, or its default.
pub fn attr_pair(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<[i64; 2]> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Int(both)), _) => Some([*both; 2]),
        (Some(Attr::Ints(ints)), _) => match ints[..] {
            [both] => Some([both; 2]),
            [y, x] => Some([y, x]),
            _ => None,
        },
        (None | Some(Attr::Unset), AttrKind::Pair(default)) => default,
        _ => None,
    }
}

/// A padding attribute, `[top, bottom, left, right]`; none if it is not given.
pub fn attr_padding(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<[i64; 4]> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Int(all)), _) => Some([*all; 4]),
        (Some(Attr::Ints(ints)), _) => match ints[..] {
            [all] => Some([all; 4]),
            [y, x] => Some([y, y, x, x]),
            [top, bottom, left, right] => Some([top, bottom, left, right]),
            _ => None,
        },
        (None | Some(Attr::Unset), AttrKind::Padding) => Some([0; 4]),
        _ => None,
    }
}

/// A place among `rank` dimensions.
///
/// # Errors
/// `shape` if there is no such dimension.
pub fn normalise(axis: i64, rank: usize) -> Result<usize, Error> {
    let signed = rank as i64;
    let place = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
    match place {
        Some(place) if (0..signed).contains(&place) => Ok(place as usize),
        _ => Err(Error::shape(format!("there is no dimension {axis} among {rank}"))),
    }
}
