//! Whether a picture is not safe for work: Yahoo's open_nsfw, a thin ResNet-50 that tells a probability.
//!
//! ```text
//! picture ─► 256×256 ─► what a JPEG file leaves of it ─► the middle 224×224 ─► blue green red, minus the means ─► network ─► probability
//! ```
//! The network was trained on pictures prepared in exactly this way (`classify_nsfw.py` of github.com/yahoo/open_nsfw), losses of JPEG
//! included, so that a picture means to it what it meant then. It always runs on the CPU in f32. It knows no request and no threshold.

mod jpeg;
mod network;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::exec::Exec;
use crate::layers::{ParameterSource, Parameters};
use crate::picture::RgbImage;
use crate::weights::{SafetensorsFolder, WeightSource, WeightsError, open_file, sha256_of_file};
use network::Network;

/// Pixels a side that a picture is scaled to, whatever its proportions.
const RESIZED_SIDE: usize = 256;
/// Pixels a side that the network sees.
const INPUT_SIDE: usize = 224;
/// What is subtracted of blue, green and red: the means of the pictures it was trained on.
const MEANS: [f32; 3] = [104.0, 117.0, 123.0];

/// The network with its weights.
#[derive(Debug)]
pub struct Classifier {
    network: Network,
    exec: Exec,
    digest: String,
}

impl Classifier {
    /// Reads the weights: a safetensors file with the names that [`crate::safety`]'s network asks for, batch norms folded into convolutions.
    ///
    /// # Errors
    /// [`WeightsError`] naming the tensors that are missing or of another shape, and what the file is where it is no safetensors.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = open_file(path)?;
        let network = Network::new(&Parameters::new(&FileParameters(&file)))?;
        Ok(Self { network, exec: Exec::inference(&Device::Cpu, DType::F32), digest: sha256_of_file(path)? })
    }

    /// SHA-256 of the weights' file, in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The probability, 0 to 1, that `image` is not safe for work.
    ///
    /// # Errors
    /// When candle fails; an empty picture fails, too.
    pub fn probability(&self, image: &RgbImage) -> candle_core::Result<f32> {
        if !image.is_whole() || image.data.is_empty() {
            candle_core::bail!("a picture of {}×{} pixels has {} bytes", image.width, image.height, image.data.len());
        }
        let probabilities = self.network.forward(&input(&prepared(image))?, &self.exec)?;
        probabilities.get(0)?.get(1)?.to_scalar()
    }
}

/// The 224×224 pixels of `image` that the network sees. An empty picture gives an empty one.
pub fn prepared(image: &RgbImage) -> RgbImage {
    if image.data.is_empty() {
        return image.clone();
    }
    let lossy = jpeg::through_jpeg(&image.resized_bilinear(RESIZED_SIDE, RESIZED_SIDE));
    let margin = (RESIZED_SIDE - INPUT_SIDE) / 2;
    let rows = lossy.data.chunks_exact(RESIZED_SIDE * 3).skip(margin).take(INPUT_SIDE);
    let data = rows.flat_map(|row| &row[margin * 3..(margin + INPUT_SIDE) * 3]).copied().collect();
    RgbImage { width: INPUT_SIDE, height: INPUT_SIDE, data }
}

/// [1, 3, 224, 224] of blue, green and red.
fn input(image: &RgbImage) -> candle_core::Result<Tensor> {
    let pixels = image.data.as_chunks::<3>().0;
    let channel = |(at, mean): (usize, f32)| pixels.iter().map(move |pixel| f32::from(pixel[2 - at]) - mean);
    let values: Vec<f32> = MEANS.into_iter().enumerate().flat_map(channel).collect();
    Tensor::from_vec(values, (1, 3, INPUT_SIDE, INPUT_SIDE), &Device::Cpu)
}

struct FileParameters<'a>(&'a SafetensorsFolder);

impl ParameterSource for FileParameters<'_> {
    fn get(&self, path: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.0.tensor(path, shape, DType::F32, &Device::Cpu)
    }

    fn has(&self, path: &str) -> bool {
        self.0.index().get(path).is_some()
    }
}
