//! Samplers: how latents move from noise to image, as pure scalars.
//!
//! ```text
//! from_config(scheduler_config.json, override, options) ─► Arc<dyn Sampler>      options only, no progress; shared by all
//!        schedule(request) ─► Schedule                                          one per request
//!        evaluation(schedule, at) ─► Evaluation      what the denoiser is asked   input = latents × input_scale
//!        update(schedule, first, at) ─► Update       what becomes of the latents  next = Σ coefficient × tensor
//! ```
//! All samplers are linear in the sample, the model's output, earlier values and fresh noise, so an update is a handful of
//! numbers into which the prediction type is folded. Progress belongs to the request ([`SamplerState`]), never to the sampler.
//! Names, options and arithmetic follow the schedulers of diffusers. This module knows no model and no request.
//!
//! Four families, by what the latents are: `x₀ + σ·ε` ([`sigma_levels`]: Euler, Heun, KDPM2, LMS), `α·x₀ + σ·ε` solved in the
//! logarithm of the signal-to-noise ratio ([`log_snr`]: DPM-Solver, DEIS, UniPC), and the same read from the training's table of ᾱ
//! ([`alpha_table`]: DDIM, DDPM, PNDM, LCM, TCD); and for networks that were trained otherwise `(1 − σ)·x₀ + σ·ε` ([`flow`]).

mod alpha_table;
mod beta_distribution;
mod blend;
mod curve;
mod ddim;
mod ddim_inverse;
mod ddpm;
mod deis;
mod dpm_multistep;
mod dpm_singlestep;
mod dpm_solver;
mod euler;
mod euler_ancestral;
mod flow;
mod flow_euler;
mod flow_heun;
mod heun;
mod ipndm;
mod kdpm2;
mod kdpm2_ancestral;
mod lcm;
mod lms;
mod log_snr;
pub mod noise;
mod options;
mod pndm;
mod prediction;
mod schedule;
mod select;
mod sigma_levels;
mod tcd;
mod unipc;

use std::fmt::Debug;

use candle_core::Tensor;

pub use noise::{NoiseError, NoiseStream, gaussian};
pub use prediction::Prediction;
pub use schedule::Schedule;
pub use select::{SAMPLER_NAMES, check_kind, from_config, is_flow, option_names, takes_eta, training_timesteps};

use crate::json::ConfigError;
use select::names_of_kind;

fn kind(is_flow: bool) -> &'static str {
    if is_flow { "a model of flow matching" } else { "a model that predicts noise or velocity" }
}

/// How many earlier tensors a sampler may keep.
pub const MAX_HISTORY: usize = 5;

/// The most solver steps a schedule is made for: one for each of the 1,000 training timesteps of every known family.
pub const MAX_STEPS: usize = 1000;

/// An algorithm with its options. Holds no progress; one instance serves all requests that chose the same options.
pub trait Sampler: Send + Sync + Debug {
    /// diffusers' class name.
    fn name(&self) -> &'static str;

    /// Timesteps and noise levels.
    ///
    /// # Errors
    /// [`SamplerError`] if the step count is 0 or more than the options allow.
    fn schedule(&self, asked: ScheduleRequest) -> Result<Schedule, SamplerError>;

    /// What the denoiser is asked at evaluation `at` (`at < schedule.num_evaluations()`).
    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation;

    /// What becomes of the latents after evaluation `at`; `first` is the evaluation the request began with (0 unless it
    /// starts from an image).
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update;

    /// How many evaluations make one solver step, where the schedule repeats them: diffusers' `order`.
    fn evaluations_per_step(&self) -> usize {
        1
    }

    /// How clean latents and unit noise mix where an image enters the schedule at evaluation `at`.
    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix;
}

/// What a schedule is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScheduleRequest {
    /// Solver steps.
    pub steps: usize,
    /// Tokens that the denoiser makes of one image: some samplers leave more noise in large images.
    pub image_tokens: usize,
    /// Whether the noise levels lie evenly from 1 to 1/steps before a sampler of flow matching shifts them, as Flux's pipeline wants them,
    /// instead of between the largest and the smallest of the training.
    pub even_sigmas: bool,
}

/// `signal · x₀ + noise · ε`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseMix {
    /// Of the clean latents.
    pub signal: f32,
    /// Of unit Gaussian noise.
    pub noise: f32,
}

/// One call of the denoiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// The timestep the network is conditioned on; fractional with some spacings.
    pub timestep: f32,
    /// The latents are multiplied by this before they enter the network.
    pub input_scale: f32,
    /// The noise level in units of the data's deviation: σ of `x = x₀ + σ·noise`.
    pub sigma: f32,
}

/// What becomes of the latents after one evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The next latents.
    pub next: Combination,
    /// What the history is from now on, at most [`MAX_HISTORY`] tensors; what it was before is gone.
    pub keep: Vec<Combination>,
    /// Whether the reference draws noise here. It may do so even where the coefficient is 0 (the last step of an ancestral
    /// sampler), and a stream must then move on by one draw.
    pub draws_noise: bool,
}

/// A linear combination of tensors of the latents' shape; f64 arithmetic, rounded once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Combination {
    /// Of the current latents (before the input scale).
    pub sample: f32,
    /// Of the network's output (after guidance).
    pub output: f32,
    /// Of the tensors kept earlier, in the order in which they were kept.
    pub history: [f32; MAX_HISTORY],
    /// Of one fresh draw of unit Gaussian noise.
    pub noise: f32,
}

/// How far one image has come.
#[derive(Clone, Debug)]
pub struct SamplerState {
    /// The next evaluation.
    pub at: usize,
    /// The evaluation it began with.
    pub first: usize,
    /// The tensors kept by the last update, in its order.
    pub history: Vec<Tensor>,
    /// Where its random draws come from.
    pub noise: NoiseStream,
}

impl SamplerState {
    /// The state of an image that begins at evaluation `first`.
    pub fn new(first: usize, noise: NoiseStream) -> Self {
        Self { at: first, first, history: Vec::new(), noise }
    }
}

/// Why a sampler or its schedule could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// No sampler of this name.
    #[error("sampler `{name}` is not served; choose one of {}", SAMPLER_NAMES.join(", "))]
    UnknownSampler {
        /// What was asked for.
        name: String,
    },
    /// A class of the reference that is left out for a reason.
    #[error("sampler `{name}` is not served: {reason}; choose one of {}", SAMPLER_NAMES.join(", "))]
    RefusedSampler {
        /// What was asked for.
        name: &'static str,
        /// Why it is left out.
        reason: &'static str,
    },
    /// A sampler of the other kind: what the network predicts means something else to it.
    #[error("sampler `{name}` is for {}, and this model is {}; choose one of {}", kind(!model_is_flow), kind(*model_is_flow), names_of_kind(*model_is_flow))]
    OtherKind {
        /// What was asked for.
        name: String,
        /// Whether the model was trained by flow matching.
        model_is_flow: bool,
    },
    /// The configuration names no sampler and the request neither.
    #[error("no sampler is named; choose one of {}", SAMPLER_NAMES.join(", "))]
    NoSampler,
    /// A value in the configuration or in the request's options.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An option of the request that this sampler does not have.
    #[error("sampler `{sampler}` has no option `{option}`; it has {known}")]
    UnknownOption {
        /// The sampler.
        sampler: &'static str,
        /// The option.
        option: String,
        /// All its options.
        known: String,
    },
    /// Options that contradict each other.
    #[error("sampler `{sampler}`: {reason}")]
    Contradiction {
        /// The sampler.
        sampler: &'static str,
        /// What does not go together, and what would.
        reason: String,
    },
    /// A step count for which there is no schedule.
    #[error("{steps} steps are not possible; ask for 1 to {limit}")]
    Steps {
        /// What was asked for.
        steps: usize,
        /// The most that can be asked for.
        limit: usize,
    },
}
