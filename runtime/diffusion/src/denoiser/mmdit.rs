//! `SD3Transformer2DModel` of diffusers: Stable Diffusion 3 and 3.5 (Esser et al. 2024).

use candle_core::{DType, Result, Tensor};

use super::joint_blocks::{JointBlock, JointBlockOptions};
use super::time_text::TimeTextEmbedding;
use super::{Denoiser, MmditConfig, Row};
use crate::adapter::AdapterRows;
use crate::conditioning::{Conditioning, Encoded};
use crate::exec::Exec;
use crate::layers::{Built, Conv2d, Linear, Modulation, Parameters, modulated};
use crate::ops::Padding;

/// Scale and shift before the last layer.
const OUT_PARTS: usize = 2;

/// The network with its parameters.
#[derive(Clone, Debug)]
pub struct Mmdit {
    patches: Conv2d,
    patch_side: usize,
    /// [side, side, features], of which an image takes the middle.
    positions: Tensor,
    positions_side: usize,
    time_text: TimeTextEmbedding,
    blocks: Vec<JointBlock>,
    modulation_out: Modulation,
    out: Linear,
    out_channels: usize,
}

impl Mmdit {
    /// Builds the network from parameters in diffusers' names.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(config: &MmditConfig, parameters: &Parameters<'_>) -> Built<Self> {
        let (shape, patch, side) = (config.attention(), config.patch_side, config.positions_side);
        let features = shape.features();
        let block = |at: usize| {
            let options =
                JointBlockOptions { own_attention: config.own_attention_blocks.contains(&at), last_of_text: at + 1 == config.blocks };
            JointBlock::new(shape, options, &parameters.at("transformer_blocks").at(at))
        };
        let embed = parameters.at("pos_embed");
        Ok(Self {
            patches: Conv2d::new(config.in_channels, features, patch, (Padding::Even(0), patch), &embed.at("proj"))?,
            patch_side: patch,
            positions: embed.get("pos_embed", &[1, side * side, features])?,
            positions_side: side,
            time_text: TimeTextEmbedding::new(config.time_text(), parameters)?,
            blocks: (0..config.blocks).map(block).collect::<Built<_>>()?,
            modulation_out: Modulation::new(features, OUT_PARTS, &parameters.at("norm_out"))?,
            out: Linear::new(features, patch * patch * config.out_channels, &parameters.at("proj_out"))?,
            out_channels: config.out_channels,
        })
    }

    /// [1, rows·columns, features]: the middle of the table.
    fn positions(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let side = self.positions_side;
        if rows > side || columns > side {
            candle_core::bail!("{rows}×{columns} patches, but positions are known for {side}×{side}");
        }
        let table = self.positions.reshape((side, side, ()))?;
        let middle = table.narrow(0, (side - rows) / 2, rows)?.narrow(1, (side - columns) / 2, columns)?;
        middle.contiguous()?.reshape((1, rows * columns, ()))
    }
}

impl Denoiser for Mmdit {
    fn prepare(&self, encoded: &Encoded, guidance: Option<f64>, exec: &Exec) -> Result<Conditioning> {
        self.time_text.prepare(encoded, guidance, exec)
    }

    fn forward(&self, rows: &[Row<'_>], exec: &Exec) -> Result<Tensor> {
        let exec = &exec.with_adapters(AdapterRows::of(rows.iter().map(|row| row.adapters)));
        let call = self.time_text.gather(rows, exec)?;
        let patches = self.patches.forward(&call.latents, exec)?;
        let (batch, _, high, wide) = patches.dims4()?;
        let tokens = patches.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let mut image = tokens.broadcast_add(&self.positions(high, wide)?)?;
        let mut text = Some(call.text);
        for block in &self.blocks {
            let Some(of_block) = &text else { candle_core::bail!("the text ends before the last block") };
            (image, text) = block.forward(&image, of_block, &call.time_silu, None, exec)?;
        }
        let parts = self.modulation_out.forward(&call.time_silu, exec)?;
        let [scale, shift] = parts.as_slice() else { candle_core::bail!("the last modulation has {} parts", parts.len()) };
        let tokens = self.out.forward(&modulated(&image, scale, shift, exec)?, exec)?;

        let (side, channels) = (self.patch_side, self.out_channels);
        let pixels = tokens.reshape(&[batch, high, wide, side, side, channels])?.permute([0, 5, 1, 3, 2, 4].as_slice())?.contiguous()?;
        pixels.reshape((batch, channels, high * side, wide * side))?.to_dtype(DType::F32)
    }
}
