//! From a request to images, as a state machine: `prepare` once, `step` once per evaluation, `decode` once.
//!
//! ```text
//! prepare(model, request) ─► [ImageState]         one per sample; owns its latents, history, noise and progress
//!          plan(waiting) ─► calls                 pure: whose rows share a call
//!          step(images) ─► StepReport             one evaluation of each, in as few denoiser calls as their keys allow
//!          decode(image) ─► pixels; composed(image, pixels) ─► bytes, with what the request keeps of its own picture
//! ```
//! Images join and leave between evaluations. A batch is gathered before a call, scattered after it, and forgotten; an image's bits are
//! those it would have alone. This module knows no family and no sampler by name, except that `eta` is DDIM's.

mod decode;
mod entry;
mod error;
mod image_state;
mod plan;
mod prepare;
mod request;
mod start;
mod step;
mod window;

pub use decode::{composed, decode, preview, to_rgb8};
pub use error::{InvalidRequest, PipelineError};
pub use image_state::ImageState;
pub use plan::{PlanLimits, Waiting, plan};
pub use prepare::{image_bytes, prepare};
pub use request::{InjectedTensors, Request};
pub use start::{GivenLatents, InvalidStart, Start};
pub use step::{StepReport, step};
