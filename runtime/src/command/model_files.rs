//! Which model a command is about.

use std::path::PathBuf;

use clap::Args;
use diffusion::model::ModelFiles;

use super::generate::named_file;
use crate::residency::{Component, ModelKey};

/// A model's files.
#[derive(Debug, Args)]
pub(super) struct ModelArguments {
    /// Folder in diffusers' layout, or one .safetensors file of a whole checkpoint.
    #[arg(long, env = "EMULSION_MODEL")]
    pub(super) model: PathBuf,
    #[command(flatten)]
    pub(super) parts: PartArguments,
}

/// What of a model comes from elsewhere.
#[derive(Debug, Args)]
pub(super) struct PartArguments {
    /// For a model that is one file: folder in diffusers' layout whose configurations and tokenizers replace the built-in ones, and whose
    /// weights stand in for parts that the file does not have.
    #[arg(long, env = "EMULSION_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// A part from elsewhere, by its folder's name (vae, text_encoder, …): a file, or a folder; may be given more than once.
    #[arg(long = "component", value_name = "NAME=PATH", value_parser = named_file)]
    pub(super) components: Vec<(String, PathBuf)>,
}

impl PartArguments {
    pub(super) fn files(&self, model: PathBuf) -> ModelFiles {
        ModelFiles { model, config: self.config.clone(), components: self.components.iter().cloned().collect() }
    }
}

impl ModelArguments {
    pub(super) fn key(&self) -> ModelKey {
        let ModelFiles { model, config, components } = self.parts.files(self.model.clone());
        let component = |(name, path)| (name, Component { path, sha256: None });
        ModelKey { config, components: components.into_iter().map(component).collect(), ..ModelKey::of(model) }
    }
}
