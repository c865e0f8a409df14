//! The safety checker: looks at finished images before they leave the replica, and draws over those that are not safe for work. It knows
//! no request; what it draws is an argument.

mod style;

use std::path::{Path, PathBuf};

use diffusion::picture::RgbImage;
use diffusion::safety::Classifier;
use diffusion::weights::WeightsError;
use runtime_api::SafetyStyle;

use crate::picture::Pixels;

/// The probability from which on an image is not safe. The network's makers say that above 0.8 hardly anything is harmless, below 0.2
/// hardly anything is not, and leave the rest to whoever uses it.
pub const THRESHOLD: f32 = 0.8;

/// Why an image could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum SafetyError {
    #[error("open the safety checker's weights {}; `make safety-checker` makes them", path.display())]
    Open { path: PathBuf, source: Box<WeightsError> },
    #[error("the safety checker failed: {0}")]
    Classify(#[from] diffusion::Error),
}

/// What images are checked with.
#[derive(Debug)]
pub struct SafetyChecker {
    classifier: Classifier,
}

impl SafetyChecker {
    /// Reads the weights.
    ///
    /// # Errors
    /// [`SafetyError::Open`] if the file is not what it should be.
    pub fn open(path: &Path) -> Result<Self, SafetyError> {
        let classifier =
            Classifier::open(path).map_err(|source| SafetyError::Open { path: path.to_path_buf(), source: Box::new(source) })?;
        Ok(Self { classifier })
    }

    /// SHA-256 of the weights' file, in hex.
    pub fn digest(&self) -> &str {
        self.classifier.digest()
    }

    /// The probability that `pixels` are not safe for work.
    ///
    /// # Errors
    /// [`SafetyError::Classify`].
    pub fn probability(&self, pixels: &Pixels) -> Result<f32, SafetyError> {
        let Pixels { width, height, rgb } = pixels;
        let image = RgbImage { width: *width as usize, height: *height as usize, data: rgb.clone() };
        Ok(self.classifier.probability(&image)?)
    }

    /// The image as it may be shown, and whether it was drawn over.
    ///
    /// # Errors
    /// [`SafetyError::Classify`]; the image must not be shown then.
    pub fn checked(&self, pixels: Pixels, style: SafetyStyle) -> Result<(Pixels, bool), SafetyError> {
        let probability = self.probability(&pixels)?;
        let is_unsafe = is_unsafe(probability);
        Ok((if is_unsafe { style::drawn_over(pixels, style) } else { pixels }, is_unsafe))
    }
}

/// What is no number is no promise of safety.
fn is_unsafe(probability: f32) -> bool {
    probability.is_nan() || probability >= THRESHOLD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_the_threshold_or_is_no_number_is_unsafe() {
        assert!(!is_unsafe(0.0) && !is_unsafe(0.799));
        assert!(is_unsafe(0.8) && is_unsafe(1.0) && is_unsafe(f32::NAN));
    }

    #[test]
    fn weights_that_are_not_there_or_are_none_are_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        assert!(SafetyChecker::open(&path).unwrap_err().to_string().contains("make safety-checker"));
        safetensors::serialize_to_file(Vec::<(String, safetensors::tensor::TensorView<'_>)>::new(), None, &path).unwrap();
        let SafetyError::Open { source, .. } = SafetyChecker::open(&path).unwrap_err() else { panic!("opened") };
        assert!(source.to_string().contains("stem."), "{source}");
    }
}
