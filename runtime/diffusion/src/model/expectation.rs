//! What a checkpoint of a family holds at its public full-size configuration: names and shapes, from the networks themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use serde::Serialize;

use super::ModelError;
use super::sources::{Asked, ShapeRecorders};
use crate::built_in;
use crate::family::{self, FAMILIES, ModelSpec, Part};
use crate::memory::Computing;

/// Whose names tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedLayout {
    /// Those of a folder in diffusers' layout.
    Diffusers,
    /// Those of a single file, as the model's authors published it.
    Original,
}

/// What a checkpoint holds.
#[derive(Clone, Debug, Serialize)]
pub struct Expectation {
    /// The family's name, as manifests spell it.
    pub family: String,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Of the weights alone.
    pub memory_bytes: MemoryBytes,
    /// What is computed beside the weights, by size and count of images.
    pub call_bytes: Vec<CallBytes>,
    /// In the order they are loaded.
    pub parts: Vec<ExpectedPart>,
}

/// What a model takes in memory by the precision it is loaded in; some parts stay in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryBytes {
    /// 32 bits.
    pub f32: u64,
    /// 16 bits, of which 11 are significant.
    pub f16: u64,
    /// 16 bits, of which 8 are significant.
    pub bf16: u64,
}

/// What images of one size take beside the weights while they share a call, with guidance and at the worst moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CallBytes {
    /// Width and height, in pixels.
    pub side: usize,
    /// In one call of the denoiser; the autoencoder sees them one after another.
    pub images: usize,
    /// On a GPU, in 16 bits of either kind.
    pub gpu: u64,
    /// On a processor, in f32.
    pub processor: u64,
}

/// Sides, in pixels, and counts of images of which [`CallBytes`] tell.
const SIDES: [usize; 3] = [512, 1024, 2048];
const COUNTS: [usize; 2] = [1, 4];

/// What one part of it holds.
#[derive(Clone, Debug, Serialize)]
pub struct ExpectedPart {
    /// The part's folder in diffusers' layout.
    #[serde(rename = "name")]
    pub folder: &'static str,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// In the order of their names.
    pub tensors: Vec<ExpectedTensor>,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
pub struct ExpectedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Expectation {
    /// Of a family's public full-size model.
    ///
    /// # Errors
    /// [`ModelError::UnknownFamily`]; others only by a defect of the built-in configurations.
    pub fn of(family: &str, layout: ExpectedLayout) -> Result<Self, ModelError> {
        let known = || FAMILIES.iter().map(|family| family.name());
        if !known().any(|name| name == family) {
            return Err(ModelError::UnknownFamily { name: family.to_owned(), known: known().collect() });
        }
        Self::of_folder(&built_in::folder(family), layout)
    }

    /// Of the configurations in a folder, which needs no weights.
    ///
    /// # Errors
    /// [`ModelError`] naming what in the folder is not served.
    pub fn of_folder(folder: &Path, layout: ExpectedLayout) -> Result<Self, ModelError> {
        let spec = family::open(folder)?;
        let family = spec.family();
        let asked = ShapeRecorders::of_nothing(spec.as_ref())?.into_asked();
        let parts: Vec<_> = asked.into_iter().map(|(part, asked)| expected(family, &part, layout, asked)).collect();
        let parameters = parts.iter().map(|part| part.parameters).sum();
        let bytes = |dtype| {
            let of_part = |part: &ExpectedPart| part.parameters * spec.part_dtype(part.folder, dtype).size_in_bytes() as u64;
            parts.iter().map(of_part).sum()
        };
        let memory_bytes = MemoryBytes { f32: bytes(DType::F32), f16: bytes(DType::F16), bf16: bytes(DType::BF16) };
        Ok(Self { family: family.to_owned(), parameters, memory_bytes, call_bytes: call_bytes(&Arc::from(spec)), parts })
    }
}

fn call_bytes(spec: &Arc<dyn ModelSpec>) -> Vec<CallBytes> {
    let gpu = Computing::new(Arc::clone(spec), false, spec.half_precision());
    let processor = Computing::new(Arc::clone(spec), true, DType::F32);
    let rows_of_image = if spec.embeds_guidance() { 1 } else { 2 };
    let known = |side: &usize| spec.max_side_pixels().is_none_or(|most| *side <= most);
    let cases = SIDES.into_iter().filter(known).flat_map(|side| COUNTS.map(|images| (side, images)));
    let bytes = |computing: &Computing, side, images| computing.bytes(rows_of_image * images, [side, side]);
    cases
        .map(|(side, images)| CallBytes { side, images, gpu: bytes(&gpu, side, images), processor: bytes(&processor, side, images) })
        .collect()
}

fn expected(family: &str, part: &Part, layout: ExpectedLayout, asked: Asked) -> ExpectedPart {
    let count = |shape: &[usize]| shape.iter().map(|size| *size as u64).product::<u64>();
    let parameters = asked.iter().map(|(_, shape)| count(shape)).sum();
    let tensors: BTreeMap<String, Vec<usize>> = match (layout, family::layouts_within(family, part).first()) {
        (ExpectedLayout::Original, Some(layout)) => {
            let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
            // Several layers that are stored as one have one name.
            let named = layout.originals(&paths).into_iter().zip(&asked);
            named.filter_map(|(original, (_, shape))| original.map(|of| (of.name, of.arrangement.original_shape(shape)))).collect()
        }
        _ => asked.into_iter().collect(),
    };
    let tensors = tensors.into_iter().map(|(name, shape)| ExpectedTensor { name, shape }).collect();
    ExpectedPart { folder: part.folder, parameters, tensors }
}
