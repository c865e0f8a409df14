//! Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and any network of their shape: one CLIP text encoder, a UNet with cross-attention, a
//! VAE. What tells the versions apart is the text encoder: OpenAI's CLIP in the first, OpenCLIP in the second. Which layer it is read at, and
//! what the UNet predicts, are in their configurations.

use std::path::Path;
use std::sync::Arc;

use super::declared::{self, VAE};
use super::single_clip::SingleClip;
use super::unet_networks::{TEXT_ENCODER, UNET, UNetNetworks};
use super::{Defaults, Family, ModelSpec, Part, SpecError, Strengths};
use crate::conditioning::Conditioner;
use crate::denoiser::Denoiser;
use crate::json::{Config, ConfigError};
use crate::layers::{Parameters, PartSources};
use crate::memory::Working;
use crate::ops::Activation;
use crate::text::{ClipTextConfig, ClipTextEncoder, Pooling, PromptEncoder, StatesFrom};
use crate::tokenizer::Tokenizer;
use crate::vae::VaeConfig;
use crate::weights::WeightsError;

const PIPELINES: [&str; 5] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
];

const PARTS: [Part; 3] = [TEXT_ENCODER, UNET, VAE];

/// How far pictures are left behind where nobody says.
const STRENGTHS: Strengths = Strengths { image: 0.8, inpaint: 1.0 };
/// The reference pipelines' defaults.
const DEFAULT_STEPS: usize = 50;
const DEFAULT_GUIDANCE_SCALE: f64 = 7.5;
/// Those of the pipelines for models whose guidance is distilled.
const DEFAULT_DISTILLED_STEPS: usize = 4;
const DEFAULT_DISTILLED_GUIDANCE_SCALE: f64 = 8.5;

/// One of the two versions.
#[derive(Debug)]
pub(super) struct StableDiffusion {
    name: &'static str,
    /// Of the text encoder.
    activation: Activation,
    /// Side of the latents where the UNet's configuration does not say.
    latent_side: usize,
}

/// Stable Diffusion 1.x.
pub(super) static VERSION_1: StableDiffusion = StableDiffusion { name: "sd15", activation: Activation::QuickGelu, latent_side: 64 };
/// Stable Diffusion 2.x.
pub(super) static VERSION_2: StableDiffusion = StableDiffusion { name: "sd21", activation: Activation::Gelu, latent_side: 96 };

impl Family for StableDiffusion {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pipelines(&self) -> &'static [&'static str] {
        &PIPELINES
    }

    fn recognises(&self, folder: &Path, _model_index: &Config) -> Result<bool, ConfigError> {
        Ok(ClipTextConfig::new(&Config::open(folder.join("text_encoder/config.json"))?)?.activation == self.activation)
    }

    fn read(&'static self, folder: &Path, model_index: &Config) -> Result<Box<dyn ModelSpec>, SpecError> {
        declared::check(model_index, &PARTS)?;
        let text = ClipTextConfig::new(&Config::open(folder.join("text_encoder/config.json"))?)?;
        let (unet_file, networks) = UNetNetworks::read(folder, text.features, "the hidden_size of the text encoder")?;
        if networks.unet.addition.is_some() {
            return Err(unet_file.unaccepted("addition_embed_type", "null, as this pipeline has nothing to add").into());
        }
        let tokenizer = declared::tokenizer(folder, "tokenizer", &text)?;
        Ok(Box::new(Spec { family: self, tokenizer, text, networks }))
    }
}

#[derive(Debug)]
struct Spec {
    family: &'static StableDiffusion,
    tokenizer: Arc<Tokenizer>,
    text: ClipTextConfig,
    networks: UNetNetworks,
}

impl ModelSpec for Spec {
    fn family(&self) -> &'static str {
        self.family.name
    }

    fn parts(&self) -> &[Part] {
        &PARTS
    }

    fn tokenizers(&self) -> &[&'static str] {
        &["tokenizer"]
    }

    fn vae_config(&self) -> &VaeConfig {
        &self.networks.vae
    }

    fn concat_channels(&self) -> usize {
        self.networks.concat_channels()
    }

    fn defaults(&self) -> Defaults {
        let pixels = self.networks.default_side_pixels(self.family.latent_side);
        let (num_inference_steps, guidance_scale) = match self.embeds_guidance() {
            true => (DEFAULT_DISTILLED_STEPS, DEFAULT_DISTILLED_GUIDANCE_SCALE),
            false => (DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE),
        };
        Defaults { width: pixels, height: pixels, num_inference_steps, guidance_scale, strength: STRENGTHS }
    }

    fn embeds_guidance(&self) -> bool {
        self.networks.embeds_guidance()
    }

    fn heeds(&self) -> &'static [&'static str] {
        &[]
    }

    fn denoising_bytes(&self, rows: usize, latent: [usize; 2], working: Working) -> u64 {
        self.networks.unet.call_bytes(rows, latent, working)
    }

    fn conditioner(&self, sources: &dyn PartSources) -> Result<Box<dyn Conditioner>, WeightsError> {
        let encoder = ClipTextEncoder::new(&self.text, Pooling::Absent, &Parameters::of_part(sources, TEXT_ENCODER.folder)?)?;
        let encoder = PromptEncoder::new(Arc::clone(&self.tokenizer), encoder, StatesFrom::LastLayer);
        Ok(Box::new(SingleClip { encoder }))
    }

    fn denoiser(&self, sources: &dyn PartSources) -> Result<Box<dyn Denoiser>, WeightsError> {
        self.networks.denoiser(sources)
    }
}
