//! Gaussian noise as a pure function of (seed, image, draw).
//!
//! Counter-based: Philox4x32-10 ("Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) keyed by the seed, its counter holding
//! position, draw and image; Box–Muller on 53-bit uniforms. Logarithm, sine and cosine are written out below in plain IEEE
//! arithmetic, so the same bits come out on every machine, whatever its C library. Neither the batch an image runs in, nor its
//! neighbours, nor what it drew before can change a value.

mod gaussian;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

pub use gaussian::gaussian;

/// Where one image's random draws come from: the seed, or tensors given by the caller.
#[derive(Clone, Debug)]
pub struct NoiseStream {
    source: Source,
    image: usize,
    drawn: u32,
}

#[derive(Clone, Debug)]
enum Source {
    Seed(u64),
    Given(Arc<[Tensor]>),
}

/// Why a draw could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NoiseError {
    /// More draws than tensors were given.
    #[error("draw {draw} of noise is needed, but only {given} were given (noise.0 to noise.{})", given.saturating_sub(1))]
    Exhausted {
        /// The draw asked for, from 0.
        draw: u32,
        /// How many were given.
        given: usize,
    },
    /// A given tensor does not hold this image, or not in this shape.
    #[error("noise.{draw} has shape {found:?}; image {image} needs {expected:?} for each image")]
    Shape {
        /// The draw, from 0.
        draw: u32,
        /// The image, from 0.
        image: usize,
        /// The given shape.
        found: Vec<usize>,
        /// What one image needs.
        expected: Vec<usize>,
    },
    /// The tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl NoiseStream {
    /// Draws for image `image` (its index among the request's samples) from `seed`.
    pub fn seeded(seed: u64, image: usize) -> Self {
        Self { source: Source::Seed(seed), image, drawn: 0 }
    }

    /// Draws for image `image` from tensors in the order the reference draws them. It draws for a whole batch at once: each
    /// tensor is `[n, c, h, w]` and image i takes slice i.
    pub fn given(draws: Arc<[Tensor]>, image: usize) -> Self {
        Self { source: Source::Given(draws), image, drawn: 0 }
    }

    /// How many draws were made.
    pub fn drawn(&self) -> u32 {
        self.drawn
    }

    /// The next draw: f32 on the CPU, of `shape` (one image's, `[c, h, w]`), unit variance.
    ///
    /// # Errors
    /// [`NoiseError`] if given tensors run out or have another shape.
    pub fn draw(&mut self, shape: &[usize]) -> Result<Tensor, NoiseError> {
        let draw = self.drawn;
        let tensor = match &self.source {
            Source::Seed(seed) => {
                let count = shape.iter().product();
                Tensor::from_vec(gaussian(*seed, self.image, draw, count), shape, &Device::Cpu)?
            }
            Source::Given(draws) => {
                let given = draws.get(draw as usize).ok_or(NoiseError::Exhausted { draw, given: draws.len() })?;
                let fits = given.rank() == shape.len() + 1 && &given.dims()[1..] == shape && self.image < given.dims()[0];
                if !fits {
                    return Err(NoiseError::Shape { draw, image: self.image, found: given.dims().to_vec(), expected: shape.to_vec() });
                }
                given.get(self.image)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?
            }
        };
        self.drawn += 1;
        Ok(tensor)
    }
}
