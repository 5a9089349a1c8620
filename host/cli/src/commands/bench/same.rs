//! A plugin's program through the sandbox, in turns with the same compiled program run by the tensor runtime alone: same weights, same
//! thread, same budget. What is between the two is the sandbox.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use maquette_sandbox::{Call, Part, Report};
use maquette_tensor::ops::{Attr, DType, Error, OpId, lookup};
use maquette_tensor::{Budget, Control, KvCache, Program, Scope};
use serde_json::json;

use super::figure::median;
use super::model::MiniLm;
use super::{Aim, Effort, Figure, guest};
use crate::failure::{Failure, Result};
use crate::local::{self, Host, Model, on_big_stack};
use crate::ui::Ui;

/// Texts, tokens of each, rounds, and the figures' names.
const SHAPES: [(u32, u32, usize, [&str; 3]); 4] = [
    (
        1,
        16,
        200,
        ["same.minilm_1x16", "same.minilm_1x16_ms", "same.minilm_1x16_crossings"],
    ),
    (
        1,
        128,
        60,
        [
            "same.minilm_1x128",
            "same.minilm_1x128_ms",
            "same.minilm_1x128_crossings",
        ],
    ),
    (
        32,
        16,
        30,
        [
            "same.minilm_32x16",
            "same.minilm_32x16_ms",
            "same.minilm_32x16_crossings",
        ],
    ),
    (
        32,
        128,
        8,
        [
            "same.minilm_32x128",
            "same.minilm_32x128_ms",
            "same.minilm_32x128_crossings",
        ],
    ),
];

/// Tokens that a decoder goes on for; its first has the prompt's work with it, and is taken off.
const STEPS: u32 = 64;

/// An id that every vocabulary has.
const SOME_ID: u32 = 100;

/// The share of the native speed that is aimed at.
const AIM: Aim = Aim::Least(0.97);

fn tensor(error: Error) -> Failure {
    Failure::failed(format!("the tensor runtime: {}", error.message))
}

/// The compiled program that has these inputs.
fn program(host: &Host, inputs: &[&str]) -> Result<Arc<Program>> {
    let programs = host.runtime().programs().all();
    let named = |program: &Arc<Program>| {
        let names = program.description().inputs.iter().map(|input| input.name.as_str());
        names.eq(inputs.iter().copied())
    };
    programs.into_iter().find(named).ok_or_else(|| {
        Failure::failed(format!(
            "the model has compiled no program with the inputs {}",
            inputs.join(", ")
        ))
    })
}

/// A call's world of tensors, as the sandbox makes it.
fn scope(host: &Host, model: &Model) -> (Scope, Arc<Budget>) {
    let budget = Budget::new(model.guest().limits().tensor_bytes);
    let scope = Scope::new(Arc::clone(host.runtime()), Arc::clone(&budget), Control::default());
    (scope, budget)
}

fn call(model: &Model, input: &str) -> Result<(f64, String, Report)> {
    let at = Instant::now();
    let call = Call {
        input: input.to_owned(),
        ..Call::default()
    };
    let outcome = model.guest().call(call);
    let took = at.elapsed().as_secs_f64() * 1e3;
    let output = outcome.result.map_err(Failure::failed)?;
    Ok((took, output.json, outcome.report))
}

/// MiniLM's forward at four shapes: a guest that uploads, runs and reads, and a function that does.
pub(crate) fn minilm(host: &Host, minilm: &MiniLm, folder: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let text = minilm.single.input();
    // Compiles it, by the plugin itself.
    on_big_stack(|| call(&minilm.model, &text))??;
    let program = program(host, &["ids", "mask"])?;
    let mut figures = Vec::new();
    for (texts, tokens, rounds, names) in SHAPES {
        let count = texts * tokens;
        let ids: Vec<u8> = (0..count)
            .flat_map(|i| (SOME_ID + i * 37 % 20_000).to_le_bytes())
            .collect();
        let mask: Vec<u8> = (0..count).flat_map(|_| 1_f32.to_le_bytes()).collect();
        let wasm = guest::runs(program.digest(), [texts, tokens], &ids, &mask)?;
        let name = format!("forward-{texts}x{tokens}.wasm");
        let mut parts = guest::parts(folder, &name, &wasm)?;
        let weights = minilm.model.parts.weights.iter();
        parts.weights = weights.map(|(name, part)| (name.clone(), Part::clone(part))).collect();
        guest::compile_for(host, &parts, program.description())?;
        let model = host.open(parts)?;
        let native = || -> Result<(f64, String)> {
            let at = Instant::now();
            let (scope, _) = scope(host, &model);
            let shape = [texts, tokens];
            let ids = scope.from_bytes(DType::U32, &shape, &ids).map_err(tensor)?;
            let mask = scope.from_bytes(DType::F32, &shape, &mask).map_err(tensor)?;
            let outputs = program.run(&scope, &[&ids, &mask]).map_err(tensor)?;
            let bytes = outputs
                .iter()
                .map(|output| scope.read(output))
                .collect::<Result<Vec<_>, _>>();
            let bytes = bytes.map_err(tensor)?.concat();
            let words = bytes.as_chunks::<4>().0.iter();
            let sum: u64 = words.map(|word| u64::from(u32::from_le_bytes(*word))).sum();
            Ok((at.elapsed().as_secs_f64() * 1e3, sum.to_string()))
        };
        let rounds = effort.rounds(rounds);
        let (ours, theirs, report) = on_big_stack(|| -> Result<_> {
            let (_, sandboxed, report) = call(&model, "{}")?;
            if sandboxed != native()?.1 {
                return Err(Failure::failed(
                    "the program gives other numbers in the sandbox than natively",
                ));
            }
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                // Whoever comes second finds other caches, so they take turns at that too.
                if round % 2 == 0 {
                    ours.push(call(&model, "{}")?.0);
                    theirs.push(native()?.0);
                } else {
                    theirs.push(native()?.0);
                    ours.push(call(&model, "{}")?.0);
                }
            }
            Ok((ours, theirs, report))
        })??;
        figures.extend(three(
            names,
            &format!("MiniLM {texts} x {tokens}, a forward"),
            &ours,
            &theirs,
            report.crossings as f64,
        ));
    }
    Ok(figures)
}

/// The plugin of a decoder: a token after the other, chosen in the host.
pub(crate) fn decoder(host: &Host, model: &Model, effort: Effort) -> Result<Vec<Figure>> {
    let input = |tokens: u32| {
        json!({"prompt": "Once upon a time, there was a", "raw": true, "temperature": 0, "max_tokens": tokens})
            .to_string()
    };
    let (first, all) = (model.checked_input(&input(1))?, model.checked_input(&input(STEPS))?);
    let warm = on_big_stack(|| -> Result<_> { Ok((call(model, &first)?.2, call(model, &all)?.2)) })??;
    let metric = |name: &str| warm.1.metrics.get(name).copied().unwrap_or(0.0);
    let (prompt, said) = (metric("input_tokens") as u32, metric("output_tokens") as u32);
    if prompt == 0 || said != STEPS {
        return Err(Failure::failed(format!(
            "the decoder read {prompt} tokens and said {said} of {STEPS}: it cannot be compared token for token"
        )));
    }
    let program = program(host, &["ids", "positions"])?;
    let sample = lookup("sample/1").map_err(tensor)?;
    let native = |tokens: u32| native_tokens(host, model, &program, sample, prompt, tokens);
    let rounds = effort.rounds(12);
    let steps = f64::from(STEPS - 1);
    let (ours, theirs) = on_big_stack(|| -> Result<_> {
        native(1)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let sandboxed = || -> Result<f64> { Ok((call(model, &all)?.0 - call(model, &first)?.0) / steps) };
            let alone = || -> Result<f64> { Ok((native(STEPS)? - native(1)?) / steps) };
            if round % 2 == 0 {
                ours.push(sandboxed()?);
                theirs.push(alone()?);
            } else {
                theirs.push(alone()?);
                ours.push(sandboxed()?);
            }
        }
        Ok((ours, theirs))
    })??;
    let crossings = (warm.1.crossings.saturating_sub(warm.0.crossings)) as f64 / steps;
    let names = ["same.decode", "same.decode_ms", "same.decode_crossings"];
    Ok(three(
        names,
        "a decoder's step, choosing included",
        &ours,
        &theirs,
        crossings,
    ))
}

/// Milliseconds of a prompt and so many tokens, without a sandbox.
fn native_tokens(
    host: &Host,
    model: &Model,
    program: &Arc<Program>,
    sample: OpId,
    prompt: u32,
    tokens: u32,
) -> Result<f64> {
    let at = Instant::now();
    let (scope, budget) = scope(host, model);
    let spec = program.description().caches.first().copied();
    let spec = spec.ok_or_else(|| Failure::failed("the decoder's program has no cache"))?;
    let cache = KvCache::new(&budget, spec, prompt + tokens).map_err(tensor)?;
    let bytes = |values: &[u32]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let mut ids = vec![SOME_ID; prompt as usize];
    for step in 0..tokens {
        let positions: Vec<u32> = (cache.len()..).take(ids.len()).collect();
        let shape = [ids.len() as u32];
        let given = scope.from_bytes(DType::U32, &shape, &bytes(&ids)).map_err(tensor)?;
        let positions = scope
            .from_bytes(DType::U32, &shape, &bytes(&positions))
            .map_err(tensor)?;
        let outputs = program
            .run_with(&scope, &[&given, &positions], &[&cache])
            .map_err(tensor)?;
        let logits = outputs
            .first()
            .ok_or_else(|| Failure::failed("the decoder's program returns nothing"))?;
        let attrs = [
            Attr::Float(0.0),
            Attr::Int(0),
            Attr::Float(0.95),
            Attr::Float(0.0),
            Attr::Float(1.0),
            Attr::Int(0),
            Attr::Int(i64::from(step)),
        ];
        let chosen = scope.apply(sample, &[logits], &attrs).map_err(tensor)?;
        let chosen = scope.read(&chosen).map_err(tensor)?;
        let chosen = chosen.first_chunk::<4>().map(|word| u32::from_le_bytes(*word));
        ids = vec![chosen.ok_or_else(|| Failure::failed("no token was chosen"))?];
    }
    Ok(at.elapsed().as_secs_f64() * 1e3)
}

/// The ratio, the time and the crossings.
fn three(names: [&'static str; 3], what: &str, ours: &[f64], theirs: &[f64], crossings: f64) -> Vec<Figure> {
    let ratio = median(ours.iter().zip(theirs).map(|(a, b)| b / a).collect());
    let native = median(theirs.to_vec());
    vec![
        Figure {
            id: names[0],
            what: format!("{what}: speed over the same program's without the sandbox"),
            value: ratio,
            unit: "x",
            aim: AIM,
            how: format!("median of {} pairs, native {native:.3} ms", ours.len()),
        },
        Figure {
            id: names[1],
            what: "  through the sandbox".to_owned(),
            value: median(ours.to_vec()),
            unit: "ms",
            aim: Aim::None,
            how: "a fresh sandbox, uploads, the run, the read; the same numbers to the bit where they are compared"
                .to_owned(),
        },
        Figure {
            id: names[2],
            what: "  calls from the guest into the host".to_owned(),
            value: crossings,
            unit: "",
            aim: Aim::None,
            how: "as the call's report counts them".to_owned(),
        },
    ]
}

/// The decoder's folder, built and opened; `None` if nobody named it and it is not where this repository has it.
pub(crate) fn find(dir: Option<&Path>, host: &Host, ui: &mut Ui) -> Result<Option<Model>> {
    let dir = dir.map_or_else(|| PathBuf::from("plugins/smollm2"), Path::to_owned);
    if !dir.join(maquette_package::manifest::FILE).is_file() {
        return Ok(None);
    }
    let store = local::store()?;
    let package = local::assemble(&dir, &store, ui)?;
    host.open(local::parts(&package.manifest, &store)?).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_slower_sandbox_has_a_ratio_below_one() {
        let figures = three(["a", "b", "c"], "x", &[2.0, 4.0, 2.0], &[1.0, 2.0, 1.0], 5.0);
        assert_eq!((figures[0].value, figures[1].value, figures[2].value), (0.5, 2.0, 5.0));
        assert_eq!(figures[0].met(), Some(false));
    }
}
