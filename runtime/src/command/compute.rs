//! Where and how exactly a command computes.

use clap::Args;

use crate::engine::{DeviceError, DeviceName, Diffusion, Precision};

#[derive(Clone, Copy, Debug, Args)]
pub(super) struct ComputeArguments {
    /// Device to run on: auto (the first GPU if there is one, else the processor), cpu, cuda or cuda:N.
    #[arg(long, env = "EMULSION_DEVICE", default_value = "auto")]
    device: DeviceName,
    /// Precision of weights and activations.
    #[arg(long, env = "EMULSION_DTYPE", value_enum, default_value = "auto")]
    dtype: Precision,
}

impl ComputeArguments {
    pub(super) fn engine(self) -> Result<Diffusion, DeviceError> {
        Diffusion::open(self.device, self.dtype)
    }
}
