//! Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and any network of their shape: one CLIP text encoder, a UNet with cross-attention, a
//! VAE. What tells the versions apart is the text encoder: OpenAI's CLIP in the first, OpenCLIP in the second. Which layer it is read at, and
//! what the UNet predicts, are in their configurations.

use std::path::Path;
use std::sync::Arc;

use super::single_clip::SingleClip;
use super::{Defaults, Family, ModelSpec, Part, SpecError, declared};
use crate::conditioning::Conditioner;
use crate::denoiser::{Denoiser, UNet, UNetConfig};
use crate::json::{Config, ConfigError};
use crate::layers::{Parameters, PartSources};
use crate::ops::Activation;
use crate::text::{ClipTextConfig, ClipTextEncoder, Pooling, PromptEncoder, StatesFrom};
use crate::tokenizer::Tokenizer;
use crate::vae::{Vae, VaeConfig};
use crate::weights::WeightsError;

const PIPELINES: [&str; 5] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
];

const TEXT_ENCODER: Part = Part { folder: "text_encoder", class: "CLIPTextModel", layers: Some("") };
const UNET: Part = Part { folder: "unet", class: "UNet2DConditionModel", layers: Some("") };
const VAE: Part = Part { folder: "vae", class: "AutoencoderKL", layers: None };
const PARTS: [Part; 3] = [TEXT_ENCODER, UNET, VAE];

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
        let unet_file = Config::open(folder.join("unet/config.json"))?;
        let unet = UNetConfig::new(&unet_file)?;
        let vae = VaeConfig::new(&Config::open(folder.join("vae/config.json"))?)?;
        if unet.context_features() != text.features {
            let accepted = format!("{}, the hidden_size of the text encoder", text.features);
            return Err(unet_file.unaccepted("cross_attention_dim", &accepted).into());
        }
        if unet.addition.is_some() {
            return Err(unet_file.unaccepted("addition_embed_type", "null, as this pipeline has nothing to add").into());
        }
        declared::latents_fit(&unet_file, &unet, &vae)?;
        let tokenizer = declared::tokenizer(folder, "tokenizer", &text)?;
        Ok(Box::new(Spec { family: self, tokenizer, text, unet, vae }))
    }
}

#[derive(Debug)]
struct Spec {
    family: &'static StableDiffusion,
    tokenizer: Arc<Tokenizer>,
    text: ClipTextConfig,
    unet: UNetConfig,
    vae: VaeConfig,
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

    fn latent_channels(&self) -> usize {
        self.vae.latent_channels
    }

    fn concat_channels(&self) -> usize {
        self.unet.in_channels - self.vae.latent_channels
    }

    fn latent_scale(&self) -> usize {
        self.vae.scale()
    }

    fn defaults(&self) -> Defaults {
        let pixels = declared::default_side(&self.unet, self.family.latent_side) * self.vae.scale();
        let (num_inference_steps, guidance_scale) = match self.embeds_guidance() {
            true => (DEFAULT_DISTILLED_STEPS, DEFAULT_DISTILLED_GUIDANCE_SCALE),
            false => (DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE),
        };
        Defaults { width: pixels, height: pixels, num_inference_steps, guidance_scale }
    }

    fn embeds_guidance(&self) -> bool {
        self.unet.guidance_features.is_some()
    }

    fn heeds(&self) -> &'static [&'static str] {
        &[]
    }

    fn conditioner(&self, sources: &dyn PartSources) -> Result<Box<dyn Conditioner>, WeightsError> {
        let encoder = ClipTextEncoder::new(&self.text, Pooling::Absent, &Parameters::of_part(sources, TEXT_ENCODER.folder)?)?;
        let encoder = PromptEncoder::new(Arc::clone(&self.tokenizer), encoder, StatesFrom::LastLayer);
        Ok(Box::new(SingleClip { encoder }))
    }

    fn denoiser(&self, sources: &dyn PartSources) -> Result<Box<dyn Denoiser>, WeightsError> {
        Ok(Box::new(UNet::new(&self.unet, &Parameters::of_part(sources, UNET.folder)?)?))
    }

    fn vae(&self, sources: &dyn PartSources) -> Result<Vae, WeightsError> {
        Vae::new(&self.vae, &Parameters::of_part(sources, VAE.folder)?)
    }
}
