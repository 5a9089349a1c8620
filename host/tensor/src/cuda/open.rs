//! Opening a GPU: is there a driver, does it show this one, and a stream of its own on it.

#[cfg(not(feature = "cuda"))]
use candle_core::Device as Candle;
#[cfg(not(feature = "cuda"))]
use maquette_ops::Error;

/// Whether a GPU can be used, found out without panicking where there is none.
#[cfg(not(feature = "cuda"))]
pub(crate) fn check(ordinal: u32) -> Result<(), Error> {
    Err(Error::unsupported(format!(
        "cuda:{ordinal} cannot be used: this binary was built without CUDA. Use `--device cpu`, or build with `--features cuda` \
         (tests/gpu/build does)"
    )))
}

#[cfg(not(feature = "cuda"))]
pub(super) fn open(ordinal: u32) -> Result<Candle, Error> {
    check(ordinal)?;
    Err(Error::internal("no device"))
}

#[cfg(feature = "cuda")]
pub(crate) use with_driver::check;
#[cfg(feature = "cuda")]
pub(super) use with_driver::{Pace, bind, open, release};

/// Without a GPU nothing is ahead of anybody.
#[cfg(not(feature = "cuda"))]
pub(super) struct Pace;

#[cfg(not(feature = "cuda"))]
impl Pace {
    pub(super) fn new() -> Self {
        Self
    }

    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "with the feature it keeps count"
    )]
    pub(super) fn launch(&mut self, _: &Candle, _: u64) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(not(feature = "cuda"))]
pub(super) fn bind(_: &candle_core::Tensor) {}

#[cfg(not(feature = "cuda"))]
pub(super) fn release(_: &Candle) {}

/// How many elements a piece of a GPU's memory holds.
#[cfg(feature = "cuda")]
pub(crate) fn stored_elements(storage: &candle_core::CudaStorage) -> usize {
    use candle_core::cuda_backend::CudaStorageSlice as Slice;
    match &storage.slice {
        Slice::F32(v) => v.len(),
        Slice::F16(v) => v.len(),
        Slice::BF16(v) => v.len(),
        Slice::U8(v) => v.len(),
        Slice::U32(v) => v.len(),
        Slice::I64(v) => v.len(),
        _ => usize::MAX,
    }
}

#[cfg(feature = "cuda")]
mod with_driver {
    use std::collections::VecDeque;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, result, sys};
    use candle_core::cuda_backend::kernels;
    use candle_core::{CudaDevice, Device as Candle, Tensor};
    use maquette_ops::Error;

    use crate::tensor::said;

    /// Nanoseconds, as predicted, that launches may be ahead of the kernels: what a call leaves on the device when it is over. Long
    /// enough to keep it busy while the next kernels are launched.
    const AHEAD: u64 = 5_000_000;

    /// Nanoseconds, as predicted, between two marks on the stream.
    const MARK_EVERY: u64 = 500_000;

    /// The CUDA that kernels were compiled with, as `13000`, where the build said so: an older driver refuses them one by one.
    const BUILT_FOR: Option<i32> = match option_env!("CUDARC_CUDA_VERSION") {
        Some(text) => match i32::from_str_radix(text, 10) {
            Ok(number) => Some(number),
            Err(_) => None,
        },
        None => None,
    };

    /// A kernel of each of candle's modules, which is loaded whole. The driver compiles a module when it meets it for the first time on a
    /// machine, which takes seconds: no call is to pay for that.
    const KERNELS: [(&str, &kernels::Module); 9] = [
        ("affine_f32", &kernels::AFFINE),
        ("badd_f32", &kernels::BINARY),
        ("cast_f32_f16", &kernels::CAST),
        ("im2col_f32", &kernels::CONV),
        ("copy2d_f32", &kernels::FILL),
        ("is_u32_f32", &kernels::INDEXING),
        ("fast_sum_f32", &kernels::REDUCE),
        ("where_u8_f32", &kernels::TERNARY),
        ("ucopy_f32", &kernels::UNARY),
    ];

    fn refused(ordinal: u32, why: &str, what: &str) -> Error {
        Error::unsupported(format!(
            "cuda:{ordinal} cannot be used: {why}. {what}, or use `--device cpu`"
        ))
    }

    /// cudarc panics where a library or a symbol of it is missing: that is an answer too.
    fn caught<T>(ordinal: u32, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let said = panic
                .downcast_ref::<String>()
                .map(|text| text.lines().next().unwrap_or_default());
            let said = said.map(|text| text.chars().take(200).collect::<String>());
            Err(refused(
                ordinal,
                &format!("a library of CUDA could not be loaded ({})", said.unwrap_or_default()),
                "Install CUDA 13's cuBLAS, cuRAND and NVRTC, or name their folder in LD_LIBRARY_PATH",
            ))
        })
    }

    /// Whether the driver's library is there, asked of the loader: whoever asks cudarc without it gets a panic.
    fn has_driver() -> bool {
        ["libcuda.so.1", "libcuda.so", "nvcuda.dll"]
            .into_iter()
            .any(|name: &str| {
                // SAFETY: the driver's library may be loaded at any time; its initialisers are those of every program that uses CUDA.
                unsafe { libloading::Library::new(name) }.is_ok()
            })
    }

    /// Whether a GPU can be used, found out without panicking where there is none.
    pub(crate) fn check(ordinal: u32) -> Result<(), Error> {
        if !has_driver() {
            return Err(refused(
                ordinal,
                "this machine has no NVIDIA driver (libcuda.so.1 is not found)",
                "Install one, 580 or later",
            ));
        }
        caught(ordinal, || {
            let driver = |e: candle_core::cuda_backend::cudarc::driver::DriverError| {
                refused(ordinal, &format!("the driver says {e}"), "Look at `nvidia-smi`")
            };
            result::init().map_err(driver)?;
            let mut speaks = 0;
            // SAFETY: the driver writes one number to where the pointer leads.
            unsafe { sys::cuDriverGetVersion(&raw mut speaks) }
                .result()
                .map_err(driver)?;
            if let Some(built) = BUILT_FOR.filter(|built| speaks < *built) {
                let version = |number: i32| format!("{}.{}", number / 1000, number % 1000 / 10);
                let why = format!(
                    "the driver speaks CUDA {}, and this binary is built with {}",
                    version(speaks),
                    version(built)
                );
                return Err(refused(ordinal, &why, "Install a newer driver (580 or later for 13.0)"));
            }
            let count = CudaContext::device_count().map_err(driver)?;
            if i64::from(ordinal) >= i64::from(count) {
                let there = match count {
                    0 => "the driver shows no GPU".to_owned(),
                    1 => "the driver shows one GPU, cuda:0".to_owned(),
                    n => format!("the driver shows {n} GPUs, cuda:0 to cuda:{}", n - 1),
                };
                return Err(refused(ordinal, &there, "Name one of those"));
            }
            Ok(())
        })
    }

    /// The device with a stream of its own. It must be used from one thread.
    pub(in crate::cuda) fn open(ordinal: u32) -> Result<Candle, Error> {
        check(ordinal)?;
        caught(ordinal, || {
            let failed =
                |e: &dyn std::fmt::Display| refused(ordinal, &format!("it does not open: {e}"), "Look at `nvidia-smi`");
            let device = CudaDevice::new_with_stream(ordinal as usize).map_err(|e| failed(&said(&e)))?;
            // SAFETY: tracking orders the accesses of several streams; here there is one, and all that is allocated is used on it.
            unsafe { device.disable_event_tracking() };
            keep_memory(ordinal).map_err(|e| failed(&e))?;
            for (function, module) in KERNELS {
                device
                    .get_or_load_func(function, module)
                    .map_err(|e| failed(&said(&e)))?;
            }
            Ok(Candle::Cuda(device))
        })
    }

    /// Memory that is given back stays with the process: taking it from the driver anew costs more than most kernels.
    fn keep_memory(ordinal: u32) -> Result<(), candle_core::cuda_backend::cudarc::driver::DriverError> {
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the device exists; a context was made on it just now.
        let pool = unsafe { result::device::get_default_mem_pool(device)? };
        let most = u64::MAX;
        // SAFETY: the attribute is a 64-bit number, as CUDA's reference of cuMemPoolSetAttribute has it.
        unsafe {
            result::mem_pool::set_attribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                std::ptr::from_ref(&most).cast_mut().cast(),
            )
        }
    }

    /// Keeps launches from running far ahead of kernels.
    pub(in crate::cuda) struct Pace {
        /// What was launched behind the last mark.
        since: u64,
        /// Marks with what was launched before each and behind the one before, those not known to be reached.
        marks: VecDeque<(CudaEvent, u64)>,
        /// What was launched before the marks together.
        marked: u64,
    }

    impl Pace {
        pub(in crate::cuda) fn new() -> Self {
            Self {
                since: 0,
                marks: VecDeque::new(),
                marked: 0,
            }
        }

        /// Before kernels of so many nanoseconds: waits for marks until they fit, the oldest first. What is more than fits at all waits
        /// for everything before it.
        pub(in crate::cuda) fn launch(&mut self, device: &Candle, nanos: u64) -> Result<(), Error> {
            let Candle::Cuda(device) = device else { return Ok(()) };
            let lost = |e: candle_core::cuda_backend::cudarc::driver::DriverError| {
                Error::internal(format!("the GPU has failed: {e}; the host has to be started again"))
            };
            if self.since >= MARK_EVERY {
                let mark = device.cuda_stream().record_event(None).map_err(lost)?;
                self.marks.push_back((mark, self.since));
                self.marked += self.since;
                self.since = 0;
            }
            while self.marked.saturating_add(nanos) > AHEAD
                && let Some((mark, before)) = self.marks.pop_front()
            {
                self.marked -= before;
                mark.synchronize().map_err(lost)?;
            }
            self.since = self.since.saturating_add(nanos);
            Ok(())
        }
    }

    /// Before a tensor is dropped on a thread that may not be the device's: the driver gives memory back to the context that the thread
    /// has.
    pub(in crate::cuda) fn bind(tensor: &Tensor) {
        if let Candle::Cuda(device) = tensor.device() {
            let stream = device.cuda_stream();
            let context = stream.context();
            // An error of the device that is still to be told is kept for who asks next.
            context.record_err(context.bind_to_thread());
        }
    }

    /// Gives the driver what the process keeps and nobody uses, once everything that was launched is done.
    pub(in crate::cuda) fn release(device: &Candle) {
        if let Candle::Cuda(device) = device {
            let stream = device.cuda_stream();
            let trimmed = stream.synchronize().and_then(|()| {
                let device = result::device::get(stream.context().ordinal() as i32)?;
                // SAFETY: the device exists, and so does its pool; memory in use is left as it is.
                unsafe { result::mem_pool::trim_to(result::device::get_default_mem_pool(device)?, 0) }
            });
            stream.context().record_err(trimmed);
        }
    }
}
