//! The two answers a network gets when it asks for parameters: shapes only, and the files' content.

use std::cell::RefCell;

use candle_core::{DType, Device, Tensor};

use crate::exec::Exec;
use crate::family::{ModelSpec, Part};
use crate::layers::ParameterSource;
use crate::weights::{SafetensorsFolder, TensorIndex, WeightSource, WeightsError};

/// Records what a network asks for and answers with tensors of no size: one zero, seen in the asked shape by strides of 0.
pub(super) struct ShapeRecorder<'a> {
    index: &'a TensorIndex,
    asked: RefCell<Vec<(String, Vec<usize>)>>,
}

impl<'a> ShapeRecorder<'a> {
    /// Builds `part` once from nothing, which records all its parameters.
    pub(super) fn of(index: &'a TensorIndex, part: Part, spec: &dyn ModelSpec) -> Result<Self, WeightsError> {
        let recorder = Self { index, asked: RefCell::default() };
        match part.folder {
            "text_encoder" => spec.text_encoder(&recorder).map(drop)?,
            "vae" => spec.vae(&recorder).map(drop)?,
            _ => spec.denoiser(&recorder).map(drop)?,
        }
        Ok(recorder)
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

    fn has(&self, path: &str) -> bool {
        self.index.get(path).is_some()
    }
}

/// Reads parameters from a part's files and reports the bytes.
pub(super) struct FileSource<'a> {
    pub(super) weights: &'a SafetensorsFolder,
    pub(super) exec: &'a Exec,
    pub(super) report: Box<dyn Fn(u64) + 'a>,
}

impl ParameterSource for FileSource<'_> {
    fn get(&self, path: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        let tensor = self.weights.tensor(path, shape, self.exec.compute, &self.exec.device)?;
        let bytes = self.weights.index().get(path).map_or(0, |info| info.range.end - info.range.start);
        (self.report)(bytes);
        Ok(tensor)
    }

    fn has(&self, path: &str) -> bool {
        self.weights.index().get(path).is_some()
    }
}
