//! The thread that has a device: lanes send it jobs, it launches them in their order on one stream. Only what a lane reads is
//! waited for.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::{Device as Candle, Tensor};
use maquette_ops::Error;

use super::open::{Pace, open};
use super::slot::{Remote, Slot, Value};
use crate::control::Control;
use crate::device::Device;
use crate::tensor::Owner;

/// Jobs that may wait: a lane that is so far ahead waits for the device.
const MAX_JOBS: usize = 1024;

/// How long a lane waits before it looks whether it has to stop.
const LOOK: Duration = Duration::from_millis(5);

/// How long a lane that found the queue full sleeps.
const FULL: Duration = Duration::from_micros(200);

type Job = Box<dyn FnOnce(&Turn<'_>) + Send>;

/// What a job has while it runs.
pub(crate) struct Turn<'a> {
    /// The device, for what ops make.
    pub(crate) device: &'a Candle,
    pace: &'a RefCell<Pace>,
    /// The call's whose job it is; work for the host is never stopped.
    control: Control,
}

impl Turn<'_> {
    /// Before kernels that keep the device busy for about so many nanoseconds: waits until what was launched before leaves room for
    /// them, and looks whether the call has to stop. So the device is done with a call soon after the call is over.
    pub(crate) fn launch(&self, nanos: u64) -> Result<(), Error> {
        self.pace.borrow_mut().launch(self.device, nanos)?;
        self.control.check(Instant::now())
    }

    /// Calls a function of the host's kernels, which are left when the call has to stop.
    pub(crate) fn stoppable<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.control.stoppable(work)
    }
}

/// What pays for a job, and when it need not run any more.
#[derive(Clone)]
pub(crate) struct Client {
    /// Jobs are left out when the call is over.
    pub(crate) control: Control,
    /// Nanoseconds that the device's thread has spent on the client's jobs.
    pub(crate) spent: Arc<AtomicU64>,
}

/// A device with its thread.
pub(crate) struct Executor {
    device: Device,
    /// There until the executor is dropped, as is the thread.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executor({})", self.device)
    }
}

impl Executor {
    /// Opens a device on a thread of its own, which ends with the executor.
    ///
    /// # Errors
    /// As [`Device::check`]; what the driver says.
    pub(crate) fn start(device: Device) -> Result<Arc<Self>, Error> {
        let (jobs, queue) = sync_channel::<Job>(MAX_JOBS);
        let (opened, answer) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("tensor-{device}"))
            .spawn(move || {
                let candle = match device {
                    Device::Cuda(ordinal) => open(ordinal),
                    Device::Cpu | Device::Composed => Ok(Candle::Cpu),
                };
                match candle {
                    Ok(candle) => {
                        let _ = opened.send(Ok(()));
                        work(&candle, &queue);
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            })
            .map_err(|e| Error::internal(format!("the thread of {device} cannot be started: {e}")))?;
        answer.recv().map_err(|_| lost())??;
        Ok(Arc::new(Self {
            device,
            jobs: Some(jobs),
            thread: Some(thread),
        }))
    }

    /// The device.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Sends a job, and waits only while the queue is full.
    fn send(&self, mut job: Job, control: Option<&Control>) -> Result<(), Error> {
        let jobs = self.jobs.as_ref().ok_or_else(lost)?;
        loop {
            job = match jobs.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(lost()),
                Err(TrySendError::Full(job)) => job,
            };
            if let Some(control) = control {
                control.check(Instant::now())?;
            }
            std::thread::sleep(FULL);
        }
    }

    /// Sends a job of a call, whose time is counted; it is told whether the call still goes on.
    pub(crate) fn enqueue(
        &self,
        client: &Client,
        job: impl FnOnce(&Turn<'_>, Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let Client { control, spent } = client.clone();
        let run = move |turn: &Turn<'_>| {
            let started = Instant::now();
            let go_on = control.check(started);
            job(&Turn { control, ..*turn }, go_on);
            let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            spent.fetch_add(nanos, Ordering::Relaxed);
        };
        self.send(Box::new(run), Some(&client.control))
    }

    /// Runs a job of a call and waits for its answer, as long as the call may.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        client: &Client,
        job: impl FnOnce(&Turn<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, question) = sync_channel(1);
        self.enqueue(client, move |turn, go_on| {
            // Nobody listens any more if the call has ended meanwhile.
            let _ = answer.send(go_on.and_then(|()| job(turn)));
        })?;
        wait(&question, &client.control)
    }

    /// Puts a tensor of the host's memory on the device for a program or for every call, and waits until it is there.
    pub(crate) fn place(&self, tensor: Tensor, owner: Owner) -> Result<Remote, Error> {
        let strides = tensor.stride().into();
        let slot = self.make(owner, move |turn| {
            let tensor = upload(&tensor, turn.device)?;
            Ok(Value { tensor, range: None })
        })?;
        Ok(Remote { slot, strides })
    }

    /// Makes a value that no call waits for alone, such as a weight, and waits until it is there.
    pub(crate) fn make(
        &self,
        owner: Owner,
        work: impl FnOnce(&Turn<'_>) -> Result<Value, Error> + Send + 'static,
    ) -> Result<Arc<Slot>, Error> {
        let (answer, question) = sync_channel(1);
        let slot = Slot::empty(owner);
        let filled = Arc::clone(&slot);
        let job = move |turn: &Turn<'_>| {
            let made = work(turn);
            let said = made.as_ref().map(drop).map_err(Clone::clone);
            filled.fill(made);
            let _ = answer.send(said);
        };
        self.send(Box::new(job), None)?;
        question.recv().map_err(|_| lost())??;
        Ok(slot)
    }
}

impl Drop for Executor {
    /// Waits until the device is closed: a driver that is still at it when the process ends crashes it.
    fn drop(&mut self) {
        drop(self.jobs.take());
        // The last to have the executor may be a job.
        if let Some(thread) = self
            .thread
            .take()
            .filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

/// A tensor of the host's memory on a device.
pub(crate) fn upload(tensor: &Tensor, device: &Candle) -> Result<Tensor, Error> {
    let failed = |e: candle_core::Error| super::failed("uploading", &e);
    if tensor.elem_count() == 0 {
        return super::call::nothing(tensor.dims(), tensor.dtype(), device).map_err(Error::from);
    }
    tensor.to_device(device).map_err(failed)
}

fn work(device: &Candle, queue: &Receiver<Job>) {
    let turn = Turn {
        device,
        pace: &RefCell::new(Pace::new()),
        control: Control::default(),
    };
    while let Ok(job) = queue.recv() {
        // Kernels are guarded one by one; this keeps the thread alive whatever else happens. A slot that is left empty says so.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&turn)));
    }
}

fn wait<T>(question: &Receiver<Result<T, Error>>, control: &Control) -> Result<T, Error> {
    // Most answers are there at once.
    match question.try_recv() {
        Ok(answer) => return answer,
        Err(TryRecvError::Disconnected) => return Err(lost()),
        Err(TryRecvError::Empty) => {}
    }
    loop {
        match question.recv_timeout(LOOK) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Disconnected) => return Err(lost()),
            Err(RecvTimeoutError::Timeout) => control.check(Instant::now())?,
        }
    }
}

fn lost() -> Error {
    Error::internal("the device's thread does not answer: the host has to be started again")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use maquette_ops::Code;
    use std::sync::atomic::AtomicBool;

    fn client(deadline: Option<Duration>) -> Client {
        Client {
            control: Control {
                deadline: deadline.map(|after| Instant::now() + after),
                cancelled: Arc::new(AtomicBool::new(false)),
            },
            spent: Arc::default(),
        }
    }

    #[test]
    fn jobs_run_in_their_order_and_a_panic_ends_only_its_own() {
        let executor = Executor::start(Device::Composed).unwrap();
        let client = client(None);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        for i in 0..3 * MAX_JOBS {
            let seen = Arc::clone(&seen);
            executor
                .enqueue(&client, move |_, go_on| {
                    go_on.unwrap();
                    assert_ne!(i, 7, "a job that panics");
                    seen.lock().unwrap().push(i);
                })
                .unwrap();
        }
        assert_eq!(executor.ask(&client, |_| Ok(5)).unwrap(), 5);
        let expected: Vec<usize> = (0..3 * MAX_JOBS).filter(|i| *i != 7).collect();
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[test]
    fn a_lane_stops_waiting_when_its_call_is_over_and_its_jobs_are_left_out() {
        let executor = Executor::start(Device::Composed).unwrap();
        let (release, held) = sync_channel::<()>(1);
        let other = client(None);
        executor
            .enqueue(&other, move |_, _| {
                let _ = held.recv();
            })
            .unwrap();
        let mine = client(None);
        mine.control.cancelled.store(true, Ordering::Relaxed);
        let error = executor.ask(&mine, |_| Ok(())).unwrap_err();
        assert_eq!(error.code, Code::Cancelled);
        let late = client(Some(Duration::ZERO));
        assert_eq!(executor.ask(&late, |_| Ok(())).unwrap_err().code, Code::Timeout);
        release.send(()).unwrap();
        assert_eq!(executor.ask(&other, |_| Ok(1)).unwrap(), 1);
    }
}
