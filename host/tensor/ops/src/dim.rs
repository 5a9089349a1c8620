//! Dimensions as polynomials over a program's symbols, in a canonical form.

use std::fmt;
use std::ops::{Add, Mul, Sub};

use crate::error::Error;

/// The most terms of a dimension: far beyond what shapes need, and little enough that no product of dimensions takes long.
const MAX_TERMS: usize = 16;

/// The most symbols of a term.
const MAX_DEGREE: usize = 8;

/// A polynomial with integer coefficients over symbols, in a canonical form: equal polynomials are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Dim {
    /// Coefficient (never 0) and sorted symbols of each term; terms sorted by symbols, no two alike.
    terms: Vec<(i64, Vec<u32>)>,
}

impl Dim {
    /// A number.
    pub fn constant(value: u64) -> Self {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        if value == 0 {
            Self::default()
        } else {
            Self {
                terms: vec![(value, Vec::new())],
            }
        }
    }

    /// The symbol with this index.
    pub fn symbol(index: u32) -> Self {
        Self {
            terms: vec![(1, vec![index])],
        }
    }

    /// The sum of terms, each a coefficient times symbols, in any order.
    ///
    /// # Errors
    /// `shape` if a coefficient overflows or there are too many terms.
    pub fn from_terms(terms: impl IntoIterator<Item = (i64, Vec<u32>)>) -> Result<Self, Error> {
        let mut sum: Vec<(i64, Vec<u32>)> = Vec::new();
        for (coefficient, mut symbols) in terms {
            if symbols.len() > MAX_DEGREE {
                return Err(Error::shape(format!(
                    "a term of a dimension has more than {MAX_DEGREE} symbols"
                )));
            }
            symbols.sort_unstable();
            match sum.binary_search_by(|(_, s)| s.cmp(&symbols)) {
                Ok(at) => sum[at].0 = sum[at].0.checked_add(coefficient).ok_or_else(overflow)?,
                Err(at) => sum.insert(at, (coefficient, symbols)),
            }
        }
        sum.retain(|(coefficient, _)| *coefficient != 0);
        if sum.len() > MAX_TERMS {
            return Err(Error::shape(format!("a dimension has more than {MAX_TERMS} terms")));
        }
        Ok(Self { terms: sum })
    }

    /// Coefficient and symbols of each term, in canonical order; empty for 0.
    pub fn terms(&self) -> &[(i64, Vec<u32>)] {
        &self.terms
    }

    /// The value, if there is no symbol in it and it is not negative.
    pub fn as_constant(&self) -> Option<u64> {
        match self.terms.as_slice() {
            [] => Some(0),
            [(value, symbols)] if symbols.is_empty() => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The symbol, if that is all it is.
    pub fn as_symbol(&self) -> Option<u32> {
        match self.terms.as_slice() {
            [(1, symbols)] if symbols.len() == 1 => Some(symbols[0]),
            _ => None,
        }
    }

    /// The largest index of a symbol in it.
    pub fn max_symbol(&self) -> Option<u32> {
        self.terms
            .iter()
            .filter_map(|(_, symbols)| symbols.last().copied())
            .max()
    }

    /// The value where symbol `i` is `symbols[i]`.
    ///
    /// # Errors
    /// `shape` if it is negative or does not fit 32 bits, or if a symbol has no value.
    pub fn eval(&self, symbols: &[u32]) -> Result<u32, Error> {
        let mut sum: i128 = 0;
        for (coefficient, names) in &self.terms {
            let mut product = i128::from(*coefficient);
            for name in names {
                let value = symbols
                    .get(*name as usize)
                    .ok_or_else(|| Error::shape(format!("symbol s{name} has no value")))?;
                product = product.checked_mul(i128::from(*value)).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        u32::try_from(sum)
            .map_err(|_| Error::shape(format!("dimension {self} is {sum}, not a number from 0 to 4294967295")))
    }

    /// The sum.
    ///
    /// # Errors
    /// `shape` on overflow.
    pub fn checked_add(&self, other: &Self) -> Result<Self, Error> {
        Self::from_terms(self.terms.iter().chain(&other.terms).cloned())
    }

    /// The difference.
    ///
    /// # Errors
    /// `shape` on overflow.
    pub fn checked_sub(&self, other: &Self) -> Result<Self, Error> {
        let mut terms = self.terms.clone();
        for (coefficient, symbols) in &other.terms {
            terms.push((coefficient.checked_neg().ok_or_else(overflow)?, symbols.clone()));
        }
        Self::from_terms(terms)
    }

    /// The product.
    ///
    /// # Errors
    /// `shape` on overflow.
    pub fn checked_mul(&self, other: &Self) -> Result<Self, Error> {
        let mut terms = Vec::with_capacity(self.terms.len() * other.terms.len());
        for (a, left) in &self.terms {
            for (b, right) in &other.terms {
                let symbols = left.iter().chain(right).copied().collect();
                terms.push((a.checked_mul(*b).ok_or_else(overflow)?, symbols));
            }
        }
        Self::from_terms(terms)
    }

    /// The quotient, if the division leaves nothing for every value of the symbols: polynomial long division.
    pub fn try_div(&self, by: &Self) -> Option<Self> {
        let (lead, lead_symbols) = by.terms.iter().max_by(|a, b| degree_order(a, b))?.clone();
        let mut rest = self.clone();
        let mut quotient = Self::default();
        // Each step takes away the leading term and may add others: a division that comes out exact is short.
        for _ in 0..=MAX_TERMS * MAX_TERMS {
            let Some((coefficient, symbols)) = rest.terms.iter().max_by(|a, b| degree_order(a, b)).cloned() else {
                return Some(quotient);
            };
            if coefficient.checked_rem(lead)? != 0 {
                return None;
            }
            let term = Self {
                terms: vec![(coefficient.checked_div(lead)?, without(&symbols, &lead_symbols)?)],
            };
            rest = rest.checked_sub(&term.checked_mul(by).ok()?).ok()?;
            quotient = quotient.checked_add(&term).ok()?;
        }
        None
    }

    /// Writes it with the symbols' names.
    pub fn display_with<'a>(&'a self, names: &'a [String]) -> impl fmt::Display + 'a {
        Named { dim: self, names }
    }
}

/// Graded lexicographic order of terms: a monomial order, as long division needs.
fn degree_order(a: &(i64, Vec<u32>), b: &(i64, Vec<u32>)) -> std::cmp::Ordering {
    a.1.len().cmp(&b.1.len()).then_with(|| b.1.cmp(&a.1))
}

/// Symbols with others taken away, if all are there.
fn without(symbols: &[u32], others: &[u32]) -> Option<Vec<u32>> {
    let mut left = symbols.to_vec();
    for other in others {
        let at = left.iter().position(|symbol| symbol == other)?;
        left.remove(at);
    }
    Some(left)
}

#[cold]
pub(crate) fn overflow() -> Error {
    Error::shape("a dimension overflows")
}

struct Named<'a> {
    dim: &'a Dim,
    names: &'a [String],
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dim.terms.is_empty() {
            return f.write_str("0");
        }
        // Constants last reads best.
        for (i, (coefficient, symbols)) in self.dim.terms.iter().rev().enumerate() {
            let sign = if *coefficient < 0 { "-" } else { "+" };
            match (i, *coefficient < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                _ => write!(f, " {sign} ")?,
            }
            let size = coefficient.unsigned_abs();
            if size != 1 || symbols.is_empty() {
                write!(f, "{size}{}", if symbols.is_empty() { "" } else { "*" })?;
            }
            for (j, symbol) in symbols.iter().enumerate() {
                f.write_str(if j > 0 { "*" } else { "" })?;
                match self.names.get(*symbol as usize) {
                    Some(name) => f.write_str(name)?,
                    None => write!(f, "s{symbol}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Named { dim: self, names: &[] }.fmt(f)
    }
}

impl From<u32> for Dim {
    fn from(value: u32) -> Self {
        Self::constant(u64::from(value))
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Self {
        Self::constant(value as u64)
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $checked:ident) => {
        /// Saturates to an impossible dimension on overflow, which every rule then refuses.
        impl $trait for &Dim {
            type Output = Dim;
            fn $method(self, other: &Dim) -> Dim {
                self.$checked(other).unwrap_or_else(|_| Dim::constant(u64::MAX))
            }
        }
        impl $trait for Dim {
            type Output = Dim;
            fn $method(self, other: Dim) -> Dim {
                (&self).$method(&other)
            }
        }
        impl $trait<usize> for Dim {
            type Output = Dim;
            fn $method(self, other: usize) -> Dim {
                (&self).$method(&Dim::from(other))
            }
        }
    };
}
operator!(Add, add, checked_add);
operator!(Sub, sub, checked_sub);
operator!(Mul, mul, checked_mul);
