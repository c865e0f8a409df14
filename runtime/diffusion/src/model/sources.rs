//! The two answers a network gets when it asks for parameters: shapes only, and the files' content.

use std::cell::RefCell;

use candle_core::{DType, Device, Tensor};

use super::Merge;
use crate::exec::Exec;
use crate::family::{ModelSpec, Part};
use crate::layers::ParameterSource;
use crate::weights::{SafetensorsFolder, TensorIndex, WeightSource, WeightsError};

/// Records what a network asks for and answers with tensors of no size: one zero, seen in the asked shape by strides of 0.
pub(super) struct ShapeRecorder<'a> {
    index: &'a TensorIndex,
    asked: RefCell<Vec<(String, Vec<usize>)>>,
    layers: RefCell<Vec<(String, Tensor)>>,
}

impl<'a> ShapeRecorder<'a> {
    /// Builds `part` once from nothing, which records all its parameters.
    pub(super) fn of(index: &'a TensorIndex, part: Part, spec: &dyn ModelSpec) -> Result<Self, WeightsError> {
        let recorder = Self { index, asked: RefCell::default(), layers: RefCell::default() };
        match part.folder {
            "text_encoder" => spec.text_encoder(&recorder).map(drop)?,
            "vae" => spec.vae(&recorder).map(drop)?,
            _ => spec.denoiser(&recorder).map(drop)?,
        }
        Ok(recorder)
    }

    /// The layers that adapters can act on, with tensors of no size.
    pub(super) fn layers(self) -> Vec<(String, Tensor)> {
        self.layers.into_inner()
    }

    /// Compares what was asked for with what there is.
    ///
    /// # Errors
    /// Naming all that is missing or has another shape.
    pub(super) fn check(&self, index: &TensorIndex) -> Result<(), WeightsError> {
        let asked = self.asked.borrow();
        index.check(asked.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())))
    }
}

impl ParameterSource for ShapeRecorder<'_> {
    fn get(&self, path: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.asked.borrow_mut().push((path.to_owned(), shape.to_vec()));
        let failed = |source| WeightsError::Tensor { name: path.to_owned(), source };
        Tensor::zeros(1, DType::F32, &Device::Cpu).and_then(|zero| zero.broadcast_as(shape)).map_err(failed)
    }

    fn adaptable(&self, path: &str, weight: &Tensor) {
        self.layers.borrow_mut().push((path.to_owned(), weight.clone()));
    }

    fn has(&self, path: &str) -> bool {
        self.index.get(path).is_some()
    }
}

/// Reads parameters from a part's files, merges what is merged into them, and reports the bytes.
pub(super) struct FileSource<'a> {
    pub(super) weights: &'a SafetensorsFolder,
    pub(super) merges: &'a [Merge],
    pub(super) exec: &'a Exec,
    pub(super) report: Box<dyn Fn(u64) + 'a>,
    /// The layers that adapters can act on, with their weights.
    pub(super) layers: RefCell<Vec<(String, Tensor)>>,
}

impl FileSource<'_> {
    /// The layers that adapters can act on, with their weights.
    pub(super) fn into_layers(self) -> Vec<(String, Tensor)> {
        self.layers.into_inner()
    }

    /// A parameter with what adapters change about it, computed in f32 and rounded once; `None` where they leave it alone.
    fn merged(&self, path: &str, shape: &[usize]) -> Result<Option<Tensor>, WeightsError> {
        let layer = match path.strip_suffix(".weight").or_else(|| path.strip_suffix(".bias")) {
            Some(layer) if self.merges.iter().any(|merge| merge.adapter.acts_on(layer)) => layer,
            _ => return Ok(None),
        };
        let own = self.weights.tensor(path, shape, DType::F32, &Device::Cpu)?;
        let failed = |source| WeightsError::Tensor { name: path.to_owned(), source };
        let sum = self.merges.iter().try_fold(own.clone(), |sum, Merge { adapter, scale, .. }| {
            let difference = match path.ends_with(".weight") {
                true => adapter.weight_difference(layer, &own, *scale)?,
                false => adapter.bias_difference(layer, *scale)?,
            };
            difference.map_or(Ok(sum.clone()), |difference| sum + difference)
        });
        sum.and_then(|sum| sum.to_dtype(self.exec.compute)?.to_device(&self.exec.device)).map(Some).map_err(failed)
    }
}

impl ParameterSource for FileSource<'_> {
    fn get(&self, path: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        let tensor = match self.merged(path, shape)? {
            Some(merged) => merged,
            None => self.weights.tensor(path, shape, self.exec.compute, &self.exec.device)?,
        };
        let bytes = self.weights.index().get(path).map_or(0, |info| info.range.end - info.range.start);
        (self.report)(bytes);
        Ok(tensor)
    }

    fn adaptable(&self, path: &str, weight: &Tensor) {
        self.layers.borrow_mut().push((path.to_owned(), weight.clone()));
    }

    fn has(&self, path: &str) -> bool {
        self.weights.index().get(path).is_some()
    }
}
