//! The text half of CLIP (Radford et al. 2021): transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.

use candle_core::{Result, Tensor};

use super::ClipTextConfig;
use super::clip_config::EndToken;
use crate::exec::Exec;
use crate::layers::Built;
use crate::layers::{LayerNorm, Linear, Parameters};
use crate::ops::{self, Activation};

/// Which layer's output stands for a text's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatesFrom {
    /// The last one's, through the final normalisation.
    LastLayer,
    /// That of the one before, as it is.
    PenultimateLayer,
}

/// Whether and how the token that ends a text becomes one vector for the whole of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// It does not.
    Absent,
    /// As the last layer and the final normalisation leave it.
    Plain,
    /// Through the linear layer `text_projection`.
    Projected,
}

/// What the encoder says of a text.
#[derive(Clone, Debug)]
pub struct ClipStates {
    /// [1, T, features].
    pub tokens: Tensor,
    /// [1, P], unless the pooling is [`Pooling::Absent`]. No layer is left out of it.
    pub pooled: Option<Tensor>,
}

/// The encoder with its parameters.
#[derive(Clone, Debug)]
pub struct ClipTextEncoder {
    vocabulary: usize,
    features: usize,
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    pooling: Pooling,
    projection: Option<Linear>,
    end: EndToken,
}

impl StatesFrom {
    /// Layers whose output is never asked for.
    fn left_out(self) -> usize {
        match self {
            Self::LastLayer => 0,
            Self::PenultimateLayer => 1,
        }
    }
}

impl ClipTextEncoder {
    /// Builds the encoder from parameters in transformers' names.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(config: &ClipTextConfig, pooling: Pooling, parameters: &Parameters<'_>) -> Built<Self> {
        let projection = match pooling {
            Pooling::Absent | Pooling::Plain => None,
            Pooling::Projected => {
                Some(Linear::without_bias(config.features, config.projection_features, &parameters.at("text_projection"))?)
            }
        };
        let parameters = parameters.at("text_model");
        let embeddings = parameters.at("embeddings");
        let layer = |i| Layer::new(config, &parameters.at("encoder.layers").at(i));
        Ok(Self {
            vocabulary: config.vocabulary,
            features: config.features,
            token_embedding: embeddings.get("token_embedding.weight", &[config.vocabulary, config.features])?,
            position_embedding: embeddings.get("position_embedding.weight", &[config.tokens, config.features])?,
            layers: (0..config.layers).map(layer).collect::<Built<_>>()?,
            final_norm: LayerNorm::new(config.features, config.epsilon, &parameters.at("final_layer_norm"))?,
            pooling,
            projection,
            end: config.end,
        })
    }

    /// The largest `skip` of [`Self::forward`].
    pub fn max_skip(&self, from: StatesFrom) -> usize {
        self.layers.len() - from.left_out().min(self.layers.len())
    }

    /// Features of a token.
    pub fn features(&self) -> usize {
        self.features
    }

    /// How many token ids have an embedding.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Token ids of one text (T ≤ the longest) → states in the compute dtype.
    ///
    /// Ids from [`Self::vocabulary`] on are rows of `vectors` [n, features], which has the compute dtype, too. `skip` leaves out that many of
    /// the last layers, beside those that `from` leaves out: diffusers' `clip_skip`.
    ///
    /// # Errors
    /// When a token has no embedding, the text is too long, or `skip` exceeds the number of layers.
    pub fn forward(&self, tokens: &[u32], vectors: Option<&Tensor>, from: StatesFrom, skip: usize, exec: &Exec) -> Result<ClipStates> {
        let Some(last) = self.layers.len().checked_sub(skip + from.left_out()) else {
            candle_core::bail!("cannot skip {skip} of {} layers", self.layers.len());
        };
        let embedded = match vectors {
            Some(vectors) => self.embedded_with(tokens, vectors, exec)?,
            None => self.token_embedding.index_select(&Tensor::new(tokens, &exec.device)?, 0)?,
        };
        let mut x = (embedded + self.position_embedding.narrow(0, 0, tokens.len())?)?.unsqueeze(0)?;
        for layer in &self.layers[..last] {
            x = layer.forward(&x, exec)?;
        }
        let states = match from {
            StatesFrom::LastLayer => self.final_norm.forward(&x, exec)?,
            StatesFrom::PenultimateLayer => x.clone(),
        };
        let pooled = match self.pooling {
            Pooling::Absent => None,
            Pooling::Plain | Pooling::Projected => Some(self.pooled(x, last, self.end.place(tokens), exec)?),
        };
        Ok(ClipStates { tokens: states, pooled })
    }

    /// The whole network's answer at `place`, where `x` has passed the first `done` layers.
    fn pooled(&self, mut x: Tensor, done: usize, place: usize, exec: &Exec) -> Result<Tensor> {
        for layer in &self.layers[done..] {
            x = layer.forward(&x, exec)?;
        }
        let pooled = self.final_norm.forward(&x, exec)?.narrow(1, place, 1)?.squeeze(1)?;
        match &self.projection {
            Some(projection) => projection.forward(&pooled, exec),
            None => Ok(pooled),
        }
    }

    /// The shared table is left as it is: the rows that are needed of it and the vectors are put side by side, and looked up there.
    fn embedded_with(&self, tokens: &[u32], vectors: &Tensor, exec: &Exec) -> Result<Tensor> {
        // Far below 32 bits by the configuration's bound.
        let vocabulary = self.vocabulary as u32;
        let known: Vec<u32> = tokens.iter().map(|token| if *token < vocabulary { *token } else { 0 }).collect();
        let known = self.token_embedding.index_select(&Tensor::new(known.as_slice(), &exec.device)?, 0)?;
        let count = tokens.len() as u32;
        let place = |(at, token): (u32, &u32)| token.checked_sub(vocabulary).map_or(at, |row| count + row);
        let places: Vec<u32> = (0..).zip(tokens).map(place).collect();
        Tensor::cat(&[&known, vectors], 0)?.index_select(&Tensor::new(places.as_slice(), &exec.device)?, 0)
    }
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    norm2: LayerNorm,
    widen: Linear,
    narrow: Linear,
    activation: Activation,
}

impl Layer {
    fn new(config: &ClipTextConfig, parameters: &Parameters<'_>) -> Built<Self> {
        let features = config.features;
        let projection = |name| Linear::new(features, features, &parameters.at("self_attn").at(name));
        Ok(Self {
            norm1: LayerNorm::new(features, config.epsilon, &parameters.at("layer_norm1"))?,
            query: projection("q_proj")?,
            key: projection("k_proj")?,
            value: projection("v_proj")?,
            output: projection("out_proj")?,
            heads: config.heads,
            norm2: LayerNorm::new(features, config.epsilon, &parameters.at("layer_norm2"))?,
            widen: Linear::new(features, config.inner_features, &parameters.at("mlp.fc1"))?,
            narrow: Linear::new(config.inner_features, features, &parameters.at("mlp.fc2"))?,
            activation: config.activation,
        })
    }

    fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        let normed = self.norm1.forward(x, exec)?;
        let (query, key) = (self.query.forward(&normed, exec)?, self.key.forward(&normed, exec)?);
        let mixed = ops::causal_attention(&query, &key, &self.value.forward(&normed, exec)?, self.heads, exec.form())?;
        let x = (self.output.forward(&mixed, exec)? + x)?;
        let wide = self.widen.forward(&self.norm2.forward(&x, exec)?, exec)?;
        self.narrow.forward(&ops::activate(&wide, self.activation, exec.form())?, exec)? + x
    }
}
