//! Stable Diffusion 1.x (Rombach et al. 2022), and any network of its shape: one CLIP text encoder, a UNet with cross-attention, a VAE.

use std::path::Path;

use super::{Defaults, Family, ModelSpec};
use crate::denoiser::{Denoiser, UNet, UNetConfig};
use crate::json::{Config, ConfigError};
use crate::layers::{ParameterSource, Parameters};
use crate::text::{ClipTextConfig, ClipTextEncoder};
use crate::vae::{Vae, VaeConfig};
use crate::weights::WeightsError;

const NAME: &str = "sd15";
/// One set of parts serves all tasks, whichever pipeline it was saved from.
const PIPELINE_CLASSES: [&str; 3] = ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];

/// Side of the latents where the UNet's configuration does not say.
const DEFAULT_LATENT_SIDE: usize = 64;
/// Sides beyond this are not taken as a default, whatever a configuration says.
const MAX_DEFAULT_LATENT_SIDE: usize = 256;
/// The reference pipeline's defaults.
const DEFAULT_STEPS: usize = 50;
const DEFAULT_GUIDANCE_SCALE: f64 = 7.5;

/// The family.
#[derive(Debug)]
pub(super) struct Sd15;

impl Family for Sd15 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn matches(&self, model_index: &Config) -> bool {
        model_index.class_name().is_ok_and(|name| name.is_some_and(|name| PIPELINE_CLASSES.contains(&name)))
    }

    fn read(&self, folder: &Path) -> Result<Box<dyn ModelSpec>, ConfigError> {
        let text = ClipTextConfig::new(&Config::open(folder.join("text_encoder/config.json"))?)?;
        let unet_file = Config::open(folder.join("unet/config.json"))?;
        let unet = UNetConfig::new(&unet_file)?;
        let vae = VaeConfig::new(&Config::open(folder.join("vae/config.json"))?)?;
        if unet.context_features() != text.features {
            let accepted = format!("{}, the hidden_size of the text encoder", text.features);
            return Err(unet_file.unaccepted("cross_attention_dim", &accepted));
        }
        let latent = vae.latent_channels;
        let inpainting = latent + inpainting_channels(latent);
        if unet.out_channels != latent {
            return Err(unet_file.unaccepted("out_channels", &format!("{latent}, the latent_channels of the VAE")));
        }
        if unet.in_channels != latent && unet.in_channels != inpainting {
            let accepted = format!("{latent}, the latent_channels of the VAE, or {inpainting} for inpainting");
            return Err(unet_file.unaccepted("in_channels", &accepted));
        }
        Ok(Box::new(Spec { text, unet, vae }))
    }
}

/// What an inpainting denoiser reads beside the latents: a mask, and the latents of the picture without what is drawn anew.
fn inpainting_channels(latent_channels: usize) -> usize {
    1 + latent_channels
}

#[derive(Debug)]
struct Spec {
    text: ClipTextConfig,
    unet: UNetConfig,
    vae: VaeConfig,
}

impl ModelSpec for Spec {
    fn family(&self) -> &'static str {
        NAME
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

    fn text_tokens(&self) -> usize {
        self.text.tokens
    }

    fn text_vocabulary(&self) -> usize {
        self.text.vocabulary
    }

    fn defaults(&self) -> Defaults {
        let side = self.unet.sample_size.filter(|side| (1..=MAX_DEFAULT_LATENT_SIDE).contains(side)).unwrap_or(DEFAULT_LATENT_SIDE);
        let pixels = side * self.vae.scale();
        Defaults { width: pixels, height: pixels, num_inference_steps: DEFAULT_STEPS, guidance_scale: DEFAULT_GUIDANCE_SCALE }
    }

    fn text_encoder(&self, source: &dyn ParameterSource) -> Result<ClipTextEncoder, WeightsError> {
        ClipTextEncoder::new(&self.text, &Parameters::new(source))
    }

    fn denoiser(&self, source: &dyn ParameterSource) -> Result<Box<dyn Denoiser>, WeightsError> {
        Ok(Box::new(UNet::new(&self.unet, &Parameters::new(source))?))
    }

    fn vae(&self, source: &dyn ParameterSource) -> Result<Vae, WeightsError> {
        Vae::new(&self.vae, &Parameters::new(source))
    }
}
