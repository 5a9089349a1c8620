//! From a [`Model`] to the exports of a component.

use serde_json::Value;

use crate::bindings::exports::maquette::model::predictor::Description;
use crate::bindings::maquette::model::types;
use crate::error::to_host;
use crate::input::Field as _;
use crate::{Error, Input, Model, Output, Package};

/// Exports a model from this component. Write it once, at the end of `src/lib.rs`: `maquette::export!(MyModel);`
#[macro_export]
macro_rules! export {
    ($model:ty) => {
        const _: () = {
            struct Component;

            ::std::thread_local! {
                static MODEL: ::std::cell::RefCell<::std::option::Option<$model>> = const { ::std::cell::RefCell::new(None) };
            }

            impl $crate::bindings::exports::maquette::model::predictor::Guest for Component {
                fn describe() -> $crate::bindings::exports::maquette::model::predictor::Description {
                    $crate::private::describe::<$model>()
                }

                fn load() -> ::std::result::Result<(), $crate::bindings::maquette::model::types::Error> {
                    MODEL.with_borrow_mut($crate::private::load::<$model>)
                }

                fn predict(
                    input: ::std::string::String,
                ) -> ::std::result::Result<::std::string::String, $crate::bindings::maquette::model::types::Error> {
                    MODEL.with_borrow(|model| $crate::private::predict::<$model>(model.as_ref(), &input))
                }
            }

            // Native builds are for tests: there the exports would only clash with each other.
            #[cfg(target_family = "wasm")]
            $crate::bindings::export_component!(Component with_types_in $crate::bindings);
            #[cfg(not(target_family = "wasm"))]
            $crate::private::keep::<Component>();
        };
    };
}

/// Keeps a native build, which exports nothing, from calling a model unused.
pub const fn keep<C: crate::bindings::exports::maquette::model::predictor::Guest>() {}

/// `describe` of a model.
pub fn describe<M: Model>() -> Description {
    Description {
        input: <M::Input as Input>::schema().to_string(),
        output: <M::Output as Output>::schema().to_string(),
        sdk: concat!("rust/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// `load` of a model.
///
/// # Errors
/// The model's.
pub fn load<M: Model>(slot: &mut Option<M>) -> Result<(), types::Error> {
    *slot = Some(M::load(&Package::new()).map_err(to_host)?);
    Ok(())
}

/// `predict` of a model.
///
/// # Errors
/// The model's; `invalid-input` if the input does not fit its type.
pub fn predict<M: Model>(model: Option<&M>, input: &str) -> Result<String, types::Error> {
    let run = || {
        let model = model.ok_or_else(|| Error::internal("predict was called before load"))?;
        let value: Value = serde_json::from_str(input).map_err(|e| Error::invalid_input(format!("not JSON: {e}")))?;
        let input = M::Input::from_json(&value).map_err(Error::invalid_input)?;
        let output = model.predict(input)?;
        let mut json = String::new();
        output.write_json(&mut json);
        Ok(json)
    };
    run().map_err(to_host)
}
