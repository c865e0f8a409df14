//! Model families: which configuration files make which networks. The only place that names families.

mod adapter;
mod sd15;

use std::path::Path;

pub(crate) use adapter::of_adapter;

use crate::denoiser::Denoiser;
use crate::json::{Config, ConfigError};
use crate::layers::ParameterSource;
use crate::text::ClipTextEncoder;
use crate::vae::Vae;
use crate::weights::WeightsError;

/// One part of a model: a folder in diffusers' layout with a configuration and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its folder, and its key in `model_index.json`.
    pub folder: &'static str,
    /// The class of the reference that it is, by name.
    pub class: &'static str,
}

/// The parts in the order they are loaded: work on a prompt can start before the rest is there.
pub const PARTS: [Part; 3] = [
    Part { folder: "text_encoder", class: "CLIPTextModel" },
    Part { folder: "unet", class: "UNet2DConditionModel" },
    Part { folder: "vae", class: "AutoencoderKL" },
];

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
}

/// Everything a family's configuration files say, checked against each other.
pub trait ModelSpec: Send + Sync + std::fmt::Debug {
    /// The family's name, as manifests spell it.
    fn family(&self) -> &'static str;
    /// Channels of the latents.
    fn latent_channels(&self) -> usize;
    /// Channels that the denoiser reads beside the latents: 0, or those of an inpainting's mask and masked picture.
    fn concat_channels(&self) -> usize;
    /// Pixels per latent position, along each side.
    fn latent_scale(&self) -> usize;
    /// The longest text, in tokens.
    fn text_tokens(&self) -> usize;
    /// Number of different tokens.
    fn text_vocabulary(&self) -> usize;
    /// What requests get where they do not say.
    fn defaults(&self) -> Defaults;

    /// Builds the text encoder.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    fn text_encoder(&self, source: &dyn ParameterSource) -> Result<ClipTextEncoder, WeightsError>;

    /// Builds the denoiser.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    fn denoiser(&self, source: &dyn ParameterSource) -> Result<Box<dyn Denoiser>, WeightsError>;

    /// Builds the autoencoder.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    fn vae(&self, source: &dyn ParameterSource) -> Result<Vae, WeightsError>;
}

/// A family: how it is recognised and read. Plain data and constructors, no state.
pub trait Family: Send + Sync + std::fmt::Debug {
    /// The name, as manifests spell it.
    fn name(&self) -> &'static str;

    /// Whether a pipeline's declaration is of this family.
    fn matches(&self, model_index: &Config) -> bool;

    /// Reads the configurations of the parts below `folder`.
    ///
    /// # Errors
    /// Naming file, key and value that cannot be read or are not served.
    fn read(&self, folder: &Path) -> Result<Box<dyn ModelSpec>, ConfigError>;
}

/// The family that an embedding is for, where the names of its tensors tell: one tensor for each of several text encoders.
pub fn of_embedding_tensors<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let names: Vec<&str> = names.collect();
    match (names.contains(&"clip_g"), names.contains(&"t5xxl")) {
        (_, true) => Some("sd3"),
        (true, false) => Some("sdxl"),
        (false, false) => None,
    }
}

/// All families. The order must not matter.
pub static FAMILIES: &[&dyn Family] = &[&sd15::Sd15];

/// Finds the family that `model_index.json` declares.
///
/// # Errors
/// When the declared pipeline, or a part's class, is not served.
pub fn detect(model_index: &Config) -> Result<&'static dyn Family, ConfigError> {
    let Some(family) = FAMILIES.iter().find(|family| family.matches(model_index)) else {
        return Err(model_index
            .unaccepted("_class_name", "StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline"));
    };
    for part in PARTS {
        match model_index.strings(part.folder)?.as_deref() {
            Some([_, class]) if class == part.class => {}
            Some(_) => return Err(model_index.unaccepted(part.folder, part.class)),
            None => return Err(model_index.missing(part.folder, part.class)),
        }
    }
    Ok(*family)
}
