//! One eager op's crossing: what an op on one-element tensors costs a guest over what candle itself takes for it.

use std::path::Path;

use candle_core::{Device, Tensor};
use maquette_sandbox::Call;

use super::figure::{median, thread_cpu};
use super::{Aim, Effort, Figure, guest};
use crate::failure::{Failure, Result};
use crate::local::{Host, on_big_stack};

/// Ops in a round.
const OPS: u32 = 20_000;

/// Measures the guest's loop and candle's own, in turns.
pub(crate) fn measure(host: &Host, folder: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let model = host.open(guest::parts(folder, "adds.wasm", &guest::adds()?)?)?;
    let rounds = effort.rounds(40);
    let guest = |n: u32| -> Result<f64> {
        let before = thread_cpu();
        let call = Call {
            input: format!("{{\"n\":{n}}}"),
            ..Call::default()
        };
        let outcome = model.guest().call(call);
        outcome.result.map_err(Failure::failed)?;
        if outcome.report.ops != u64::from(n) {
            return Err(Failure::failed(format!(
                "{} ops were counted, {n} were run",
                outcome.report.ops
            )));
        }
        Ok((thread_cpu() - before).as_secs_f64() * 1e9)
    };
    let candle = || -> Result<f64> {
        let fail = |e: candle_core::Error| Failure::environment(format!("candle: {e}"));
        let one = Tensor::new(&[1_f32], &Device::Cpu).map_err(fail)?;
        let other = Tensor::new(&[1_f32], &Device::Cpu).map_err(fail)?;
        let before = thread_cpu();
        for _ in 0..OPS {
            drop(std::hint::black_box((&one + &other).map_err(fail)?));
        }
        Ok((thread_cpu() - before).as_secs_f64() * 1e9 / f64::from(OPS))
    };
    let (inside, native) = on_big_stack(|| -> Result<_> {
        guest(OPS)?;
        candle()?;
        let (mut inside, mut native) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            // A call of no ops costs what is not the ops' own.
            inside.push((guest(OPS)? - guest(0)?) / f64::from(OPS));
            native.push(candle()?);
        }
        Ok((inside, native))
    })??;
    let over = median(inside.iter().zip(&native).map(|(a, b)| a - b).collect());
    let how = format!("CPU time, median of {rounds} rounds of {OPS} adds of one-element tensors");
    Ok(vec![
        Figure {
            id: "op.over_native_ns",
            what: "one eager op's crossing, over native candle".to_owned(),
            value: over,
            unit: "ns CPU",
            aim: Aim::Most(150.0),
            how: format!("{how}: a guest's `apply` and drop, less candle's own add and drop"),
        },
        Figure {
            id: "op.guest_ns",
            what: "  from a guest".to_owned(),
            value: median(inside),
            unit: "ns CPU",
            aim: Aim::None,
            how: "the whole op: checks, budget, the add itself".to_owned(),
        },
        Figure {
            id: "op.native_ns",
            what: "  candle's own".to_owned(),
            value: median(native),
            unit: "ns CPU",
            aim: Aim::None,
            how: "in the same process, in turns with the above".to_owned(),
        },
    ])
}
