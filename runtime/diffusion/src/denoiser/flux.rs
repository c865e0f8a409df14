//! `FluxTransformer2DModel` of diffusers: Flux.1 by Black Forest Labs.

use candle_core::{DType, Device, Result, Tensor};

use super::flux_blocks::SingleBlock;
use super::flux_config::{AXES, POSITIONS_PER_TOKEN};
use super::joint_blocks::{JointBlock, JointBlockOptions};
use super::time_text::TimeTextEmbedding;
use super::{Denoiser, FluxConfig, Row};
use crate::adapter::AdapterRows;
use crate::conditioning::{Conditioning, Encoded};
use crate::exec::Exec;
use crate::layers::{Built, Linear, Modulation, Parameters, modulated};
use crate::ops::Rotation;

/// Scale and shift before the last layer.
const OUT_PARTS: usize = 2;
/// The largest period of the rotary positions, in tokens.
const LARGEST_PERIOD: f64 = 10_000.0;

/// The network with its parameters.
#[derive(Clone, Debug)]
pub struct Flux {
    tokens_in: Linear,
    time_text: TimeTextEmbedding,
    double_blocks: Vec<JointBlock>,
    single_blocks: Vec<SingleBlock>,
    modulation_out: Modulation,
    tokens_out: Linear,
    axis_features: [usize; AXES],
}

impl Flux {
    /// Builds the network from parameters in diffusers' names.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(config: &FluxConfig, parameters: &Parameters<'_>) -> Built<Self> {
        let shape = config.attention();
        let (features, channels) = (shape.features(), config.latent_channels * POSITIONS_PER_TOKEN);
        let double = |at| JointBlock::new(shape, JointBlockOptions::default(), &parameters.at("transformer_blocks").at(at));
        let single = |at| SingleBlock::new(shape, &parameters.at("single_transformer_blocks").at(at));
        Ok(Self {
            tokens_in: Linear::new(channels, features, &parameters.at("x_embedder"))?,
            time_text: TimeTextEmbedding::new(config.time_text(), parameters)?,
            double_blocks: (0..config.double_blocks).map(double).collect::<Built<_>>()?,
            single_blocks: (0..config.single_blocks).map(single).collect::<Built<_>>()?,
            modulation_out: Modulation::new(features, OUT_PARTS, &parameters.at("norm_out"))?,
            tokens_out: Linear::new(features, channels, &parameters.at("proj_out"))?,
            axis_features: config.axis_features,
        })
    }

    /// Text tokens stand at the origin, the image's on its rows and columns.
    fn rotation(&self, text: usize, [rows, columns]: [usize; 2], device: &Device) -> Result<Rotation> {
        let image = (0..rows * columns).map(|token| [0, token / columns, token % columns]);
        let positions: Vec<[usize; AXES]> = std::iter::repeat_n([0; AXES], text).chain(image).collect();
        Rotation::new(&positions, self.axis_features, LARGEST_PERIOD, device)
    }
}

impl Denoiser for Flux {
    fn prepare(&self, encoded: &Encoded, guidance: Option<f64>, exec: &Exec) -> Result<Conditioning> {
        self.time_text.prepare(encoded, guidance, exec)
    }

    fn forward(&self, rows: &[Row<'_>], exec: &Exec) -> Result<Tensor> {
        let exec = &exec.with_adapters(AdapterRows::of(rows.iter().map(|row| row.adapters)));
        let call = self.time_text.gather(rows, exec)?;
        let (packed, size) = packed(&call.latents)?;
        let mut image = self.tokens_in.forward(&packed, exec)?;
        let mut text = call.text;
        let (text_tokens, image_tokens) = (text.dim(1)?, image.dim(1)?);
        let rotation = self.rotation(text_tokens, size, &exec.device)?;
        for block in &self.double_blocks {
            let (of_image, of_text) = block.forward(&image, &text, &call.time_silu, Some(&rotation), exec)?;
            let Some(of_text) = of_text else { candle_core::bail!("the text ends before the last block") };
            (image, text) = (of_image, of_text);
        }
        let mut joined = Tensor::cat(&[text, image], 1)?;
        for block in &self.single_blocks {
            joined = block.forward(&joined, &call.time_silu, &rotation, exec)?;
        }
        let image = joined.narrow(1, text_tokens, image_tokens)?.contiguous()?;
        let parts = self.modulation_out.forward(&call.time_silu, exec)?;
        let [scale, shift] = parts.as_slice() else { candle_core::bail!("the last modulation has {} parts", parts.len()) };
        let tokens = self.tokens_out.forward(&modulated(&image, scale, shift, exec)?, exec)?;
        unpacked(&tokens, size)?.to_dtype(DType::F32)
    }
}

/// [B, C, 2·rows, 2·columns] → tokens [B, rows·columns, 4·C], and [rows, columns].
fn packed(latents: &Tensor) -> Result<(Tensor, [usize; 2])> {
    let (batch, channels, height, width) = latents.dims4()?;
    let (rows, columns) = (height / 2, width / 2);
    let squares = latents.reshape(&[batch, channels, rows, 2, columns, 2])?.permute([0, 2, 4, 1, 3, 5].as_slice())?.contiguous()?;
    Ok((squares.reshape((batch, rows * columns, channels * POSITIONS_PER_TOKEN))?, [rows, columns]))
}

/// The way back.
fn unpacked(tokens: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let (batch, _, features) = tokens.dims3()?;
    let channels = features / POSITIONS_PER_TOKEN;
    let squares = tokens.reshape(&[batch, rows, columns, channels, 2, 2])?.permute([0, 3, 1, 4, 2, 5].as_slice())?.contiguous()?;
    squares.reshape((batch, channels, 2 * rows, 2 * columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_a_square_channel_by_channel() {
        let latents = Tensor::arange(0_f32, 48.0, &Device::Cpu).unwrap().reshape((1, 2, 4, 6)).unwrap();
        let (tokens, size) = packed(&latents).unwrap();
        assert_eq!((tokens.dims(), size), ([1, 6, 8].as_slice(), [2, 3]));
        let second: Vec<f32> = tokens.get(0).unwrap().get(1).unwrap().to_vec1().unwrap();
        assert_eq!(second, [2.0, 3.0, 8.0, 9.0, 26.0, 27.0, 32.0, 33.0]);
        let back = unpacked(&tokens, size).unwrap();
        assert_eq!(back.flatten_all().unwrap().to_vec1::<f32>().unwrap(), latents.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
}
