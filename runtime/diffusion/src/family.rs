//! Model families: which configuration files make which networks, and what a request says to them. The only place that names families.
//!
//! ```text
//! family::open(folder) ─► ModelSpec        configurations and tokenizers read and checked against each other; no weights
//!        │ parts()                          which folders hold weights, in the order they are loaded
//!        │ conditioner · denoiser · vae     the networks, from whatever answers for the parts' parameters
//! ```
//! A new family is a file here, its line in [`FAMILIES`], and nothing else outside of the networks it is made of.

mod adapter;
mod declared;
mod flux;
mod sd3;
mod single_clip;
mod single_file;
mod stable_diffusion;
mod stable_diffusion_xl;
mod unet_networks;

use std::path::{Path, PathBuf};

use candle_core::DType;

pub(crate) use adapter::{is_of, of_adapter};
pub use single_file::{Recognised, layouts_alone, layouts_within, recognise};

use crate::conditioning::Conditioner;
use crate::denoiser::Denoiser;
use crate::json::{Config, ConfigError};
use crate::layers::{Parameters, PartSources};
use crate::memory::Working;
use crate::sampler::ScheduleRequest;
use crate::tokenizer::TokenizerError;
use crate::vae::{Vae, VaeConfig};
use crate::weights::WeightsError;

/// diffusers' pipelines ask for sides divisible by this, whatever the VAE's scale.
const PIPELINE_SIZE_MULTIPLE: usize = 8;

/// One part of a model: a folder in diffusers' layout with a configuration and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its folder, and its key in `model_index.json`.
    pub folder: &'static str,
    /// The class of the reference that it is, by name.
    pub class: &'static str,
    /// What stands before the names of its layers where adapters name them; `None` where adapters cannot act on it.
    pub layers: Option<&'static str>,
}

/// What requests get where they do not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Solver steps.
    pub num_inference_steps: usize,
    /// Strength of guidance.
    pub guidance_scale: f64,
    /// How far a picture is left behind when it is changed, and when a part of it is drawn anew.
    pub strength: Strengths,
}

/// How far pictures are left behind, 0 to 1, as diffusers' pipelines do where nobody says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strengths {
    /// Image to image.
    pub image: f64,
    /// Inpainting.
    pub inpaint: f64,
}

/// Everything a family's configuration files and tokenizers say, checked against each other.
pub trait ModelSpec: Send + Sync + std::fmt::Debug {
    /// The family's name, as manifests spell it.
    fn family(&self) -> &'static str;
    /// The parts that this model has, in the order they are loaded: text encoders, denoiser, autoencoder. Work on a prompt can start before
    /// the rest is there.
    fn parts(&self) -> &[Part];
    /// The folders of its tokenizers.
    fn tokenizers(&self) -> &[&'static str];
    /// The autoencoder's configuration.
    fn vae_config(&self) -> &VaeConfig;
    /// What requests get where they do not say.
    fn defaults(&self) -> Defaults;
    /// Fields of a request that only some families heed, and this one does, by diffusers' names.
    fn heeds(&self) -> &'static [&'static str];

    /// Channels of the latents.
    fn latent_channels(&self) -> usize {
        self.vae_config().latent_channels
    }

    /// Pixels per latent position, along each side.
    fn latent_scale(&self) -> usize {
        self.vae_config().scale()
    }

    /// Channels that the denoiser reads beside the latents: 0, or those of an inpainting's mask and masked picture.
    fn concat_channels(&self) -> usize {
        0
    }

    /// Both sides of an image are multiples of this, in pixels.
    fn size_multiple(&self) -> usize {
        // Both are powers of two.
        self.latent_scale().max(PIPELINE_SIZE_MULTIPLE)
    }

    /// Whether it only changes pictures, and makes none of noise alone.
    fn needs_picture(&self) -> bool {
        false
    }

    /// Whether the strength of guidance is an input of the denoiser, so that it needs no negative prediction.
    fn embeds_guidance(&self) -> bool {
        false
    }

    /// Whether the denoiser was trained by flow matching, for which there are samplers of its own. Its pipelines also count otherwise which
    /// steps a picture's strength leaves: a step that is begun is run.
    fn is_flow(&self) -> bool {
        false
    }

    /// The longest side of an image that the denoiser knows positions for, in pixels, if there is one.
    fn max_side_pixels(&self) -> Option<usize> {
        None
    }

    /// What a sampler is told of an image with latents of `[height, width]`.
    fn schedule_request(&self, steps: usize, [height, width]: [usize; 2]) -> ScheduleRequest {
        ScheduleRequest { steps, image_tokens: height * width, even_sigmas: false }
    }

    /// The 16 bits that the family is computed in where nobody says: those that its weights are published in.
    fn half_precision(&self) -> DType {
        DType::F16
    }

    /// The precision of a part in a model that is computed in `compute`.
    fn part_dtype(&self, _folder: &str, compute: DType) -> DType {
        compute
    }

    /// Bytes that one call of the denoiser takes beside the weights, over `rows` with latents of `[height, width]`.
    fn denoising_bytes(&self, rows: usize, latent: [usize; 2], working: Working) -> u64;

    /// Builds what turns prompts into conditioning, from the text encoders.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    fn conditioner(&self, sources: &dyn PartSources) -> Result<Box<dyn Conditioner>, WeightsError>;

    /// Builds the denoiser.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    fn denoiser(&self, sources: &dyn PartSources) -> Result<Box<dyn Denoiser>, WeightsError>;

    /// Builds the autoencoder.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    fn vae(&self, sources: &dyn PartSources) -> Result<Vae, WeightsError> {
        Vae::new(self.vae_config(), &Parameters::of_part(sources, declared::VAE.folder)?)
    }
}

/// A family: how it is recognised and read. Plain data and constructors, no state.
pub trait Family: Send + Sync + std::fmt::Debug {
    /// The name, as manifests spell it.
    fn name(&self) -> &'static str;

    /// The classes of the reference's pipelines that its models are saved from. One set of parts serves all tasks.
    fn pipelines(&self) -> &'static [&'static str];

    /// Whether a folder that declares one of [`Self::pipelines`] is of this family. Of all families with that pipeline, exactly one says so.
    ///
    /// # Errors
    /// Naming file, key and value that cannot be read.
    fn recognises(&self, folder: &Path, model_index: &Config) -> Result<bool, ConfigError>;

    /// Reads the configurations and tokenizers below `folder`.
    ///
    /// # Errors
    /// Naming file, key and value that cannot be read or are not served.
    fn read(&'static self, folder: &Path, model_index: &Config) -> Result<Box<dyn ModelSpec>, SpecError>;
}

/// Why a folder's configurations and tokenizers do not make a model.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A configuration cannot be read, or names something that is not served.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tokenizer's files are not usable.
    #[error("{folder}: {source}")]
    Tokenizer {
        /// The tokenizer's folder.
        folder: &'static str,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// A tokenizer and its text encoder do not belong together.
    #[error("{folder}: {reason}; take tokenizer and text encoder from one model")]
    TokenizerMismatch {
        /// The tokenizer's folder.
        folder: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// Two families claim it: a defect of this program.
    #[error("{}: its family is not clear; it could be {}", path.display(), families.join(" or "))]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// All that claim it.
        families: Vec<&'static str>,
    },
}

/// All families. The order must not matter.
pub static FAMILIES: &[&dyn Family] = &[
    &stable_diffusion::VERSION_1,
    &stable_diffusion::VERSION_2,
    &stable_diffusion_xl::BASE,
    &stable_diffusion_xl::REFINER,
    &sd3::SD3,
    &sd3::SD35_MEDIUM,
    &sd3::SD35_LARGE,
    &flux::DEV,
    &flux::SCHNELL,
];

/// Finds the family of a folder by its `model_index.json` and, where several families share a pipeline, the parts' configurations.
///
/// # Errors
/// When the declared pipeline is not served.
pub fn detect(folder: &Path, model_index: &Config) -> Result<&'static dyn Family, SpecError> {
    let class = model_index.class_name()?.unwrap_or_default();
    let sharing = FAMILIES.iter().filter(|family| family.pipelines().contains(&class));
    let mut found = Vec::new();
    for family in sharing {
        if family.recognises(folder, model_index)? {
            found.push(*family);
        }
    }
    match found.as_slice() {
        [family] => Ok(*family),
        [] => {
            let mut served: Vec<_> = FAMILIES.iter().flat_map(|family| family.pipelines()).copied().collect();
            served.sort_unstable();
            served.dedup();
            Err(model_index.unaccepted("_class_name", &served.join(", ")).into())
        }
        several => {
            let families = several.iter().map(|family| family.name()).collect();
            Err(SpecError::Ambiguous { path: folder.to_path_buf(), families })
        }
    }
}

/// Reads all of a folder but its weights and its scheduler.
///
/// # Errors
/// When the declared pipeline, or a part's class, is not served; naming file, key and value.
pub fn open(folder: &Path) -> Result<Box<dyn ModelSpec>, SpecError> {
    let model_index = Config::open(folder.join("model_index.json"))?;
    detect(folder, &model_index)?.read(folder, &model_index)
}
