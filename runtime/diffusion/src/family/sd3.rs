//! Stable Diffusion 3 and 3.5 (Esser et al. 2024): two CLIP text encoders, T5 where there is one, a transformer of joint attention, a VAE of
//! 16 channels.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::declared::{self, VAE};
use super::{Defaults, Family, ModelSpec, Part, SpecError, Strengths};
use crate::conditioning::{Conditioner, Description, Encoded};
use crate::denoiser::{Denoiser, Mmdit, MmditConfig};
use crate::exec::Exec;
use crate::guidance::Branch;
use crate::json::{Config, ConfigError};
use crate::layers::{Parameters, PartSources};
use crate::memory::Working;
use crate::sampler::ScheduleRequest;
use crate::text::{
    ClipStates, ClipTextConfig, ClipTextEncoder, EmbeddingError, EncodeError, NamedEmbedding, Pooling, PromptEncoder, RequestWords,
    StatesFrom, T5Config, T5Encoder, T5PromptEncoder,
};
use crate::tokenizer::{Tokenizer, UnigramTokenizer};
use crate::vae::VaeConfig;
use crate::weights::WeightsError;

const PIPELINES: [&str; 3] = ["StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"];

const CLIP: Part = Part { folder: "text_encoder", class: "CLIPTextModelWithProjection", layers: Some("") };
const CLIP_2: Part = Part { folder: "text_encoder_2", class: "CLIPTextModelWithProjection", layers: Some("text_encoder_2.") };
const T5: Part = Part { folder: "text_encoder_3", class: "T5EncoderModel", layers: None };
const TRANSFORMER: Part = Part { folder: "transformer", class: "SD3Transformer2DModel", layers: Some("") };
const PARTS: [Part; 5] = [CLIP, CLIP_2, T5, TRANSFORMER, VAE];
const TOKENIZERS: [&str; 3] = ["tokenizer", "tokenizer_2", "tokenizer_3"];

/// How far pictures are left behind where nobody says.
const STRENGTHS: Strengths = Strengths { image: 0.6, inpaint: 0.6 };
/// The reference pipeline's defaults.
const DEFAULT_STEPS: usize = 28;
const DEFAULT_GUIDANCE_SCALE: f64 = 7.0;
/// T5's tokens where a request does not say.
const DEFAULT_T5_TOKENS: usize = 256;
/// Sides of latents beyond this are not taken as a default, whatever a configuration says.
const MAX_DEFAULT_LATENT_SIDE: usize = 256;
/// Stable Diffusion 3.5 large has 38 blocks, the others 24.
const LARGE_BLOCKS: usize = 38;

/// The family, by what tells its transformer from the others'.
#[derive(Debug)]
pub(super) struct Sd3 {
    name: &'static str,
    is_ours: fn(&MmditConfig) -> bool,
}

/// Stable Diffusion 3 medium: queries and keys are not normalised.
pub(super) static SD3: Sd3 = Sd3 { name: "sd3", is_ours: |config| !config.normed };
/// Stable Diffusion 3.5 medium, and what else normalises them and is not large.
pub(super) static SD35_MEDIUM: Sd3 = Sd3 { name: "sd35-medium", is_ours: |config| config.normed && !is_large(config) };
/// Stable Diffusion 3.5 large and large-turbo, which differ in their weights and in what is asked of them.
pub(super) static SD35_LARGE: Sd3 = Sd3 { name: "sd35-large", is_ours: |config| config.normed && is_large(config) };

/// No block of the large ones has a second attention; some of medium's have.
fn is_large(config: &MmditConfig) -> bool {
    config.own_attention_blocks.is_empty() || config.blocks >= LARGE_BLOCKS
}

impl Family for Sd3 {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pipelines(&self) -> &'static [&'static str] {
        &PIPELINES
    }

    fn recognises(&self, folder: &Path, _model_index: &Config) -> Result<bool, ConfigError> {
        Ok((self.is_ours)(&MmditConfig::new(&Config::open(folder.join("transformer/config.json"))?)?))
    }

    fn read(&self, folder: &Path, model_index: &Config) -> Result<Box<dyn ModelSpec>, SpecError> {
        let has_t5 = !declared::is_absent(model_index, T5.folder);
        let parts: Vec<Part> = PARTS.into_iter().filter(|part| has_t5 || *part != T5).collect();
        declared::check(model_index, &parts)?;
        let config = |part: Part| Config::open(folder.join(part.folder).join("config.json"));
        let clips = [ClipTextConfig::new(&config(CLIP)?)?, ClipTextConfig::new(&config(CLIP_2)?)?];
        let transformer_file = config(TRANSFORMER)?;
        let transformer = MmditConfig::new(&transformer_file)?;
        let vae = VaeConfig::new(&config(VAE)?)?;
        declared::is_that(
            &transformer_file,
            "in_channels",
            transformer.in_channels,
            vae.latent_channels,
            "the latent_channels of the VAE",
        )?;
        declared::is_that(
            &transformer_file,
            "out_channels",
            transformer.out_channels,
            vae.latent_channels,
            "the latent_channels of the VAE",
        )?;
        let pooled = clips[0].projection_features + clips[1].projection_features;
        declared::is_that(
            &transformer_file,
            "pooled_projection_dim",
            transformer.pooled_features,
            pooled,
            "the projection_dim of both CLIP text encoders together",
        )?;
        let beside = clips[0].features + clips[1].features;
        if transformer.text_features < beside {
            let accepted = format!("at least {beside}, the hidden_size of both CLIP text encoders together");
            return Err(transformer_file.unaccepted("joint_attention_dim", &accepted).into());
        }
        let tokenizers = [declared::tokenizer(folder, TOKENIZERS[0], &clips[0])?, declared::tokenizer(folder, TOKENIZERS[1], &clips[1])?];
        let t5 = match has_t5 {
            true => {
                let t5 = T5Config::new(&config(T5)?)?;
                declared::is_that(&transformer_file, "joint_attention_dim", transformer.text_features, t5.features, "the d_model of T5")?;
                Some((declared::unigram_tokenizer(folder, TOKENIZERS[2], &t5)?, t5))
            }
            false => None,
        };
        Ok(Box::new(Spec { family: self.name, parts, clips, tokenizers, t5, transformer, vae }))
    }
}

#[derive(Debug)]
struct Spec {
    family: &'static str,
    parts: Vec<Part>,
    clips: [ClipTextConfig; 2],
    tokenizers: [Arc<Tokenizer>; 2],
    t5: Option<(Arc<UnigramTokenizer>, T5Config)>,
    transformer: MmditConfig,
    vae: VaeConfig,
}

impl ModelSpec for Spec {
    fn family(&self) -> &'static str {
        self.family
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn tokenizers(&self) -> &[&'static str] {
        if self.t5.is_some() { &TOKENIZERS } else { &TOKENIZERS[..2] }
    }

    fn vae_config(&self) -> &VaeConfig {
        &self.vae
    }

    fn defaults(&self) -> Defaults {
        let side = self.transformer.sample_size.min(MAX_DEFAULT_LATENT_SIDE) * self.vae.scale();
        Defaults {
            width: side,
            height: side,
            num_inference_steps: DEFAULT_STEPS,
            guidance_scale: DEFAULT_GUIDANCE_SCALE,
            strength: STRENGTHS,
        }
    }

    fn heeds(&self) -> &'static [&'static str] {
        &["prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3", "max_sequence_length"]
    }

    fn size_multiple(&self) -> usize {
        self.vae.scale() * self.transformer.patch_side
    }

    fn is_flow(&self) -> bool {
        true
    }

    fn max_side_pixels(&self) -> Option<usize> {
        Some(self.transformer.positions_side * self.transformer.patch_side * self.vae.scale())
    }

    fn schedule_request(&self, steps: usize, [height, width]: [usize; 2]) -> ScheduleRequest {
        let patch = self.transformer.patch_side;
        ScheduleRequest { steps, image_tokens: (height / patch) * (width / patch), even_sigmas: false }
    }

    fn half_precision(&self) -> DType {
        DType::BF16
    }

    fn part_dtype(&self, folder: &str, compute: DType) -> DType {
        declared::t5_dtype(folder == T5.folder, compute)
    }

    fn denoising_bytes(&self, rows: usize, latent: [usize; 2], working: Working) -> u64 {
        self.transformer.call_bytes(rows, latent, working)
    }

    fn conditioner(&self, sources: &dyn PartSources) -> Result<Box<dyn Conditioner>, WeightsError> {
        let clip = |at: usize, part: Part, embeddings| {
            let encoder = ClipTextEncoder::new(&self.clips[at], Pooling::Projected, &Parameters::of_part(sources, part.folder)?)?;
            let encoder = PromptEncoder::new(Arc::clone(&self.tokenizers[at]), encoder, StatesFrom::PenultimateLayer);
            Ok::<_, WeightsError>(encoder.with_embeddings_named(embeddings))
        };
        let clips = [clip(0, CLIP, "clip_l")?, clip(1, CLIP_2, "clip_g")?];
        let t5 = match &self.t5 {
            Some((tokenizer, config)) => {
                let encoder = T5Encoder::new(config, &Parameters::of_part(sources, T5.folder)?)?;
                Some(T5PromptEncoder::new(Arc::clone(tokenizer), encoder))
            }
            None => None,
        };
        Ok(Box::new(TripleText { clips, t5, features: self.transformer.text_features }))
    }

    fn denoiser(&self, sources: &dyn PartSources) -> Result<Box<dyn Denoiser>, WeightsError> {
        Ok(Box::new(Mmdit::new(&self.transformer, &Parameters::of_part(sources, TRANSFORMER.folder)?)?))
    }
}

/// The CLIP encoders' states side by side, widened with zeros to T5's, and T5's after them; zeros in its place where there is none.
#[derive(Debug)]
struct TripleText {
    clips: [PromptEncoder; 2],
    t5: Option<T5PromptEncoder>,
    /// Of a token as the denoiser reads it.
    features: usize,
}

/// The request's fields of each branch, for messages.
const FIELDS: [[&str; 3]; 2] = [["prompt", "prompt_2", "prompt_3"], ["negative_prompt", "negative_prompt_2", "negative_prompt_3"]];

impl Conditioner for TripleText {
    fn max_clip_skip(&self) -> usize {
        self.clips[0].max_clip_skip().min(self.clips[1].max_clip_skip())
    }

    fn words(&self, embeddings: &[NamedEmbedding], exec: &Exec) -> Result<RequestWords, EmbeddingError> {
        let words = self.clips.iter().map(|clip| clip.words(embeddings, exec)).collect::<Result<_, _>>()?;
        Ok(RequestWords::new(words))
    }

    fn encode(&self, asked: &Description<'_>, exec: &Exec) -> Result<Encoded, EncodeError> {
        let fields = FIELDS[usize::from(asked.branch == Branch::Negative)];
        let first = asked.prompts[0].unwrap_or_default();
        // Absent and empty are the same to the reference.
        let text = |at: usize| asked.prompts[at].filter(|text| !text.is_empty()).unwrap_or(first);
        let clip = |at: usize| self.clips[at].encode_first(fields[at], text(at), asked.syntax, asked.words.of(at), asked.clip_skip, exec);
        let states = [clip(0)?, clip(1)?];
        let tokens = Tensor::cat(&[&states[0].tokens, &states[1].tokens], 2)?;
        let (_, _, features) = tokens.dims3()?;
        let tokens = tokens.pad_with_zeros(2, 0, self.features.saturating_sub(features))?;
        let length = declared::sequence_length(asked.max_sequence_length, DEFAULT_T5_TOKENS)?;
        let of_t5 = match &self.t5 {
            Some(t5) => t5.encode(fields[2], text(2), asked.syntax, length, exec)?,
            None => Tensor::zeros((1, length, self.features), exec.compute, &exec.device)?,
        };
        Ok(Encoded { states: Tensor::cat(&[tokens, of_t5], 1)?, vector: pooled(&states)? })
    }
}

fn pooled(states: &[ClipStates; 2]) -> candle_core::Result<Option<Tensor>> {
    match states.each_ref().map(|states| states.pooled.as_ref()) {
        [Some(first), Some(second)] => Tensor::cat(&[first, second], 1)?.to_dtype(DType::F32).map(Some),
        _ => Ok(None),
    }
}
