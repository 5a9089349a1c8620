//! Where tensors live: which devices there are, how they are written, and whether one can be used here.

use std::fmt;
use std::str::FromStr;

use maquette_ops::Error;

/// A device as it is named on a command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor, with the kernels of ours: `cpu`.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its number among those that the driver shows: `cuda:0`.
    Cuda(u32),
    /// The processor, by the very code that GPUs are used with: `composed`. Slow; there to test that code without a GPU.
    Composed,
}

impl Device {
    /// Whether tensors are the lane's own, or those of a thread that has the device.
    pub const fn is_cpu(self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// Whether tensors can live there, found out without touching the device.
    ///
    /// # Errors
    /// `unsupported` with what to do: another build, a driver, another number.
    pub fn check(self) -> Result<(), Error> {
        match self {
            Self::Cpu | Self::Composed => Ok(()),
            Self::Cuda(ordinal) => crate::cuda::check(ordinal),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Composed => f.write_str("composed"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// # Errors
    /// `invalid-input` for anything but `cpu`, `cuda:N` and `composed`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |digits: &str| {
            let canonical = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            canonical.then(|| digits.parse().ok()).flatten()
        };
        match text {
            "cpu" => Ok(Self::Cpu),
            "composed" => Ok(Self::Composed),
            _ => match text.strip_prefix("cuda:").and_then(number) {
                Some(ordinal) => Ok(Self::Cuda(ordinal)),
                None => Err(Error::invalid_input(format!(
                    "there is no device `{}`: write `cpu`, or `cuda:0` for the first NVIDIA GPU, `cuda:1` for the second",
                    text.chars().take(40).collect::<String>().escape_default()
                ))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use maquette_ops::Code;

    #[test]
    fn devices_are_read_as_they_are_written_and_nothing_else_is_one() {
        for (text, device) in [
            ("cpu", Device::Cpu),
            ("cuda:0", Device::Cuda(0)),
            ("cuda:17", Device::Cuda(17)),
            ("composed", Device::Composed),
        ] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string(), text);
        }
        for text in [
            "",
            "CPU",
            "cpu:0",
            "gpu",
            "cuda",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda: 1",
            "cuda:x",
            "cuda:4294967296",
            "mps",
            "cuda:0,1",
            "cuda:0\n",
        ] {
            let error = text.parse::<Device>().unwrap_err();
            assert_eq!(error.code, Code::InvalidInput, "{text}");
            assert!(error.message.contains("`cuda:0`"), "{}", error.message);
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_refused_with_what_to_do() {
        assert!(Device::Cpu.check().is_ok());
        // No machine has that many, so it is refused with the feature and without, with a driver and without.
        let error = Device::Cuda(4_000_000_000).check().unwrap_err();
        assert_eq!(error.code, Code::Unsupported);
        assert!(error.message.contains("cuda:4000000000"), "{}", error.message);
        if !cfg!(feature = "cuda") {
            assert!(error.message.contains("--features cuda"), "{}", error.message);
        }
    }
}
