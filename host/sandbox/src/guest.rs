//! A version ready to be called, and the call itself: a fresh sandbox on the caller's thread, dropped when it is over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use maquette_tensor::ops::Code;
use maquette_tensor::{Runtime, gate};
use rustix::time::{ClockId, clock_gettime};
use wasmtime::Store;
use wasmtime::component::Component;

use crate::bindings::ModelPre;
use crate::bindings::maquette::model::types;
use crate::cache;
use crate::call::{Call, Failure, Outcome, Output, Report};
use crate::engine::Engine;
use crate::error::Error;
use crate::json;
use crate::limits::Limits;
use crate::prepare::{Description, Load, Parts, Prepared, open_package};
use crate::state::{Package, Phase, State};
use crate::store;
use crate::trap;

/// How long a sandbox, while it is taken down, may wait for calls that go first.
const TAKEN_DOWN_WITHIN: Duration = Duration::from_millis(500);

/// How an export ended; an error is told with the export's name.
type Ended<T, E> = Result<T, (&'static str, E)>;

/// A version ready to be called. Cheap to clone; holds the compiled code and the version's files open.
#[derive(Clone)]
pub struct Guest(Arc<Inner>);

struct Inner {
    engine: Engine,
    runtime: Arc<Runtime>,
    package: Arc<Package>,
    pre: ModelPre<State>,
    description: Description,
    load: Load,
}

impl Guest {
    /// Opens a prepared version.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Artifact`] if the compiled code is missing, changed, or of another build: prepare the version again.
    pub fn open(engine: &Engine, runtime: &Arc<Runtime>, parts: &Parts, prepared: &Prepared) -> Result<Self, Error> {
        let package = Arc::new(open_package(runtime, parts)?);
        let path = cache::find(engine, &prepared.artifact())?;
        // SAFETY: the file lies in a folder that only this user can write, was written there by this build of the host from
        // its own compiler's output, and has the digest that was noted then.
        let component = unsafe { Component::deserialize_file(engine.wasmtime(), &path) }
            .map_err(|e| Error::artifact(format!("{}: {e:#}", prepared.artifact)))?;
        let misfit = |e: wasmtime::Error| {
            Error::component(format!(
                "the component does not fit the world `maquette:model/model`: {e:#}"
            ))
        };
        let pre = engine.linker().instantiate_pre(&component).map_err(misfit)?;
        let pre = ModelPre::new(pre).map_err(misfit)?;
        Ok(Self(Arc::new(Inner {
            engine: engine.clone(),
            runtime: Arc::clone(runtime),
            package,
            pre,
            description: prepared.description.clone(),
            load: prepared.load.clone(),
        })))
    }

    /// What the model says of itself.
    pub fn description(&self) -> &Description {
        &self.0.description
    }

    /// What one call may use.
    pub fn limits(&self) -> &Limits {
        &self.0.package.limits
    }

    /// Serves one call in a fresh sandbox, on this thread, which needs [`crate::STACK_BYTES`] of stack. Blocks until the guest
    /// is done, its deadline has passed, or it was cancelled. Never panics because of a guest.
    pub fn call(&self, call: Call) -> Outcome {
        let started = Instant::now();
        let cpu = thread_cpu();
        let mut end = match catch_unwind(AssertUnwindSafe(|| self.run(call, started))) {
            Ok(end) => end,
            Err(_) => {
                tracing::error!("a host function panicked under a guest");
                Outcome {
                    result: Err(Failure::new(
                        Code::Internal,
                        "the host failed while it served the model",
                    )),
                    report: Report::default(),
                }
            }
        };
        end.report.total_us = micros(started.elapsed());
        end.report.cpu_us = micros(thread_cpu().saturating_sub(cpu));
        end
    }

    fn run(&self, call: Call, started: Instant) -> Outcome {
        let guest = &*self.0;
        let limits = &guest.package.limits;
        let limit = Duration::from_millis(limits.timeout_ms);
        let allowed = call.timeout.map_or(limit, |timeout| timeout.min(limit));

        let mut state = State::new(
            &guest.runtime,
            &guest.package,
            &call.owner,
            Phase::Load,
            started,
            allowed,
        );
        state.cancel = call.cancel;
        state.seed = call.seed;
        state.files = call.files;
        state.events = call.events;
        let mut store = store::new(&guest.engine, state);
        let mut instantiate_us = 0;
        let result = self.predict(&mut store, &call.input, started, &mut instantiate_us);
        // Taking a sandbox down takes the kernel's locks: not beside whoever goes first, if that does not last.
        let until = Instant::now() + TAKEN_DOWN_WITHIN;
        gate::pass(&|| Instant::now() > until);

        let mut state = store.into_data();
        let (logs, dropped_log_bytes) = state.log.take();
        let result = match result {
            Ok(Ok(json)) => finish(&mut state, json),
            Ok(Err((export, error))) => Err(trap::said(error, export, &state)),
            Err((export, error)) => Err(trap::explain(&error, export, &state, &logs)),
        };
        let result = result.map_err(|failure| match state.share.refused() {
            Some(full) => trap::crowded(failure, full),
            None => failure,
        });
        let stats = state
            .scope_if_any()
            .map(maquette_tensor::Scope::stats)
            .unwrap_or_default();
        let report = Report {
            total_us: 0,
            instantiate_us,
            cpu_us: 0,
            compute_us: micros(stats.compute),
            load_us: micros(stats.load),
            guest_memory_bytes: state.limiter.peak(),
            tensor_bytes: state.budget.as_ref().map_or(0, |budget| budget.peak()),
            ops: stats.ops,
            program_runs: stats.program_runs,
            crossings: state.crossings,
            output_bytes: state.output_bytes,
            logs,
            dropped_log_bytes,
            metrics: std::mem::take(&mut state.metrics),
        };
        state.drop_objects(until);
        Outcome { result, report }
    }

    /// The guest's part: what it returned, how it failed in its own words, or how it was stopped.
    fn predict(
        &self,
        store: &mut Store<State>,
        input: &str,
        started: Instant,
        instantiate_us: &mut u64,
    ) -> Ended<Ended<String, types::Error>, wasmtime::Error> {
        if let Some(stop) = store.data().stop() {
            return Err(("predict", stop.into()));
        }
        let model = self.0.pre.instantiate(&mut *store).map_err(|e| ("start", e))?;
        let predictor = model.maquette_model_predictor();
        if let Load::PerSandbox { .. } = self.0.load {
            match predictor.call_load(&mut *store) {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return Ok(Err(("load", e))),
                Err(e) => return Err(("load", e)),
            }
        }
        *instantiate_us = micros(started.elapsed());
        store.data_mut().phase = Phase::Predict;
        match predictor.call_predict(&mut *store, input) {
            Ok(Ok(json)) => Ok(Ok(json)),
            Ok(Err(e)) => Ok(Err(("predict", e))),
            Err(e) => Err(("predict", e)),
        }
    }
}

/// Checks what the guest returned.
fn finish(state: &mut State, json: String) -> Result<Output, Failure> {
    state.output_bytes = state.output_bytes.saturating_add(json.len() as u64);
    let limit = state.package.limits.output_bytes;
    if state.output_bytes > limit {
        let message = format!("the output takes {} bytes; the limit is {limit}", state.output_bytes);
        return Err(Failure::new(Code::Quota, message));
    }
    if let Err(e) = json::check(&json) {
        return Err(Failure::new(
            Code::Internal,
            format!("the model returned something that is not JSON: {e}"),
        ));
    }
    Ok(Output {
        json,
        items: state.items,
        files: std::mem::take(&mut state.finished),
    })
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
