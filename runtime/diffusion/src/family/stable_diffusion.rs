//! Stable Diffusion 1.x (Rombach et al. 2022), and any network of its shape: one CLIP text encoder, a UNet with cross-attention, a VAE.

use std::path::Path;
use std::sync::Arc;

use super::single_clip::SingleClip;
use super::{Defaults, Family, ModelSpec, Part, SpecError, declared};
use crate::conditioning::Conditioner;
use crate::denoiser::{Denoiser, UNet, UNetConfig};
use crate::json::{Config, ConfigError};
use crate::layers::{Parameters, PartSources};
use crate::text::{ClipTextConfig, ClipTextEncoder, Pooling, PromptEncoder, StatesFrom};
use crate::tokenizer::Tokenizer;
use crate::vae::{Vae, VaeConfig};
use crate::weights::WeightsError;

const PIPELINES: [&str; 3] = ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];

const TEXT_ENCODER: Part = Part { folder: "text_encoder", class: "CLIPTextModel", layers: Some("") };
const UNET: Part = Part { folder: "unet", class: "UNet2DConditionModel", layers: Some("") };
const VAE: Part = Part { folder: "vae", class: "AutoencoderKL", layers: None };
const PARTS: [Part; 3] = [TEXT_ENCODER, UNET, VAE];

/// Side of the latents where the UNet's configuration does not say.
const DEFAULT_LATENT_SIDE: usize = 64;
/// Sides beyond this are not taken as a default, whatever a configuration says.
const MAX_DEFAULT_LATENT_SIDE: usize = 256;
/// The reference pipeline's defaults.
const DEFAULT_STEPS: usize = 50;
const DEFAULT_GUIDANCE_SCALE: f64 = 7.5;

/// The family.
#[derive(Debug)]
pub(super) struct StableDiffusion {
    name: &'static str,
}

/// Stable Diffusion 1.x.
pub(super) static SD15: StableDiffusion = StableDiffusion { name: "sd15" };

impl Family for StableDiffusion {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pipelines(&self) -> &'static [&'static str] {
        &PIPELINES
    }

    fn recognises(&self, _folder: &Path, _model_index: &Config) -> Result<bool, ConfigError> {
        Ok(true)
    }

    fn read(&self, folder: &Path, model_index: &Config) -> Result<Box<dyn ModelSpec>, SpecError> {
        declared::check(model_index, &PARTS)?;
        let text = ClipTextConfig::new(&Config::open(folder.join("text_encoder/config.json"))?)?;
        let unet_file = Config::open(folder.join("unet/config.json"))?;
        let unet = UNetConfig::new(&unet_file)?;
        let vae = VaeConfig::new(&Config::open(folder.join("vae/config.json"))?)?;
        if unet.context_features() != text.features {
            let accepted = format!("{}, the hidden_size of the text encoder", text.features);
            return Err(unet_file.unaccepted("cross_attention_dim", &accepted).into());
        }
        declared::latents_fit(&unet_file, &unet, &vae)?;
        let tokenizer = declared::tokenizer(folder, "tokenizer", &text)?;
        Ok(Box::new(Spec { family: self.name, tokenizer, text, unet, vae }))
    }
}

#[derive(Debug)]
struct Spec {
    family: &'static str,
    tokenizer: Arc<Tokenizer>,
    text: ClipTextConfig,
    unet: UNetConfig,
    vae: VaeConfig,
}

impl ModelSpec for Spec {
    fn family(&self) -> &'static str {
        self.family
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
        let side = self.unet.sample_size.filter(|side| (1..=MAX_DEFAULT_LATENT_SIDE).contains(side)).unwrap_or(DEFAULT_LATENT_SIDE);
        let pixels = side * self.vae.scale();
        Defaults { width: pixels, height: pixels, num_inference_steps: DEFAULT_STEPS, guidance_scale: DEFAULT_GUIDANCE_SCALE }
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
