//! The two answers a network gets when it asks for parameters: shapes only, and the files' content.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device, Tensor};

use super::{Merge, ModelError, OpenPart};
use crate::exec::Exec;
use crate::family::{ModelSpec, Part};
use crate::layers::{ParameterSource, PartSources};
use crate::weights::{TensorIndex, WeightsError};

/// The layers that adapters can act on, by their names in the model, with their weights.
type Layers = RefCell<Vec<(String, Tensor)>>;

/// What a network asks for, by path and shape.
pub(super) type Asked = Vec<(String, Vec<usize>)>;

/// Keeps a layer that adapters can act on, and answers its name in the model.
fn keep_layer(layers: &Layers, part: &Part, path: &str, weight: &Tensor) -> Arc<str> {
    let name = layer_name(part, path);
    if part.layers.is_some() {
        layers.borrow_mut().push((name.clone(), weight.clone()));
    }
    Arc::from(name)
}

/// A layer's name among all layers of the model.
fn layer_name(part: &Part, path: &str) -> String {
    format!("{}{path}", part.layers.unwrap_or_default())
}

/// Records what a network asks for and answers with tensors of no size: one zero, seen in the asked shape by strides of 0.
pub(super) struct ShapeRecorder<'a> {
    part: Part,
    index: &'a TensorIndex,
    asked: RefCell<Asked>,
    layers: Layers,
}

/// One for each part of a model.
pub(super) struct ShapeRecorders<'a>(Vec<ShapeRecorder<'a>>);

impl<'a> ShapeRecorders<'a> {
    /// Builds all networks once from nothing, which records all their parameters.
    pub(super) fn of(parts: &'a [OpenPart], spec: &dyn ModelSpec) -> Result<Self, WeightsError> {
        let recorder = |open: &'a OpenPart| ShapeRecorder {
            part: open.part,
            index: open.index(),
            asked: RefCell::default(),
            layers: RefCell::default(),
        };
        Self(parts.iter().map(recorder).collect()).filled(spec)
    }

    /// The same for parts that nothing was found of yet.
    pub(super) fn of_nothing(spec: &dyn ModelSpec) -> Result<Self, WeightsError> {
        static NOTHING: LazyLock<TensorIndex> = LazyLock::new(TensorIndex::default);
        let recorder = |part: &Part| ShapeRecorder { part: *part, index: &NOTHING, asked: RefCell::default(), layers: RefCell::default() };
        Self(spec.parts().iter().map(recorder).collect()).filled(spec)
    }

    fn filled(self, spec: &dyn ModelSpec) -> Result<Self, WeightsError> {
        let recorders = self;
        drop(spec.conditioner(&recorders)?);
        drop(spec.denoiser(&recorders)?);
        drop(spec.vae(&recorders)?);
        Ok(recorders)
    }

    /// The layers that adapters can act on, with tensors of no size.
    pub(super) fn into_layers(self) -> impl Iterator<Item = (String, Tensor)> {
        self.0.into_iter().flat_map(|recorder| recorder.layers.into_inner())
    }

    /// What was asked for, by path and shape, of each part.
    pub(super) fn into_asked(self) -> Vec<(Part, Asked)> {
        self.0.into_iter().map(|recorder| (recorder.part, recorder.asked.into_inner())).collect()
    }

    /// What there is and was not asked for, of each part.
    pub(super) fn unused(&self) -> Vec<Vec<String>> {
        let unused = |recorder: &ShapeRecorder<'_>| {
            let asked = recorder.asked.borrow();
            let asked: HashSet<&str> = asked.iter().map(|(name, _)| name.as_str()).collect();
            recorder.index.iter().map(|(name, _)| name).filter(|name| !asked.contains(name)).map(str::to_owned).collect()
        };
        self.0.iter().map(unused).collect()
    }

    /// Compares what was asked for with what there is.
    ///
    /// # Errors
    /// Naming the part, and all that is missing there or has another shape.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        self.0.iter().try_for_each(|recorder| {
            let asked = recorder.asked.borrow();
            let shapes = asked.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
            let mismatch = |source| ModelError::Mismatch { part: recorder.part.folder, source: Box::new(source) };
            recorder.index.check(shapes).map_err(mismatch)
        })
    }
}

impl PartSources for ShapeRecorders<'_> {
    fn part(&self, folder: &'static str) -> Result<&dyn ParameterSource, WeightsError> {
        let recorder = self.0.iter().find(|recorder| recorder.part.folder == folder);
        recorder.map(|recorder| recorder as _).ok_or(WeightsError::NoPart { folder })
    }
}

impl ParameterSource for ShapeRecorder<'_> {
    fn get(&self, path: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.asked.borrow_mut().push((path.to_owned(), shape.to_vec()));
        let failed = |source| WeightsError::Tensor { name: path.to_owned(), source };
        Tensor::zeros(1, DType::F32, &Device::Cpu).and_then(|zero| zero.broadcast_as(shape)).map_err(failed)
    }

    fn adaptable(&self, path: &str, weight: &Tensor) -> Arc<str> {
        keep_layer(&self.layers, &self.part, path, weight)
    }

    fn has(&self, path: &str) -> bool {
        self.index.get(path).is_some()
    }
}

/// Reads parameters from a part's files, merges what is merged into them, and reports the bytes.
pub(super) struct FileSource<'a> {
    open: &'a OpenPart,
    merges: &'a [Merge],
    exec: Exec,
    report: &'a dyn Fn(&Part, u64),
    layers: Layers,
}

/// One for each part of a model.
pub(super) struct FileSources<'a>(Vec<FileSource<'a>>);

impl<'a> FileSources<'a> {
    /// Of `parts`, each in the precision that `exec` says. `report` is told of each part before its first tensor, and of the bytes of each.
    pub(super) fn new(parts: &'a [OpenPart], merges: &'a [Merge], exec: &dyn Fn(&Part) -> Exec, report: &'a dyn Fn(&Part, u64)) -> Self {
        let source = |open: &'a OpenPart| {
            let merges = if open.part.layers.is_some() { merges } else { &[] };
            FileSource { open, merges, exec: exec(&open.part), report, layers: RefCell::default() }
        };
        Self(parts.iter().map(source).collect())
    }

    /// The layers that adapters can act on, with their weights.
    pub(super) fn into_layers(self) -> impl Iterator<Item = (String, Tensor)> {
        self.0.into_iter().flat_map(|source| source.layers.into_inner())
    }
}

impl PartSources for FileSources<'_> {
    fn part(&self, folder: &'static str) -> Result<&dyn ParameterSource, WeightsError> {
        let source = self.0.iter().find(|source| source.open.part.folder == folder).ok_or(WeightsError::NoPart { folder })?;
        (source.report)(&source.open.part, 0);
        Ok(source)
    }
}

impl FileSource<'_> {
    /// A parameter with what adapters change about it, computed in f32 and rounded once; `None` where they leave it alone.
    fn merged(&self, path: &str, shape: &[usize]) -> Result<Option<Tensor>, WeightsError> {
        let layer = path.strip_suffix(".weight").or_else(|| path.strip_suffix(".bias")).map(|layer| layer_name(&self.open.part, layer));
        let Some(layer) = layer.filter(|layer| self.merges.iter().any(|merge| merge.adapter.acts_on(layer))) else { return Ok(None) };
        let own = self.open.weights.source().tensor(path, shape, DType::F32, &Device::Cpu)?;
        let failed = |source| WeightsError::Tensor { name: path.to_owned(), source };
        let sum = self.merges.iter().try_fold(own.clone(), |sum, Merge { adapter, scale, .. }| {
            let difference = match path.ends_with(".weight") {
                true => adapter.weight_difference(&layer, &own, *scale)?,
                false => adapter.bias_difference(&layer, *scale)?,
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
            None => self.open.weights.source().tensor(path, shape, self.exec.compute, &self.exec.device)?,
        };
        let bytes = self.open.index().get(path).map_or(0, |info| info.range.end - info.range.start);
        (self.report)(&self.open.part, bytes);
        Ok(tensor)
    }

    fn adaptable(&self, path: &str, weight: &Tensor) -> Arc<str> {
        keep_layer(&self.layers, &self.open.part, path, weight)
    }

    fn has(&self, path: &str) -> bool {
        self.open.index().get(path).is_some()
    }
}
