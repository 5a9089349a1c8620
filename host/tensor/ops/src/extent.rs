//! What shape rules need of a dimension, so that they are written once: for numbers (eager ops, programs that run) and for
//! polynomials (programs being described).

use std::fmt;

use crate::dim::{Dim, overflow};
use crate::error::Error;

/// A dimension: `u32` or [`Dim`].
pub trait Extent: Clone + PartialEq + fmt::Debug + fmt::Display {
    /// A number.
    ///
    /// # Errors
    /// `shape` if it does not fit.
    fn of(value: u64) -> Result<Self, Error>;
    /// The same dimension as a polynomial has.
    ///
    /// # Errors
    /// `shape` if a number is asked for and there are symbols.
    fn from_dim(dim: &Dim) -> Result<Self, Error>;
    /// The value, if known.
    fn known(&self) -> Option<u64>;
    /// The sum.
    ///
    /// # Errors
    /// `shape` on overflow.
    fn plus(&self, other: &Self) -> Result<Self, Error>;
    /// The difference.
    ///
    /// # Errors
    /// `shape` if it is negative.
    fn minus(&self, other: &Self) -> Result<Self, Error>;
    /// The product.
    ///
    /// # Errors
    /// `shape` on overflow.
    fn times(&self, other: &Self) -> Result<Self, Error>;
    /// The quotient, if exact.
    fn over(&self, other: &Self) -> Option<Self>;
    /// The quotient by a number, rounded down; none if that is no polynomial.
    fn floor_over(&self, by: u64) -> Option<Self>;
}

impl Extent for u32 {
    fn of(value: u64) -> Result<Self, Error> {
        Self::try_from(value).map_err(|_| Error::shape(format!("dimension {value} does not fit 32 bits")))
    }
    fn from_dim(dim: &Dim) -> Result<Self, Error> {
        let value = dim.as_constant().ok_or_else(|| {
            Error::shape(format!(
                "dimension {dim} has symbols, which only programs know: pass a number"
            ))
        })?;
        Self::of(value)
    }
    fn known(&self) -> Option<u64> {
        Some(u64::from(*self))
    }
    fn plus(&self, other: &Self) -> Result<Self, Error> {
        self.checked_add(*other).ok_or_else(overflow)
    }
    fn minus(&self, other: &Self) -> Result<Self, Error> {
        self.checked_sub(*other)
            .ok_or_else(|| Error::shape(format!("{self} - {other} is negative")))
    }
    fn times(&self, other: &Self) -> Result<Self, Error> {
        self.checked_mul(*other).ok_or_else(overflow)
    }
    fn over(&self, other: &Self) -> Option<Self> {
        (self.checked_rem(*other)? == 0).then(|| self / other)
    }
    fn floor_over(&self, by: u64) -> Option<Self> {
        Some(u64::from(*self).checked_div(by)? as Self)
    }
}

impl Extent for Dim {
    fn of(value: u64) -> Result<Self, Error> {
        Ok(Self::constant(value))
    }
    fn from_dim(dim: &Dim) -> Result<Self, Error> {
        match dim.terms() {
            [(value, symbols)] if symbols.is_empty() && *value < 0 => Err(Error::shape(format!(
                "{value} is no dimension: it must not be negative"
            ))),
            _ => Ok(dim.clone()),
        }
    }
    fn known(&self) -> Option<u64> {
        self.as_constant()
    }
    fn plus(&self, other: &Self) -> Result<Self, Error> {
        self.checked_add(other)
    }
    fn minus(&self, other: &Self) -> Result<Self, Error> {
        let difference = self.checked_sub(other)?;
        match difference.terms() {
            [(value, symbols)] if symbols.is_empty() && *value < 0 => {
                Err(Error::shape(format!("{self} - {other} is negative")))
            }
            _ => Ok(difference),
        }
    }
    fn times(&self, other: &Self) -> Result<Self, Error> {
        self.checked_mul(other)
    }
    fn over(&self, other: &Self) -> Option<Self> {
        self.try_div(other)
    }
    fn floor_over(&self, by: u64) -> Option<Self> {
        // Where the other terms divide, what the constant leaves is what the whole leaves.
        let modulus = i64::try_from(by).ok().filter(|by| *by > 0)?;
        let constant = self.terms().iter().find(|(_, symbols)| symbols.is_empty());
        let left = constant.map_or(0, |(value, _)| value.rem_euclid(modulus));
        let whole = self.checked_sub(&Self::constant(left as u64)).ok()?;
        whole.try_div(&Self::constant(by))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_quotient_is_rounded_down_where_it_is_a_polynomial() {
        let n = Dim::symbol(0);
        let two_n = n.checked_mul(&Dim::constant(2)).unwrap();
        let odd = two_n.checked_sub(&Dim::constant(1)).unwrap();
        let found = odd.floor_over(2).unwrap();
        assert_eq!(found, n.checked_sub(&Dim::constant(1)).unwrap());
        assert_eq!(found.eval(&[7]).unwrap(), 6);
        assert_eq!(n.floor_over(2), None);
        assert_eq!(n.floor_over(1), Some(n.clone()));
        assert_eq!(n.floor_over(0), None);
        assert_eq!((7_u32.floor_over(2), 7_u32.floor_over(0)), (Some(3), None));
    }
}
