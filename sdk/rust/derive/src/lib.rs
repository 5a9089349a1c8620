//! `derive(Input)` and `derive(Output)` for the Maquette SDK. Their documentation is there.

mod attributes;
mod input;
mod output;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// See `maquette::Input`.
#[proc_macro_derive(Input, attributes(input))]
pub fn derive_input(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    input::expand(&item)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// See `maquette::Output`.
#[proc_macro_derive(Output, attributes(output))]
pub fn derive_output(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    output::expand(&item)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
