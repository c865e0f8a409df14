//! Stable Diffusion as a library that stands alone: models, samplers, text, pipelines, on candle.
//!
//! One image's way:
//! ```text
//! Request ─► prepare ── tokenizer ─► text encoder ─► denoiser.prepare ─► ImageState (one per sample)
//!                                                                          │
//!                            plan: whose rows share a call ◄───────────────┤
//!                                        │                                 │ × evaluations
//!            gather rows ─► denoiser.forward ─► guidance per image ─► sampler's update per image ─► scatter
//!                                                                          │
//!                                                     decode ◄─────────────┘─► pixels [3, H, W]
//! ```
//! The unit of batching is a row (one prediction for one image), not a request; a batch owns nothing; and on a given kind of device an
//! image is a function of model and request, never of what else was running.
//!
//! The truth for images is diffusers: same weights, same initial latents, same sampler give the same latents at every step, within
//! rounding. This crate knows nothing of HTTP, async runtimes or Kubernetes.

pub mod adapter;
mod built_in;
pub mod conditioning;
pub mod denoiser;
pub mod dimensions;
pub mod exec;
pub mod family;
pub mod guidance;
pub mod json;
pub mod layers;
pub mod memory;
pub mod model;
pub mod ops;
pub mod picture;
pub mod pipeline;
pub mod safety;
pub mod sampler;
pub mod text;
pub mod tokenizer;
pub mod vae;
pub mod weights;

pub use candle_core::{DType, Device, Error, Tensor};
pub use kernels::gpu;
