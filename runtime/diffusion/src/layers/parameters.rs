//! Where layers pull their parameters from, by diffusers' path.

use std::sync::Arc;

use candle_core::Tensor;

use crate::weights::WeightsError;

/// A layer, or why its parameters do not make one.
pub type Built<T> = Result<T, WeightsError>;

/// What answers a layer that asks for a parameter: a file, a check of a file's header, a maker of random numbers.
pub trait ParameterSource {
    /// The parameter `path` of exactly `shape`, on the model's device and in its compute dtype.
    ///
    /// # Errors
    /// When it is missing, has another shape, or cannot be read.
    fn get(&self, path: &str, shape: &[usize]) -> Result<Tensor, WeightsError>;

    /// Told of each layer that adapters can act on: its path and its weight, as [`Self::get`] answered. Answers the layer's name among all
    /// layers of the model.
    fn adaptable(&self, path: &str, _weight: &Tensor) -> Arc<str> {
        Arc::from(path)
    }

    /// Whether there is a parameter `path`.
    fn has(&self, path: &str) -> bool;
}

/// Answers for all parts of one model.
pub trait PartSources {
    /// What answers for the part in `folder`.
    ///
    /// # Errors
    /// [`WeightsError::NoPart`] if the model has none.
    fn part(&self, folder: &'static str) -> Result<&dyn ParameterSource, WeightsError>;
}

/// A view of a source below one path.
#[derive(Clone)]
pub struct Parameters<'a> {
    source: &'a dyn ParameterSource,
    prefix: String,
}

impl std::fmt::Debug for Parameters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parameters").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl<'a> Parameters<'a> {
    /// The whole of `source`.
    pub fn new(source: &'a dyn ParameterSource) -> Self {
        Self { source, prefix: String::new() }
    }

    /// The whole of the part in `folder`.
    ///
    /// # Errors
    /// [`WeightsError::NoPart`] if the model has none.
    pub fn of_part(sources: &'a dyn PartSources, folder: &'static str) -> Built<Self> {
        sources.part(folder).map(Self::new)
    }

    /// The view below `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { source: self.source, prefix: self.path(name) }
    }

    /// The view below the first of `names` that has a `weight`; the first one where none has, so that errors name the usual one.
    pub fn at_any(&self, names: &[&str]) -> Self {
        let present = names.iter().find(|name| self.source.has(&format!("{}.weight", self.path(name))));
        self.at(present.or(names.first()).copied().unwrap_or_default())
    }

    /// The parameter `name` of exactly `shape`.
    ///
    /// # Errors
    /// As [`ParameterSource::get`].
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.source.get(&self.path(name), shape)
    }

    /// The parameter `weight` of exactly `shape`, of a layer that adapters can act on, and the layer's name in the model.
    ///
    /// # Errors
    /// As [`ParameterSource::get`].
    pub(super) fn adaptable_weight(&self, shape: &[usize]) -> Result<(Tensor, Arc<str>), WeightsError> {
        let weight = self.get("weight", shape)?;
        let name = self.source.adaptable(&self.prefix, &weight);
        Ok((weight, name))
    }

    fn path(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}
