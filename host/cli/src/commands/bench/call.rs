//! A trivial component's whole call in a fresh sandbox, in turns with wasmtime's bare instantiate-and-call of the same component.

use std::path::Path;

use maquette_sandbox::Call;
use wasmtime::component::{Component, ComponentType, InstancePre, Lift, Linker};
use wasmtime::{Engine, Store};

use super::figure::{median, thread_cpu};
use super::{Aim, Effort, Figure, guest};
use crate::failure::{Failure, Result};
use crate::local::{Host, Model, on_big_stack};

/// Calls in a round.
const CALLS: u32 = 1000;

const INPUT: &str = r#"{"text":"hello"}"#;

/// The contract's error, as bare wasmtime reads it.
#[derive(ComponentType, Lift, Debug)]
#[component(record)]
struct BareError {
    #[expect(dead_code, reason = "part of the record")]
    code: BareCode,
    message: String,
}

#[derive(ComponentType, Lift, Debug, Clone, Copy)]
#[component(enum)]
#[expect(dead_code, reason = "lifted from what the guest returns")]
#[repr(u8)]
enum BareCode {
    #[component(name = "invalid-input")]
    InvalidInput,
    #[component(name = "shape")]
    Shape,
    #[component(name = "dtype")]
    Dtype,
    #[component(name = "unsupported")]
    Unsupported,
    #[component(name = "quota")]
    Quota,
    #[component(name = "cancelled")]
    Cancelled,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "internal")]
    Internal,
}

/// Measures both.
pub(crate) fn measure(host: &Host, folder: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let wasm = guest::echo()?;
    let model = host.open(guest::parts(folder, "echo.wasm", &wasm)?)?;
    let bare = Bare::new(host.engine().wasmtime(), &wasm).map_err(|e| broken(&e))?;
    let rounds = effort.rounds(40);
    let (ours, theirs) = on_big_stack(|| rounds_of_both(&model, &bare, rounds))??;
    let ratio = median(ours.iter().zip(&theirs).map(|(a, b)| a / b).collect());
    let how = format!("CPU time of the calling thread, median of {rounds} rounds of {CALLS} calls");
    Ok(vec![
        Figure {
            id: "call.cpu_us",
            what: "trivial call, fresh sandbox".to_owned(),
            value: median(ours),
            unit: "us CPU",
            aim: Aim::Most(25.0),
            how: format!("{how}: JSON in, JSON out, with limits, log and report"),
        },
        Figure {
            id: "call.bare_us",
            what: "  wasmtime's bare instantiate-and-call".to_owned(),
            value: median(theirs),
            unit: "us CPU",
            aim: Aim::None,
            how: format!("{how}, same component, same engine, in turns with the above"),
        },
        Figure {
            id: "call.over_bare",
            what: "  ratio".to_owned(),
            value: ratio,
            unit: "x",
            aim: Aim::Most(2.0),
            how: "median of the rounds' ratios".to_owned(),
        },
    ])
}

fn broken(error: &wasmtime::Error) -> Failure {
    Failure::environment(format!("bare wasmtime: {error:#}"))
}

/// Microseconds a call, of the sandbox and of bare wasmtime, round by round.
fn rounds_of_both(model: &Model, bare: &Bare, rounds: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let per_call = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
        let before = thread_cpu();
        for _ in 0..CALLS {
            work()?;
        }
        Ok((thread_cpu() - before).as_secs_f64() * 1e6 / f64::from(CALLS))
    };
    let ours = || {
        let call = Call {
            input: INPUT.to_owned(),
            ..Call::default()
        };
        match model.guest().call(call).result {
            Ok(output) if output.json == INPUT => Ok(()),
            Ok(output) => Err(Failure::failed(format!("the echo answered {}", output.json))),
            Err(failure) => Err(Failure::failed(failure)),
        }
    };
    let theirs = || bare.call().map_err(|e| broken(&e));
    // The first of each warms the pool.
    per_call(&ours)?;
    per_call(&theirs)?;
    let mut both = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        both.0.push(per_call(&ours)?);
        both.1.push(per_call(&theirs)?);
    }
    Ok(both)
}

/// The least that wasmtime can do.
struct Bare {
    engine: Engine,
    pre: InstancePre<()>,
    predict: wasmtime::component::ComponentExportIndex,
}

impl Bare {
    fn new(engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Self> {
        let component = Component::new(engine, wasm)?;
        let missing = || wasmtime::format_err!("the component does not export `predict`");
        let interface = component
            .get_export_index(None, "maquette:model/predictor@0.1.0")
            .ok_or_else(missing)?;
        let predict = component
            .get_export_index(Some(&interface), "predict")
            .ok_or_else(missing)?;
        let pre = Linker::new(engine).instantiate_pre(&component)?;
        Ok(Self {
            engine: engine.clone(),
            pre,
            predict,
        })
    }

    fn call(&self) -> wasmtime::Result<()> {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1 << 40);
        let instance = self.pre.instantiate(&mut store)?;
        let predict = instance.get_typed_func::<(&str,), (Result<String, BareError>,)>(&mut store, self.predict)?;
        match predict.call(&mut store, (INPUT,))? {
            (Ok(output),) if output == INPUT => Ok(()),
            (Ok(output),) => Err(wasmtime::format_err!("the echo answered {output}")),
            (Err(error),) => Err(wasmtime::format_err!("{}", error.message)),
        }
    }
}
