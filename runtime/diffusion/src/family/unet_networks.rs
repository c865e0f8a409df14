//! What Stable Diffusion 1.x, 2.x and XL have in common: a UNet with cross-attention on text, and the autoencoder of its latents.

use std::path::Path;

use super::{Part, declared};
use crate::denoiser::{Denoiser, UNet, UNetConfig};
use crate::json::{Config, ConfigError};
use crate::layers::{Parameters, PartSources};
use crate::vae::VaeConfig;
use crate::weights::WeightsError;

pub(super) const TEXT_ENCODER: Part = Part { folder: "text_encoder", class: "CLIPTextModel", layers: Some("") };
pub(super) const UNET: Part = Part { folder: "unet", class: "UNet2DConditionModel", layers: Some("") };

/// Sides of latents beyond this are not taken as a default, whatever a configuration says.
const MAX_DEFAULT_LATENT_SIDE: usize = 256;

/// The configurations of both, which fit each other.
#[derive(Debug)]
pub(super) struct UNetNetworks {
    pub(super) unet: UNetConfig,
    pub(super) vae: VaeConfig,
}

impl UNetNetworks {
    /// Reads them, for text of `features`, which are `whose`. Also the UNet's file, for what only some families ask of it.
    ///
    /// # Errors
    /// Naming file, key and value that cannot be read, are not served, or do not fit the text or each other.
    pub(super) fn read(folder: &Path, features: usize, whose: &str) -> Result<(Config, Self), ConfigError> {
        let file = Config::open(folder.join(UNET.folder).join("config.json"))?;
        let unet = UNetConfig::new(&file)?;
        let vae = VaeConfig::new(&Config::open(folder.join(declared::VAE.folder).join("config.json"))?)?;
        declared::is_that(&file, "cross_attention_dim", unet.context_features(), features, whose)?;
        latents_fit(&file, &unet, &vae)?;
        Ok((file, Self { unet, vae }))
    }

    /// Side of the images that the UNet was trained on, in pixels; `usual` is that of the latents where its configuration does not say.
    pub(super) fn default_side_pixels(&self, usual: usize) -> usize {
        let said = self.unet.sample_size.filter(|side| (1..=MAX_DEFAULT_LATENT_SIDE).contains(side));
        said.unwrap_or(usual) * self.vae.scale()
    }

    pub(super) fn concat_channels(&self) -> usize {
        self.unet.in_channels - self.vae.latent_channels
    }

    pub(super) fn embeds_guidance(&self) -> bool {
        self.unet.guidance_features.is_some()
    }

    pub(super) fn denoiser(&self, sources: &dyn PartSources) -> Result<Box<dyn Denoiser>, WeightsError> {
        Ok(Box::new(UNet::new(&self.unet, &Parameters::of_part(sources, UNET.folder)?)?))
    }
}

/// Checks that a UNet's latents are the autoencoder's: it reads those alone, or for inpainting also a mask and the latents of the picture
/// without what is drawn anew.
fn latents_fit(file: &Config, unet: &UNetConfig, vae: &VaeConfig) -> Result<(), ConfigError> {
    let latent = vae.latent_channels;
    let inpainting = latent + 1 + latent;
    declared::is_that(file, "out_channels", unet.out_channels, latent, "the latent_channels of the VAE")?;
    if unet.in_channels != latent && unet.in_channels != inpainting {
        let accepted = format!("{latent}, the latent_channels of the VAE, or {inpainting} for inpainting");
        return Err(file.unaccepted("in_channels", &accepted));
    }
    Ok(())
}
