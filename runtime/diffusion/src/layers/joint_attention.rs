//! Attention of an image's and a text's tokens to each other, each with projections of its own (Esser et al. 2024).

use candle_core::{Result, Tensor};

use super::{Linear, Parameters, RmsNorm};
use crate::exec::Exec;
use crate::layers::Built;
use crate::ops::{self, Rotation};

/// Epsilon of the normalisation of queries and keys; not configurable in diffusers.
const EPSILON: f64 = 1e-6;

/// The sizes of an attention whose tokens have `heads · head_features` features.
#[derive(Clone, Copy, Debug)]
pub struct JointAttentionShape {
    /// Number of heads.
    pub heads: usize,
    /// Features of one head.
    pub head_features: usize,
    /// Whether queries and keys of each head go through a root-mean-square normalisation.
    pub normed: bool,
}

impl JointAttentionShape {
    /// Features of a token.
    pub fn features(&self) -> usize {
        self.heads * self.head_features
    }
}

/// Queries, keys and values of one kind of tokens.
#[derive(Clone, Debug)]
struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    norms: Option<(RmsNorm, RmsNorm)>,
    shape: JointAttentionShape,
}

/// The names of diffusers for [`Projections`]: query, key, value, and the norms of the first two.
type Names = [&'static str; 5];
const OWN: Names = ["to_q", "to_k", "to_v", "norm_q", "norm_k"];
const ADDED: Names = ["add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"];

impl Projections {
    fn new(shape: JointAttentionShape, [query, key, value, query_norm, key_norm]: Names, parameters: &Parameters<'_>) -> Built<Self> {
        let linear = |name| Linear::new(shape.features(), shape.features(), &parameters.at(name));
        let norm = |name| RmsNorm::new(shape.head_features, EPSILON, &parameters.at(name));
        let norms = if shape.normed { Some((norm(query_norm)?, norm(key_norm)?)) } else { None };
        Ok(Self { query: linear(query)?, key: linear(key)?, value: linear(value)?, norms, shape })
    }

    /// x [B, T, features] → query, key and value of the same shape.
    fn forward(&self, x: &Tensor, exec: &Exec) -> Result<[Tensor; 3]> {
        let (query, key) = (self.query.forward(x, exec)?, self.key.forward(x, exec)?);
        let value = self.value.forward(x, exec)?;
        let Some((query_norm, key_norm)) = &self.norms else { return Ok([query, key, value]) };
        let (batch, tokens, features) = query.dims3()?;
        let by_head = (batch, tokens, self.shape.heads, self.shape.head_features);
        let normed = |x: &Tensor, norm: &RmsNorm| norm.forward(&x.reshape(by_head)?, exec)?.reshape((batch, tokens, features));
        Ok([normed(&query, query_norm)?, normed(&key, key_norm)?, value])
    }
}

/// Attention of the tokens of one sequence to each other: `to_q`, `to_k`, `to_v`, and `to_out.0` where the caller has none of its own.
#[derive(Clone, Debug)]
pub struct TokenAttention {
    projections: Projections,
    out: Option<Linear>,
}

impl TokenAttention {
    /// With an output layer.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(shape: JointAttentionShape, parameters: &Parameters<'_>) -> Built<Self> {
        let out = Linear::new(shape.features(), shape.features(), &parameters.at("to_out.0"))?;
        Ok(Self { out: Some(out), ..Self::without_output(shape, parameters)? })
    }

    /// Without one.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn without_output(shape: JointAttentionShape, parameters: &Parameters<'_>) -> Built<Self> {
        Ok(Self { projections: Projections::new(shape, OWN, parameters)?, out: None })
    }

    /// x [B, T, features] → the same shape.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, rotation: Option<&Rotation>, exec: &Exec) -> Result<Tensor> {
        let mixed = attended(self.projections.forward(x, exec)?, self.projections.shape.heads, rotation, exec)?;
        match &self.out {
            Some(out) => out.forward(&mixed, exec),
            None => Ok(mixed),
        }
    }
}

/// Attention over the tokens of a text and of an image together. The text's come first.
#[derive(Clone, Debug)]
pub struct JointAttention {
    image: Projections,
    text: Projections,
    image_out: Linear,
    /// Absent where nothing follows for the text.
    text_out: Option<Linear>,
}

impl JointAttention {
    /// Parameters in diffusers' names, `to_add_out` only if `text_goes_on`.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(shape: JointAttentionShape, text_goes_on: bool, parameters: &Parameters<'_>) -> Built<Self> {
        let linear = |name| Linear::new(shape.features(), shape.features(), &parameters.at(name));
        Ok(Self {
            image: Projections::new(shape, OWN, parameters)?,
            text: Projections::new(shape, ADDED, parameters)?,
            image_out: linear("to_out.0")?,
            text_out: if text_goes_on { Some(linear("to_add_out")?) } else { None },
        })
    }

    /// image [B, N, features] and text [B, T, features] → both of the same shapes; no text where nothing follows for it.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, image: &Tensor, text: &Tensor, rotation: Option<&Rotation>, exec: &Exec) -> Result<(Tensor, Option<Tensor>)> {
        let (of_image, of_text) = (self.image.forward(image, exec)?, self.text.forward(text, exec)?);
        let joint = |place: usize| Tensor::cat(&[&of_text[place], &of_image[place]], 1);
        let mixed = attended([joint(0)?, joint(1)?, joint(2)?], self.image.shape.heads, rotation, exec)?;
        let (text_tokens, image_tokens) = (text.dim(1)?, image.dim(1)?);
        let image = self.image_out.forward(&mixed.narrow(1, text_tokens, image_tokens)?.contiguous()?, exec)?;
        let text = self.text_out.as_ref().map(|out| out.forward(&mixed.narrow(1, 0, text_tokens)?.contiguous()?, exec)).transpose()?;
        Ok((image, text))
    }
}

fn attended([query, key, value]: [Tensor; 3], heads: usize, rotation: Option<&Rotation>, exec: &Exec) -> Result<Tensor> {
    let (query, key) = match rotation {
        Some(rotation) => (ops::rotary(&query, rotation, heads, exec.form())?, ops::rotary(&key, rotation, heads, exec.form())?),
        None => (query, key),
    };
    ops::attention(&query, &key, &value, heads, exec.form())
}
