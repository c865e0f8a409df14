//! Stable Diffusion XL and its refiner (Podell et al. 2023, arXiv 2307.01952): two CLIP text encoders (the refiner has only the second), a UNet
//! that is told a pooled text and sizes besides, a VAE.

mod micro;
mod two_clips;

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;

use self::two_clips::TwoClips;
use super::declared::{self, VAE};
use super::unet_networks::{TEXT_ENCODER, UNET, UNetNetworks};
use super::{Defaults, Family, ModelSpec, Part, SpecError, Strengths};
use crate::conditioning::Conditioner;
use crate::denoiser::{AdditionConfig, Denoiser};
use crate::json::{Config, ConfigError};
use crate::layers::{Parameters, PartSources};
use crate::memory::Working;
use crate::text::{ClipTextConfig, ClipTextEncoder, Pooling, PromptEncoder, StatesFrom};
use crate::tokenizer::Tokenizer;
use crate::vae::VaeConfig;
use crate::weights::WeightsError;
use micro::MicroIds;

const PIPELINES: [&str; 3] = ["StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"];

const TEXT_ENCODER_2: Part = Part { folder: "text_encoder_2", class: "CLIPTextModelWithProjection", layers: Some("text_encoder_2.") };
const BASE_PARTS: [Part; 4] = [TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE];
const REFINER_PARTS: [Part; 3] = [TEXT_ENCODER_2, UNET, VAE];

/// How far pictures are left behind where nobody says.
const STRENGTHS: Strengths = Strengths { image: 0.3, inpaint: 0.9999 };
/// Side of the latents where the UNet's configuration does not say.
const DEFAULT_LATENT_SIDE: usize = 128;
/// The reference pipeline's defaults.
const DEFAULT_STEPS: usize = 50;
const DEFAULT_GUIDANCE_SCALE: f64 = 5.0;

/// One of the two.
#[derive(Debug)]
pub(super) struct StableDiffusionXl {
    name: &'static str,
    parts: &'static [Part],
    tokenizers: &'static [&'static str],
    heeds: &'static [&'static str],
}

/// What draws.
pub(super) static BASE: StableDiffusionXl = StableDiffusionXl {
    name: "sdxl",
    parts: &BASE_PARTS,
    tokenizers: &["tokenizer", "tokenizer_2"],
    heeds: &[
        "prompt_2",
        "negative_prompt_2",
        "original_size",
        "target_size",
        "crops_coords_top_left",
        "negative_original_size",
        "negative_target_size",
        "negative_crops_coords_top_left",
        "denoising_start",
        "denoising_end",
    ],
};

/// What goes over what was drawn.
pub(super) static REFINER: StableDiffusionXl = StableDiffusionXl {
    name: "sdxl-refiner",
    parts: &REFINER_PARTS,
    tokenizers: &["tokenizer_2"],
    heeds: &[
        "original_size",
        "crops_coords_top_left",
        "negative_original_size",
        "negative_crops_coords_top_left",
        "aesthetic_score",
        "negative_aesthetic_score",
        "denoising_start",
        "denoising_end",
    ],
};

impl StableDiffusionXl {
    fn has_first_encoder(&self) -> bool {
        self.parts.len() == BASE_PARTS.len()
    }
}

impl Family for StableDiffusionXl {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pipelines(&self) -> &'static [&'static str] {
        &PIPELINES
    }

    /// The refiner is the one without a first text encoder.
    fn recognises(&self, _folder: &Path, model_index: &Config) -> Result<bool, ConfigError> {
        Ok(declared::is_absent(model_index, TEXT_ENCODER.folder) != self.has_first_encoder())
    }

    fn read(&'static self, folder: &Path, model_index: &Config) -> Result<Box<dyn ModelSpec>, SpecError> {
        declared::check(model_index, self.parts)?;
        let clip = |part: Part, tokenizer| {
            let config = ClipTextConfig::new(&Config::open(folder.join(part.folder).join("config.json"))?)?;
            Ok::<_, SpecError>(Clip { tokenizer: declared::tokenizer(folder, tokenizer, &config)?, config })
        };
        let first = if self.has_first_encoder() { Some(clip(TEXT_ENCODER, "tokenizer")?) } else { None };
        let second = clip(TEXT_ENCODER_2, "tokenizer_2")?;
        let features = first.as_ref().map_or(0, |first| first.config.features) + second.config.features;
        let (unet_file, networks) = UNetNetworks::read(folder, features, "the hidden_size of the text encoders together")?;
        let Some(addition) = networks.unet.addition else {
            return Err(unet_file.unaccepted("addition_embed_type", "text_time").into());
        };
        let ids = micro_ids(addition, second.config.projection_features).ok_or_else(|| {
            let (pooled, each) = (second.config.projection_features, addition.id_features);
            let accepted = format!("{pooled}, the projection_dim of text_encoder_2, and 6 or 5 times {each}, the addition_time_embed_dim");
            unet_file.unaccepted("projection_class_embeddings_input_dim", &accepted)
        })?;
        let zeros_for_absent_negative = model_index.bool("force_zeros_for_empty_prompt")?.unwrap_or(true);
        Ok(Box::new(Spec { family: self, first, second, networks, addition, ids, zeros_for_absent_negative }))
    }
}

/// What is told besides the pooled text, by the number of features that the network reads.
fn micro_ids(addition: AdditionConfig, pooled_features: usize) -> Option<MicroIds> {
    let features = addition.features.checked_sub(pooled_features)?;
    MicroIds::ALL.into_iter().find(|ids| ids.count() * addition.id_features == features)
}

#[derive(Debug)]
struct Clip {
    tokenizer: Arc<Tokenizer>,
    config: ClipTextConfig,
}

#[derive(Debug)]
struct Spec {
    family: &'static StableDiffusionXl,
    first: Option<Clip>,
    second: Clip,
    networks: UNetNetworks,
    addition: AdditionConfig,
    ids: MicroIds,
    zeros_for_absent_negative: bool,
}

impl ModelSpec for Spec {
    fn family(&self) -> &'static str {
        self.family.name
    }

    fn parts(&self) -> &[Part] {
        self.family.parts
    }

    fn tokenizers(&self) -> &[&'static str] {
        self.family.tokenizers
    }

    fn vae_config(&self) -> &VaeConfig {
        &self.networks.vae
    }

    fn concat_channels(&self) -> usize {
        self.networks.concat_channels()
    }

    fn defaults(&self) -> Defaults {
        let pixels = self.networks.default_side_pixels(DEFAULT_LATENT_SIDE);
        Defaults {
            width: pixels,
            height: pixels,
            num_inference_steps: DEFAULT_STEPS,
            guidance_scale: DEFAULT_GUIDANCE_SCALE,
            strength: STRENGTHS,
        }
    }

    fn heeds(&self) -> &'static [&'static str] {
        self.family.heeds
    }

    /// As in the reference, scores are for pictures that there are already.
    fn needs_picture(&self) -> bool {
        self.ids == MicroIds::SizeAndScore
    }

    fn embeds_guidance(&self) -> bool {
        self.networks.embeds_guidance()
    }

    /// Its own autoencoder overflows in half precision; one that was mended says so in its configuration.
    fn part_dtype(&self, folder: &str, compute: DType) -> DType {
        match (folder == VAE.folder && self.networks.vae.force_upcast, compute) {
            (true, DType::F16 | DType::BF16) => DType::F32,
            _ => compute,
        }
    }

    fn denoising_bytes(&self, rows: usize, latent: [usize; 2], working: Working) -> u64 {
        self.networks.unet.call_bytes(rows, latent, working)
    }

    fn conditioner(&self, sources: &dyn PartSources) -> Result<Box<dyn Conditioner>, WeightsError> {
        let encoder = |clip: &Clip, part: Part, pooling, embeddings| {
            let encoder = ClipTextEncoder::new(&clip.config, pooling, &Parameters::of_part(sources, part.folder)?)?;
            let encoder = PromptEncoder::new(Arc::clone(&clip.tokenizer), encoder, StatesFrom::PenultimateLayer);
            Ok::<_, WeightsError>(encoder.with_embeddings_named(embeddings))
        };
        let first = self.first.as_ref().map(|first| encoder(first, TEXT_ENCODER, Pooling::Absent, "clip_l")).transpose()?;
        Ok(Box::new(TwoClips {
            first,
            second: encoder(&self.second, TEXT_ENCODER_2, Pooling::Projected, "clip_g")?,
            context_features: self.networks.unet.context_features(),
            pooled_features: self.second.config.projection_features,
            ids: self.ids,
            id_features: self.addition.id_features,
            sinusoid: self.networks.unet.sinusoid,
            zeros_for_absent_negative: self.zeros_for_absent_negative,
        }))
    }

    fn denoiser(&self, sources: &dyn PartSources) -> Result<Box<dyn Denoiser>, WeightsError> {
        self.networks.denoiser(sources)
    }
}
