//! What a model is.

use crate::{Input, Output, Package, Result};

/// A model: loaded once, called many times.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a model",
    label = "implement `Model` for it: `type Input`, `type Output`, `fn load`, `fn predict`",
    note = "`maquette new my-model` makes a complete example"
)]
pub trait Model: Sized + 'static {
    /// What a caller sends: a struct with `#[derive(Input)]`.
    type Input: Input;
    /// What a caller gets: a struct with `#[derive(Output)]`, a string, a number, a list of those, …
    type Output: Output;

    /// Readies the model: reads assets, parses vocabularies, records programs. Runs once, when the version is published; every
    /// call starts from a snapshot of the result. It cannot touch tensors.
    ///
    /// # Errors
    /// Any error refuses the version.
    fn load(package: &Package) -> Result<Self>;

    /// Serves one call.
    ///
    /// # Errors
    /// [`crate::Error::invalid_input`] is the caller's fault, anything else the model's.
    fn predict(&self, input: Self::Input) -> Result<Self::Output>;
}
