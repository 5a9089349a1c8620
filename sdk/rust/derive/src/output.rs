//! `derive(Output)`: the JSON Schema of a struct or a choice, and its JSON.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, Result};

use crate::attributes::{choices, documentation, json_name, unsupported};

pub(crate) fn expand(item: &DeriveInput) -> Result<TokenStream> {
    let name = &item.ident;
    if !item.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &item.generics,
            "an output has neither generics nor lifetimes",
        ));
    }
    let description = documentation(&item.attrs);
    let (schema, write) = match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => object(fields, &name.to_string(), &description),
            _ => return Err(unsupported(name.span(), "Output")),
        },
        Data::Enum(data) => {
            let choices = choices(data.variants.iter())?;
            let names: Vec<_> = choices.iter().map(|(_, name)| name).collect();
            let arms = choices.iter().map(|(variant, name)| quote!(Self::#variant => #name));
            (
                quote!(::maquette::private::schema_of_choices(#description, &[#(#names),*])),
                quote!(::maquette::private::write_text(match self { #(#arms),* }, out);),
            )
        }
        Data::Union(_) => return Err(unsupported(name.span(), "Output")),
    };
    Ok(quote! {
        impl ::maquette::Output for #name {
            fn schema() -> ::maquette::private::Value {
                #schema
            }

            fn write_json(&self, out: &mut ::std::string::String) {
                #write
            }
        }
    })
}

fn object(fields: &syn::FieldsNamed, title: &str, description: &str) -> (TokenStream, TokenStream) {
    let (mut schema, mut write) = (Vec::new(), Vec::new());
    for (i, field) in fields.named.iter().enumerate() {
        let Some(ident) = &field.ident else { continue };
        let (ty, name, description) = (&field.ty, json_name(ident), documentation(&field.attrs));
        let describe = (!description.is_empty()).then(|| {
            quote! {
                if let ::std::option::Option::Some(map) = schema.as_object_mut() {
                    map.insert(::std::string::String::from("description"), ::maquette::private::json!(#description));
                }
            }
        });
        schema.push(quote! {
            (#name, true, {
                #[allow(unused_mut)]
                let mut schema = <#ty as ::maquette::Output>::schema();
                #describe
                schema
            })
        });
        let head = format!("{}\"{name}\":", if i > 0 { "," } else { "{" });
        write.push(quote! {
            out.push_str(#head);
            ::maquette::Output::write_json(&self.#ident, out);
        });
    }
    let open = fields.named.is_empty().then(|| quote!(out.push('{');));
    (
        quote!(::maquette::private::schema_of_object(#title, #description, ::std::vec![#(#schema),*])),
        quote! { #open #(#write)* out.push('}'); },
    )
}
