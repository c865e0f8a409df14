//! Flux.1 by Black Forest Labs: CLIP for one vector of the whole text, T5 for its tokens, a transformer of double and single blocks, a VAE of 16
//! channels.
//!
//! The strength of guidance was taught to the network: it is an input of dev's, and schnell has none. A negative prompt takes part only by
//! `true_cfg_scale`.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;

use super::declared::{self, VAE};
use super::{Defaults, Family, ModelSpec, Part, SpecError, Strengths};
use crate::conditioning::{Conditioner, Description, Encoded};
use crate::denoiser::{Denoiser, Flux as Transformer, FluxConfig};
use crate::exec::Exec;
use crate::guidance::Branch;
use crate::json::{Config, ConfigError};
use crate::layers::{Parameters, PartSources};
use crate::memory::Working;
use crate::sampler::ScheduleRequest;
use crate::text::{
    ClipTextConfig, ClipTextEncoder, EmbeddingError, EncodeError, NamedEmbedding, Pooling, PromptEncoder, RequestWords, StatesFrom,
    T5Config, T5Encoder, T5PromptEncoder,
};
use crate::tokenizer::{Tokenizer, UnigramTokenizer};
use crate::vae::VaeConfig;
use crate::weights::WeightsError;

const PIPELINES: [&str; 3] = ["FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"];

const CLIP: Part = Part { folder: "text_encoder", class: "CLIPTextModel", layers: Some("") };
const T5: Part = Part { folder: "text_encoder_2", class: "T5EncoderModel", layers: None };
const TRANSFORMER: Part = Part { folder: "transformer", class: "FluxTransformer2DModel", layers: Some("") };
const PARTS: [Part; 4] = [CLIP, T5, TRANSFORMER, VAE];
const TOKENIZERS: [&str; 2] = ["tokenizer", "tokenizer_2"];

/// How far pictures are left behind where nobody says.
const STRENGTHS: Strengths = Strengths { image: 0.6, inpaint: 0.6 };
/// The reference pipeline's defaults, and the steps that schnell was distilled to.
const DEFAULT_STEPS: usize = 28;
const DEFAULT_STEPS_WITHOUT_GUIDANCE: usize = 4;
const DEFAULT_GUIDANCE_SCALE: f64 = 3.5;
const DEFAULT_SIDE_PIXELS: usize = 1024;
/// T5's tokens where a request does not say.
const DEFAULT_T5_TOKENS: usize = 512;
/// A token holds the latents of a square with this side.
const TOKEN_SIDE: usize = 2;

/// The family.
#[derive(Debug)]
pub(super) struct Flux {
    name: &'static str,
    embeds_guidance: bool,
}

/// The strength of guidance is an input.
pub(super) static DEV: Flux = Flux { name: "flux-dev", embeds_guidance: true };
/// It is not.
pub(super) static SCHNELL: Flux = Flux { name: "flux-schnell", embeds_guidance: false };

impl Family for Flux {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pipelines(&self) -> &'static [&'static str] {
        &PIPELINES
    }

    fn recognises(&self, folder: &Path, _model_index: &Config) -> Result<bool, ConfigError> {
        let config = Config::open(folder.join("transformer/config.json"))?;
        Ok(config.bool("guidance_embeds")?.unwrap_or(false) == self.embeds_guidance)
    }

    fn read(&self, folder: &Path, model_index: &Config) -> Result<Box<dyn ModelSpec>, SpecError> {
        declared::check(model_index, &PARTS)?;
        let config = |part: Part| Config::open(folder.join(part.folder).join("config.json"));
        let clip = ClipTextConfig::new(&config(CLIP)?)?;
        let t5 = T5Config::new(&config(T5)?)?;
        let transformer_file = config(TRANSFORMER)?;
        let transformer = FluxConfig::new(&transformer_file)?;
        let vae = VaeConfig::new(&config(VAE)?)?;
        declared::is_that(
            &transformer_file,
            "in_channels",
            transformer.latent_channels * TOKEN_SIDE * TOKEN_SIDE,
            vae.latent_channels * TOKEN_SIDE * TOKEN_SIDE,
            "four times the latent_channels of the VAE",
        )?;
        declared::is_that(
            &transformer_file,
            "pooled_projection_dim",
            transformer.pooled_features,
            clip.features,
            "the hidden_size of the CLIP text encoder",
        )?;
        declared::is_that(&transformer_file, "joint_attention_dim", transformer.text_features, t5.features, "the d_model of T5")?;
        let clip_tokenizer = declared::tokenizer(folder, TOKENIZERS[0], &clip)?;
        let t5_tokenizer = declared::unigram_tokenizer(folder, TOKENIZERS[1], &t5)?;
        Ok(Box::new(Spec { family: self.name, clip, clip_tokenizer, t5, t5_tokenizer, transformer, vae }))
    }
}

#[derive(Debug)]
struct Spec {
    family: &'static str,
    clip: ClipTextConfig,
    clip_tokenizer: Arc<Tokenizer>,
    t5: T5Config,
    t5_tokenizer: Arc<UnigramTokenizer>,
    transformer: FluxConfig,
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
        &TOKENIZERS
    }

    fn vae_config(&self) -> &VaeConfig {
        &self.vae
    }

    fn defaults(&self) -> Defaults {
        let num_inference_steps = if self.transformer.guidance { DEFAULT_STEPS } else { DEFAULT_STEPS_WITHOUT_GUIDANCE };
        Defaults {
            width: DEFAULT_SIDE_PIXELS,
            height: DEFAULT_SIDE_PIXELS,
            num_inference_steps,
            guidance_scale: DEFAULT_GUIDANCE_SCALE,
            strength: STRENGTHS,
        }
    }

    fn heeds(&self) -> &'static [&'static str] {
        &["prompt_2", "negative_prompt_2", "max_sequence_length", "true_cfg_scale"]
    }

    fn size_multiple(&self) -> usize {
        self.vae.scale() * TOKEN_SIDE
    }

    fn embeds_guidance(&self) -> bool {
        true
    }

    fn is_flow(&self) -> bool {
        true
    }

    fn schedule_request(&self, steps: usize, [height, width]: [usize; 2]) -> ScheduleRequest {
        ScheduleRequest { steps, image_tokens: (height / TOKEN_SIDE) * (width / TOKEN_SIDE), even_sigmas: true }
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
        let clip = ClipTextEncoder::new(&self.clip, Pooling::Plain, &Parameters::of_part(sources, CLIP.folder)?)?;
        let t5 = T5Encoder::new(&self.t5, &Parameters::of_part(sources, T5.folder)?)?;
        Ok(Box::new(PooledAndTokens {
            clip: PromptEncoder::new(Arc::clone(&self.clip_tokenizer), clip, StatesFrom::LastLayer),
            t5: T5PromptEncoder::new(Arc::clone(&self.t5_tokenizer), t5),
        }))
    }

    fn denoiser(&self, sources: &dyn PartSources) -> Result<Box<dyn Denoiser>, WeightsError> {
        Ok(Box::new(Transformer::new(&self.transformer, &Parameters::of_part(sources, TRANSFORMER.folder)?)?))
    }
}

/// CLIP's pooled text and T5's tokens. Weights of the weighted syntax act on neither: CLIP's vector is of the whole text.
#[derive(Debug)]
struct PooledAndTokens {
    clip: PromptEncoder,
    t5: T5PromptEncoder,
}

impl Conditioner for PooledAndTokens {
    /// The reference's pipeline leaves out no layer.
    fn max_clip_skip(&self) -> usize {
        0
    }

    fn words(&self, embeddings: &[NamedEmbedding], exec: &Exec) -> Result<RequestWords, EmbeddingError> {
        Ok(RequestWords::new(vec![self.clip.words(embeddings, exec)?]))
    }

    fn encode(&self, asked: &Description<'_>, exec: &Exec) -> Result<Encoded, EncodeError> {
        let [field, second] = match asked.branch {
            Branch::Positive => ["prompt", "prompt_2"],
            Branch::Negative => ["negative_prompt", "negative_prompt_2"],
        };
        let first = asked.prompts[0].unwrap_or_default();
        // Absent and empty are the same to the reference.
        let text = asked.prompts[1].filter(|text| !text.is_empty()).unwrap_or(first);
        let pooled = self.clip.encode_first(field, first, asked.syntax, asked.words.of(0), 0, exec)?.pooled;
        let length = declared::sequence_length(asked.max_sequence_length, DEFAULT_T5_TOKENS)?;
        let states = self.t5.encode(second, text, asked.syntax, length, exec)?;
        Ok(Encoded { states, vector: pooled.map(|pooled| pooled.to_dtype(DType::F32)).transpose()? })
    }
}
