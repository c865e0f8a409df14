//! How much memory computing takes beside the weights: counted from shapes, before a weight is read or a tensor made.
//!
//! The figures are bounds of what is alive at the worst moment of a call. A test holds them against an allocator that counts: never less than
//! it saw, and not twice as much where images are large enough to matter.

use std::sync::Arc;

use candle_core::DType;

use crate::family::ModelSpec;
use crate::ops::{MAX_PATCH_ELEMENTS, MAX_SCORES};

/// Scratch of the kernels for processors, in bytes: patches and scores of blocks, and what products of matrices pack, for each thread.
const KERNEL_SCRATCH_BYTES: u64 = 16 << 20;
pub(crate) const F32_BYTES: u64 = 4;
/// A 3×3 convolution.
pub(crate) const TAPS: u64 = 9;

/// How the numbers of a network are kept while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Working {
    element_bytes: u64,
    /// Whether the kernels for processors run, which make little beside their results.
    fused: bool,
}

impl Working {
    /// Of a network that is computed in `compute`, on a processor or a GPU.
    pub fn new(on_processor: bool, compute: DType) -> Self {
        Self { element_bytes: compute.size_in_bytes() as u64, fused: on_processor && compute == DType::F32 }
    }

    /// What every call takes.
    fn scratch(self) -> u64 {
        if self.fused { KERNEL_SCRATCH_BYTES } else { 0 }
    }

    /// A tensor in the network's precision.
    pub(crate) fn tensor(self, elements: u64) -> u64 {
        elements.saturating_mul(self.element_bytes)
    }

    /// `fused` tensors where kernels run, `composed` where candle's primitives do.
    pub(crate) fn tensors(self, elements: u64, fused: u64, composed: u64) -> u64 {
        self.tensor(elements).saturating_mul(if self.fused { fused } else { composed })
    }

    /// A group norm's result and what it makes on the way, beside its input.
    fn norm(self, elements: u64) -> u64 {
        match self.element_bytes {
            _ if self.fused => self.tensor(elements),
            F32_BYTES => 4 * self.tensor(elements),
            // In f32 first.
            _ => 3 * F32_BYTES * elements + 3 * self.tensor(elements),
        }
    }

    /// A convolution's result and what it makes on the way, beside its input.
    pub(crate) fn convolution(self, pixels: u64, inputs: u64, outputs: u64, taps: u64) -> u64 {
        let out = self.tensor(pixels * outputs);
        if self.fused {
            return out;
        }
        let (patches, most) = (pixels * inputs * taps, MAX_PATCH_ELEMENTS as u64);
        let at_once = self.tensor(patches.min(most)) + 2 * out;
        if patches <= most {
            return at_once;
        }
        // In bands of an image that was padded before.
        let padded = self.tensor(pixels * inputs);
        (2 * padded).max(padded + at_once)
    }

    /// A resnet block's result and what it makes on the way, beside its input.
    pub(crate) fn resnet(self, pixels: u64, inputs: u64, outputs: u64) -> u64 {
        let (input, hidden) = (self.tensor(pixels * inputs), self.tensor(pixels * outputs));
        let first = self.norm(pixels * inputs).max(input + self.convolution(pixels, inputs, outputs, TAPS));
        let second = self.norm(pixels * outputs).max(hidden + self.convolution(pixels, outputs, outputs, TAPS));
        let shortcut = if inputs == outputs { 0 } else { self.convolution(pixels, inputs, outputs, 1) };
        first.max(hidden + second).max(hidden + shortcut + hidden)
    }

    /// A 3×3 convolution over an image that was enlarged to `pixels` before, beside the small one.
    pub(crate) fn upsample(self, pixels: u64, channels: u64) -> u64 {
        self.tensor(pixels * channels) + self.convolution(pixels, channels, channels, TAPS)
    }

    /// Scores of attention in blocks and what they become, of `queries` × `keys` for each of `heads` (of all rows).
    pub(crate) fn scores(self, heads: u64, queries: u64, keys: u64) -> u64 {
        if self.fused {
            return 0;
        }
        let at_once = heads.saturating_mul(queries).saturating_mul(keys).min((MAX_SCORES as u64).max(heads * keys));
        3 * F32_BYTES * at_once + self.tensor(at_once)
    }

    /// What attention makes of queries and keys of `elements` each before there are scores.
    pub(crate) fn heads(self, elements: u64) -> u64 {
        if self.fused { 0 } else { 3 * self.tensor(elements) + 3 * F32_BYTES * elements }
    }
}

/// What the networks of one model take when they run.
#[derive(Clone, Debug)]
pub struct Computing {
    spec: Arc<dyn ModelSpec>,
    denoiser: Working,
    vae: Working,
}

impl Computing {
    pub(crate) fn new(spec: Arc<dyn ModelSpec>, on_processor: bool, dtype: DType) -> Self {
        let vae = Working::new(on_processor, spec.part_dtype(crate::model::VAE, dtype));
        Self { spec, denoiser: Working::new(on_processor, dtype), vae }
    }

    /// What the model's configuration says.
    pub fn spec(&self) -> &dyn ModelSpec {
        self.spec.as_ref()
    }

    /// Bytes of one call of the denoiser over `rows` with latents of `[height, width]`.
    pub fn denoising_bytes(&self, rows: usize, latent: [usize; 2]) -> u64 {
        self.spec.denoising_bytes(rows, latent, self.denoiser).saturating_add(self.denoiser.scratch())
    }

    /// Bytes of encoding or decoding one picture with latents of `[height, width]`.
    pub fn picture_bytes(&self, latent: [usize; 2]) -> u64 {
        self.spec.vae_config().picture_bytes(latent, self.vae).saturating_add(self.vae.scratch())
    }

    /// Bytes that an image of `[height, width]` pixels takes at the worst moment, with `rows` in one call of the denoiser.
    pub fn bytes(&self, rows: usize, [height, width]: [usize; 2]) -> u64 {
        let scale = self.spec.latent_scale();
        let latent = [height / scale, width / scale];
        self.denoising_bytes(rows, latent).max(self.picture_bytes(latent))
    }
}
