//! A second model that goes on where the first leaves off.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use diffusion::model::Model;

use crate::residency::ModelKey;

/// Which model refines, and from where on.
#[derive(Debug, Args)]
pub(super) struct RefinerArguments {
    /// Folder of a model that goes on where the first one leaves off, such as Stable Diffusion XL's refiner.
    #[arg(long, env = "EMULSION_REFINER")]
    refiner: Option<PathBuf>,
    /// The share of the noise that is gone where the refiner goes on, above 0 and below 1.
    #[arg(long, requires = "refiner", default_value_t = 0.8)]
    refiner_start: f64,
}

/// A loaded refiner.
pub(super) struct Refiner {
    pub(super) model: Arc<Model>,
    pub(super) start: f64,
}

impl RefinerArguments {
    /// `None` where none is asked for.
    pub(super) fn load(&self, load: impl FnOnce(&ModelKey) -> anyhow::Result<Model>) -> anyhow::Result<Option<Refiner>> {
        let Some(folder) = &self.refiner else { return Ok(None) };
        Ok(Some(Refiner { model: Arc::new(load(&ModelKey::of(folder))?), start: self.refiner_start }))
    }

    /// Where the first model leaves off.
    pub(super) fn denoising_end(&self) -> Option<f64> {
        self.refiner.as_ref().map(|_| self.refiner_start)
    }
}

impl Refiner {
    /// What a picture says of the refiner.
    pub(super) fn parameters(&self) -> Vec<(String, String)> {
        let entries = [("refiner_sha256", self.model.digest().to_owned()), ("refiner_start", self.start.to_string())];
        entries.map(|(key, value)| (key.to_owned(), value)).to_vec()
    }
}
