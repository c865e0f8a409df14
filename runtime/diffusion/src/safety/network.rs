//! The network of open_nsfw: "ResNet-50 1by2", half the channels of a ResNet-50 (He et al. 2015) everywhere, strides in the first
//! convolution of a block. Batch norms are folded into the convolutions before them.

use candle_core::{D, Result, Tensor};

use crate::exec::Exec;
use crate::layers::{Built, Conv2d, Linear, Parameters};
use crate::ops::Padding;

const STEM_CHANNELS: usize = 64;
/// Blocks of each stage, the channels inside them, and the stride of the first; outside they have four times as many channels.
const STAGES: [(usize, usize, usize); 4] = [(3, 32, 1), (4, 64, 2), (6, 128, 2), (3, 256, 2)];
const EXPANSION: usize = 4;
/// Safe for work, and not.
const CLASSES: usize = 2;

#[derive(Debug)]
pub(super) struct Network {
    stem: Conv2d,
    blocks: Vec<Block>,
    classifier: Linear,
}

impl Network {
    pub(super) fn new(parameters: &Parameters<'_>) -> Built<Self> {
        let stem = Conv2d::new(3, STEM_CHANNELS, 7, (Padding::Even(3), 2), &parameters.at("stem"))?;
        let (mut blocks, mut channels) = (Vec::new(), STEM_CHANNELS);
        for (stage, (count, inner, stride)) in STAGES.into_iter().enumerate() {
            for block in 0..count {
                let stride = if block == 0 { stride } else { 1 };
                blocks.push(Block::new(channels, inner, stride, &parameters.at(format!("stages.{stage}.{block}")))?);
                channels = inner * EXPANSION;
            }
        }
        Ok(Self { stem, blocks, classifier: Linear::new(channels, CLASSES, &parameters.at("classifier"))? })
    }

    /// x [1, 3, 224, 224] → probabilities [1, 2].
    pub(super) fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        let x = self.stem.forward(x, exec)?.relu()?;
        // Nothing is below 0 here, so that zeros beyond the edge are never the largest.
        let padded = x.pad_with_zeros(D::Minus1, 0, 1)?.pad_with_zeros(D::Minus2, 0, 1)?;
        let mut x = padded.max_pool2d_with_stride(3, 2)?;
        for block in &self.blocks {
            x = block.forward(&x, exec)?;
        }
        let pooled = x.mean((D::Minus2, D::Minus1))?;
        let logits = self.classifier.forward(&pooled, exec)?;
        let exponentials = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
        exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)
    }
}

/// A bottleneck: fewer channels, a look around, more channels, and what came in.
#[derive(Debug)]
struct Block {
    reduce: Conv2d,
    look: Conv2d,
    expand: Conv2d,
    /// Where what comes in has another shape than what goes out.
    shortcut: Option<Conv2d>,
}

impl Block {
    fn new(channels: usize, inner: usize, stride: usize, parameters: &Parameters<'_>) -> Built<Self> {
        let outer = inner * EXPANSION;
        let strided = |outputs, name| Conv2d::new(channels, outputs, 1, (Padding::Even(0), stride), &parameters.at(name));
        Ok(Self {
            reduce: strided(inner, "reduce")?,
            look: Conv2d::three(inner, inner, &parameters.at("look"))?,
            expand: Conv2d::one(inner, outer, &parameters.at("expand"))?,
            shortcut: (channels != outer || stride != 1).then(|| strided(outer, "shortcut")).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        let y = self.reduce.forward(x, exec)?.relu()?;
        let y = self.look.forward(&y, exec)?.relu()?;
        let y = self.expand.forward(&y, exec)?;
        match &self.shortcut {
            Some(shortcut) => (y + shortcut.forward(x, exec)?)?.relu(),
            None => (y + x)?.relu(),
        }
    }
}
