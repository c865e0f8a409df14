//! The network that predicts noise: what any architecture promises to the pipeline.
//!
//! The unit of work is a row: one prediction for one image. Rows of any requests whose [`BatchKey`] is equal run in one call; timestep,
//! prompt and everything else that is not a shape may differ between them. This module knows no sampler, guidance or request.

mod flux;
mod flux_blocks;
mod flux_config;
mod joint_blocks;
mod joint_memory;
mod mmdit;
mod mmdit_config;
mod time_text;
mod unet;
mod unet_blocks;
mod unet_config;
mod unet_memory;

use candle_core::{Result, Tensor};

pub use flux::Flux;
pub use flux_config::FluxConfig;
pub use mmdit::Mmdit;
pub use mmdit_config::MmditConfig;
pub use unet::UNet;
pub use unet_config::{AdditionConfig, UNetConfig};

use crate::adapter::AdapterSet;
use crate::conditioning::{Conditioning, Encoded};
use crate::exec::Exec;

/// One prediction that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// [C, H, W] f32, scaled as the sampler wants the network to see it.
    pub latents: &'a Tensor,
    /// On the training schedule, 0 … 999; fractional for some samplers.
    pub timestep: f32,
    /// What to draw.
    pub conditioning: &'a Conditioning,
    /// What acts besides the weights.
    pub adapters: &'a AdapterSet,
    /// [Cc, H, W] f32, read beside the latents and never scaled: an inpainting's mask and masked picture.
    pub concat: Option<&'a Tensor>,
}

/// What two rows need to have in common to share a call: the loaded model and the shape of what it reads, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchKey {
    /// Which loaded model; unique in this process.
    pub model: u64,
    /// Channels, height and width of the latents.
    pub latent_shape: [usize; 3],
    /// Channels read beside the latents.
    pub concat_channels: usize,
    /// Text tokens that join those of the image; 0 where text enters by cross-attention, whose length may differ.
    pub joint_tokens: usize,
}

impl BatchKey {
    /// Positions of one row's latents: what the cost of a row grows with.
    pub fn latent_pixels(&self) -> usize {
        self.latent_shape[1].saturating_mul(self.latent_shape[2])
    }
}

/// A network that predicts, for rows of latents, what the sampler needs (noise, velocity, …).
pub trait Denoiser: Send + Sync + std::fmt::Debug {
    /// What no timestep changes: of what the conditioner made of one branch, and of the strength of guidance where the network takes it.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn prepare(&self, encoded: &Encoded, guidance: Option<f64>, exec: &Exec) -> Result<Conditioning>;

    /// The raw predictions [B, C, H, W] in f32 for B rows of one [`BatchKey`].
    ///
    /// On the CPU in f32, the bits of a row do not depend on the others.
    ///
    /// # Errors
    /// When there is no row, or the shapes do not fit.
    fn forward(&self, rows: &[Row<'_>], exec: &Exec) -> Result<Tensor>;
}
