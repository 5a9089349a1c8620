//! How shapes are written: numbers, symbolic dimensions, and `()` for what is left.

use maquette_ops::Dim;

/// One dimension, or `()`: what is left of the elements.
pub trait IntoDim {
    /// The dimension; `None` for what is left.
    fn into_dim(self) -> Option<Dim>;
}

impl IntoDim for usize {
    fn into_dim(self) -> Option<Dim> {
        Some(Dim::from(self))
    }
}

impl IntoDim for u32 {
    fn into_dim(self) -> Option<Dim> {
        Some(Dim::from(self))
    }
}

impl IntoDim for i32 {
    /// Negative numbers are what is left, as -1 is elsewhere.
    fn into_dim(self) -> Option<Dim> {
        u32::try_from(self).ok().map(Dim::from)
    }
}

impl IntoDim for Dim {
    fn into_dim(self) -> Option<Dim> {
        Some(self)
    }
}

impl IntoDim for &Dim {
    fn into_dim(self) -> Option<Dim> {
        Some(self.clone())
    }
}

impl IntoDim for () {
    fn into_dim(self) -> Option<Dim> {
        None
    }
}

/// A shape: a dimension, a tuple of dimensions, or a list of them.
pub trait IntoShape {
    /// Its dimensions; at most one of them `None`.
    fn into_shape(self) -> Vec<Option<Dim>>;
}

macro_rules! tuples {
    ($(($($name:ident),*))*) => {$(
        impl<$($name: IntoDim),*> IntoShape for ($($name,)*) {
            #[allow(non_snake_case)]
            fn into_shape(self) -> Vec<Option<Dim>> {
                let ($($name,)*) = self;
                vec![$($name.into_dim()),*]
            }
        }
    )*};
}
tuples! { (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) }

impl IntoShape for usize {
    fn into_shape(self) -> Vec<Option<Dim>> {
        vec![self.into_dim()]
    }
}

impl IntoShape for &[usize] {
    fn into_shape(self) -> Vec<Option<Dim>> {
        self.iter().map(|dim| dim.into_dim()).collect()
    }
}

impl<const N: usize> IntoShape for [usize; N] {
    fn into_shape(self) -> Vec<Option<Dim>> {
        self.into_iter().map(IntoDim::into_dim).collect()
    }
}

impl IntoShape for &[Dim] {
    fn into_shape(self) -> Vec<Option<Dim>> {
        self.iter().cloned().map(Some).collect()
    }
}

impl IntoShape for Vec<Dim> {
    fn into_shape(self) -> Vec<Option<Dim>> {
        self.into_iter().map(Some).collect()
    }
}

impl IntoShape for &Vec<Dim> {
    fn into_shape(self) -> Vec<Option<Dim>> {
        self.as_slice().into_shape()
    }
}
