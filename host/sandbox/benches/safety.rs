//! What safety costs: the same guests under all limits and without them, by turns in one process. CPU time of the calling thread,
//! medians over rounds, printed as ratios.
//!
//! Without limits there is no epoch in the compiled code and no deadline, long instructions are not divided, and there is no limiter of
//! memories and tables and no bound on what a host call copies. Budgets of tensors stay, for they cannot be taken out; what one charge costs is printed beside an op's crossing.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use maquette_fixtures::component;
use maquette_package::blobs::BlobStore;
use maquette_package::{Silent, build};
use maquette_sandbox::{Call, Engine, EngineConfig, Guest, Limits, Part, Parts, STACK_BYTES, prepare};
use maquette_tensor::{Budget, Memory, Runtime, RuntimeConfig};

const ROUNDS: usize = 41;

const TENSORS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "[static]tensor.from-bytes" (func $upload (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))
  (import "maquette:model/tensors@0.1.0" "resolve" (func $resolve (param i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "apply" (func $apply (param i32 i32 i32 i32 i32 i32)))"#;

/// Bytes added to themselves, one op after the other.
const OPS: u32 = 10_000;

/// A component without weights.
fn alone(folder: &Path, name: &str, wasm: &[u8]) -> Parts {
    let path = folder.join(name);
    std::fs::write(&path, wasm).unwrap();
    Parts {
        component: Part {
            digest: name.to_owned(),
            path,
        },
        weights: BTreeMap::new(),
        assets: BTreeMap::new(),
        limits: Limits::default(),
    }
}

/// The plugin in a folder, with its real weights: they are fetched once.
fn plugin(name: &str) -> Parts {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let store = BlobStore::open(Path::new(env!("CARGO_TARGET_TMPDIR")).join("blobs")).unwrap();
    let options = build::Options {
        sdk: Some(root.join("sdk/rust")),
        ..build::Options::default()
    };
    let folder = root.join("plugins").join(name);
    let package = maquette_package::assemble_with(&folder, &store, None, &options, &mut Silent).unwrap();
    let part = |blob: &maquette_package::version::Blob| Part {
        digest: blob.sha256.to_string(),
        path: store.path(&blob.sha256).unwrap(),
    };
    let parts = |blobs: &BTreeMap<String, _>| blobs.iter().map(|(name, blob)| (name.clone(), part(blob))).collect();
    Parts {
        component: part(&package.manifest.component),
        weights: parts(&package.manifest.weights),
        assets: parts(&package.manifest.assets),
        limits: Limits::default(),
    }
}

fn open(engine: &Engine, parts: &Parts) -> Guest {
    let prepared = prepare(engine, parts).unwrap();
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    Guest::open(engine, &runtime, parts, &prepared).unwrap()
}

fn predict(body: &str) -> String {
    format!(
        "(func $predict (param $p i32) (param $n i32) (result i32) (local $i i32) (local $x i64) (local $op i32)
        {body} (i64.store (i32.const 4200) (local.get $x)) (call $ok (local.get $p) (local.get $n)))"
    )
}

/// A guest, its input, and how often it is called in a round.
struct Case {
    name: &'static str,
    parts: Parts,
    input: &'static str,
    calls: u32,
}

fn cases(folder: &Path) -> Vec<Case> {
    let next = "(local.set $x (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))";
    let until = |count: u32| {
        format!("(br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {count})))")
    };
    let tight = predict(&format!("(loop $l {})", until(4_000_000)));
    let work = predict(&format!("(loop $l {} {})", next.repeat(8), until(500_000)));
    let ops = predict(&format!(
        "(call $upload (i32.const 3) (i32.const 4096) (i32.const 0) (i32.const 4096) (i32.const 1) (i32.const 5000))
        (i32.store (i32.const 4300) (i32.load (i32.const 5004))) (i32.store (i32.const 4304) (i32.load (i32.const 5004)))
        (call $resolve (i32.const 4400) (i32.const 5) (i32.const 5000))
        (local.set $op (i32.load (i32.const 5004)))
        (loop $l
          (call $apply (local.get $op) (i32.const 4300) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 5000))
          (call $drop (i32.load (i32.const 5004)))
          {})",
        until(OPS)
    )) + r#"(data (i32.const 4096) "7") (data (i32.const 4400) "add/1")"#;
    let grow = predict(&format!(
        "(loop $l (drop (memory.grow (i32.const 1))) (i64.store (i32.mul (i32.sub (memory.size) (i32.const 1)) (i32.const 65536)) (i64.const 1)) {})",
        until(64)
    ));
    let copies = |count, length: &str| {
        predict(&format!(
            "(drop (memory.grow (i32.const 600)))
             (loop $l (memory.copy (i32.const 20000000) (i32.const 65536) {length}) {})",
            until(count)
        ))
    };
    // The compiler cannot know it.
    let sixteen = "(i32.add (i32.const 15) (i32.ne (local.get $n) (i32.const 0)))";
    let guests = [
        ("whole call of a trivial component", component("", ""), 1000),
        ("loop of nothing but its own counting", component("", &tight), 1),
        ("loop of eight multiplications", component("", &work), 1),
        ("64 growths of memory, a page each", component("", &grow), 100),
        (
            "100,000 copies of 16 bytes",
            component("", &copies(100_000, "(i32.const 16)")),
            10,
        ),
        (
            "100,000 copies of 16 bytes, computed",
            component("", &copies(100_000, sixteen)),
            10,
        ),
        (
            "ten copies of 16 MiB",
            component("", &copies(10, "(i32.const 16777216)")),
            1,
        ),
        ("10,000 eager ops of one byte", component(TENSORS, &ops), 1),
    ];
    let mut cases: Vec<_> = guests
        .into_iter()
        .map(|(name, wasm, calls)| Case {
            name,
            parts: alone(folder, name, &wasm),
            input: r#"{"a":1}"#,
            calls,
        })
        .collect();
    cases.push(Case {
        name: "MiniLM: a sentence into an embedding",
        parts: plugin("minilm"),
        input: r#"{"text":"A cat sits on the mat."}"#,
        calls: 10,
    });
    cases
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn round(guest: &Guest, Case { input, calls, .. }: &Case) -> f64 {
    let started = cpu();
    for _ in 0..*calls {
        let call = Call {
            input: (*input).to_owned(),
            ..Call::default()
        };
        guest.call(call).result.unwrap();
    }
    (cpu() - started).as_secs_f64() / f64::from(*calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure() {
    let folder = tempfile::tempdir().unwrap();
    let config = |cache: &str| EngineConfig {
        cache: folder.path().join(cache),
        ..EngineConfig::default()
    };
    let (on, off) = (
        Engine::new(config("on")).unwrap(),
        Engine::unguarded(config("off")).unwrap(),
    );
    for case in cases(folder.path()) {
        let both = (open(&on, &case.parts), open(&off, &case.parts));
        round(&both.0, &case);
        round(&both.1, &case);
        let rounds: Vec<_> = (0..ROUNDS)
            .map(|_| (round(&both.0, &case), round(&both.1, &case)))
            .collect();
        let ratio = median(rounds.iter().map(|(on, off)| on / off).collect());
        let us = |pick: fn(&(f64, f64)) -> f64| 1e6 * median(rounds.iter().map(pick).collect());
        println!(
            "{}: {:.2} us with limits, {:.2} us without: {ratio:.3} x",
            case.name,
            us(|r| r.0),
            us(|r| r.1)
        );
    }
    let budget = Budget::under(Memory::unlimited().share(&"".into()), 1 << 30);
    let charge = || {
        let started = cpu();
        (0..OPS).for_each(|_| drop(std::hint::black_box(budget.charge(1).unwrap())));
        (cpu() - started).as_secs_f64() / f64::from(OPS)
    };
    println!(
        "a charge to a budget and its return: {:.1} ns",
        1e9 * median((0..ROUNDS).map(|_| charge()).collect())
    );
}

fn main() {
    // Guests need more stack than a process's first thread may have.
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn(measure).unwrap().join().unwrap();
}
