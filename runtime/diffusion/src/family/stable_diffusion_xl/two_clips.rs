//! Conditioning on two CLIP text encoders: their states side by side, and the second one's pooled text beside sizes and scores.

use candle_core::{DType, Result, Tensor};

use super::micro::MicroIds;
use crate::conditioning::{Conditioner, Description, Encoded};
use crate::exec::Exec;
use crate::guidance::Branch;
use crate::layers::{SinusoidOptions, timestep_sinusoid};
use crate::text::{ClipStates, EmbeddingError, EncodeError, EncoderWords, NamedEmbedding, PromptEncoder, PromptSyntax, RequestWords};

#[derive(Debug)]
pub(super) struct TwoClips {
    pub(super) first: Option<PromptEncoder>,
    pub(super) second: PromptEncoder,
    /// Of both encoders' states together.
    pub(super) context_features: usize,
    pub(super) pooled_features: usize,
    pub(super) ids: MicroIds,
    /// Of each number's sinusoid.
    pub(super) id_features: usize,
    pub(super) sinusoid: SinusoidOptions,
    /// `force_zeros_for_empty_prompt`: whether an absent negative prompt is zeros instead of the empty text.
    pub(super) zeros_for_absent_negative: bool,
}

impl TwoClips {
    fn encoders(&self) -> impl Iterator<Item = &PromptEncoder> {
        self.first.iter().chain([&self.second])
    }

    fn zeros(&self, exec: &Exec) -> Result<(Tensor, Tensor)> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, exec.compute, &exec.device);
        Ok((zeros(&[1, self.second.row_tokens(), self.context_features])?, zeros(&[1, self.pooled_features])?))
    }

    /// States side by side, and the pooled text.
    fn encode_texts(&self, asked: &Description<'_>, exec: &Exec) -> std::result::Result<(Tensor, Tensor), EncodeError> {
        let fields = match asked.branch {
            Branch::Positive => ["prompt", "prompt_2"],
            Branch::Negative => ["negative_prompt", "negative_prompt_2"],
        };
        let each = self.encoders().zip(fields).zip(texts(asked)).enumerate();
        let encode = |(at, ((encoder, field), text)): (usize, ((&PromptEncoder, &'static str), &str))| {
            encoder.encode(field, text, asked.syntax, asked.words.of(at), asked.clip_skip, exec)
        };
        let mut states = each.map(encode).collect::<std::result::Result<Vec<_>, _>>()?;
        let longest = states.iter().map(|states| states.tokens.dims()[1]).max().unwrap_or(0);
        for ((at, encoder), states) in self.encoders().enumerate().zip(&mut states) {
            lengthen(encoder, asked.words.of(at), asked.clip_skip, states, longest, exec)?;
        }
        let pooled = states.last_mut().and_then(|last| last.pooled.take());
        let pooled = pooled.ok_or_else(|| candle_core::Error::msg("the second text encoder has no pooled text"))?;
        let tokens: Vec<Tensor> = states.into_iter().map(|states| states.tokens).collect();
        Ok((Tensor::cat(&tokens, 2)?, pooled))
    }

    /// [1, features]: the pooled text, then each number's sinusoid.
    fn vector(&self, pooled: &Tensor, asked: &Description<'_>, exec: &Exec) -> Result<Tensor> {
        let sinusoids = timestep_sinusoid(&self.ids.of(asked), self.id_features, self.sinusoid, &exec.device)?;
        Tensor::cat(&[pooled.to_dtype(DType::F32)?, sinusoids.flatten_all()?.unsqueeze(0)?], 1)
    }
}

/// What each encoder reads. As in the reference, an empty second prompt is the first one, and a lone second encoder reads the first prompt.
fn texts<'a>(asked: &Description<'a>) -> [&'a str; 2] {
    let [first, second, _] = asked.prompts;
    let first = first.unwrap_or_default();
    [first, second.filter(|second| !second.is_empty()).unwrap_or(first)]
}

/// Prompts that make chunks in different numbers are made equally long by empty ones.
fn lengthen(
    encoder: &PromptEncoder,
    words: &EncoderWords,
    clip_skip: usize,
    states: &mut ClipStates,
    tokens: usize,
    exec: &Exec,
) -> std::result::Result<(), EncodeError> {
    if states.tokens.dims()[1] < tokens {
        let empty = encoder.encode("prompt", "", PromptSyntax::Plain, words, clip_skip, exec)?.tokens;
        while states.tokens.dims()[1] < tokens {
            states.tokens = Tensor::cat(&[&states.tokens, &empty], 1)?;
        }
    }
    Ok(())
}

impl Conditioner for TwoClips {
    fn max_clip_skip(&self) -> usize {
        self.encoders().map(PromptEncoder::max_clip_skip).min().unwrap_or(0)
    }

    fn words(&self, embeddings: &[NamedEmbedding], exec: &Exec) -> std::result::Result<RequestWords, EmbeddingError> {
        let words = self.encoders().map(|encoder| encoder.words(embeddings, exec));
        Ok(RequestWords::new(words.collect::<std::result::Result<_, _>>()?))
    }

    fn encode(&self, asked: &Description<'_>, exec: &Exec) -> std::result::Result<Encoded, EncodeError> {
        let is_absent = asked.branch == Branch::Negative && asked.prompts[0].is_none();
        let (states, pooled) = match is_absent && self.zeros_for_absent_negative {
            true => self.zeros(exec)?,
            false => self.encode_texts(asked, exec)?,
        };
        let vector = Some(self.vector(&pooled, asked, exec)?);
        Ok(Encoded { states, vector })
    }
}
