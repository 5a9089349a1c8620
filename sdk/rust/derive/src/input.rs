//! `derive(Input)`: the JSON Schema of a struct or a choice, and its value from JSON.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, Result};

use crate::attributes::{FieldAttributes, choices, documentation, json_name, unsupported};

pub(crate) fn expand(item: &DeriveInput) -> Result<TokenStream> {
    let name = &item.ident;
    if !item.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &item.generics,
            "an input has neither generics nor lifetimes",
        ));
    }
    let description = documentation(&item.attrs);
    match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => {
                let (schema, values) = object(fields)?;
                let title = name.to_string();
                Ok(quote! {
                    impl ::maquette::Field for #name {
                        fn schema() -> ::maquette::private::Value {
                            ::maquette::private::schema_of_object(#title, #description, ::std::vec![#(#schema),*])
                        }

                        fn from_json(value: &::maquette::private::Value) -> ::std::result::Result<Self, ::std::string::String> {
                            let object = ::maquette::private::Object::new(value)?;
                            ::std::result::Result::Ok(Self { #(#values),* })
                        }
                    }

                    impl ::maquette::Input for #name {}
                })
            }
            _ => Err(unsupported(name.span(), "Input")),
        },
        Data::Enum(data) => {
            let choices = choices(data.variants.iter())?;
            let names: Vec<_> = choices.iter().map(|(_, name)| name).collect();
            let arms = choices.iter().map(|(variant, name)| quote!(::std::option::Option::Some(#name) => ::std::result::Result::Ok(Self::#variant)));
            let expected = format!(
                "expected one of {}",
                names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
            );
            Ok(quote! {
                impl ::maquette::Field for #name {
                    fn schema() -> ::maquette::private::Value {
                        ::maquette::private::schema_of_choices(#description, &[#(#names),*])
                    }

                    fn from_json(value: &::maquette::private::Value) -> ::std::result::Result<Self, ::std::string::String> {
                        match value.as_str() {
                            #(#arms,)*
                            _ => ::std::result::Result::Err(::std::string::String::from(#expected)),
                        }
                    }
                }
            })
        }
        Data::Union(_) => Err(unsupported(name.span(), "Input")),
    }
}

/// For each field, its entry in the schema and its value from the object.
fn object(fields: &syn::FieldsNamed) -> Result<(Vec<TokenStream>, Vec<TokenStream>)> {
    let (mut schema, mut values) = (Vec::new(), Vec::new());
    for field in &fields.named {
        let Some(ident) = &field.ident else { continue };
        let (ty, name, description) = (&field.ty, json_name(ident), documentation(&field.attrs));
        let attributes = FieldAttributes::parse(&field.attrs)?;
        let mut entries = Vec::new();
        if !description.is_empty() {
            entries.push(("description", quote!(#description)));
        }
        entries.extend(attributes.constraints.iter().map(|(key, value)| (*key, quote!(#value))));
        if let Some(default) = &attributes.default {
            entries.push(("default", quote!(#default)));
        }
        if attributes.secret {
            entries.push(("format", quote!("password")));
            entries.push(("x-cog-secret", quote!(true)));
        }
        let keys = entries.iter().map(|(key, _)| key);
        let texts = entries.iter().map(|(_, value)| value);
        let required = match &attributes.default {
            Some(_) => quote!(false),
            None => quote!(!<#ty as ::maquette::Field>::OPTIONAL),
        };
        schema.push(quote! {
            (#name, #required, {
                let mut schema = <#ty as ::maquette::Field>::schema();
                if let ::std::option::Option::Some(map) = schema.as_object_mut() {
                    #(map.insert(::std::string::String::from(#keys), ::maquette::private::json!(#texts));)*
                }
                schema
            })
        });
        let default = match &attributes.default {
            Some(default) => quote!(::std::option::Option::Some(|| ::maquette::private::json!(#default))),
            None => quote!(::std::option::Option::None),
        };
        values.push(quote!(#ident: object.field(#name, #default)?));
    }
    Ok((schema, values))
}
