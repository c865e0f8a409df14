//! What a folder holds and whether it would load, for people and programs.

use std::path::Path;

use serde::Serialize;

use super::{ModelError, ModelFiles, ModelFolder, OpenPart};
use crate::family;
use crate::json::Config;
use crate::weights::{TensorIndex, WeightSource, open_component, open_file};

/// What a model folder holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The family, where it is known.
    pub family: Option<String>,
    /// Bytes of all weights, as stored.
    pub bytes: u64,
    /// See [`ModelFolder::digest`]; only where the folder would load.
    pub digest: Option<String>,
    /// Why it would not load; empty where it would.
    pub problems: Vec<String>,
    /// Tensors that no network asks for.
    pub unused: Vec<String>,
    /// Its parts, in the order they are loaded.
    pub components: Vec<ComponentInspection>,
}

/// One part of a model.
#[derive(Clone, Debug, Serialize)]
pub struct ComponentInspection {
    /// The part's folder.
    pub name: String,
    /// Bytes of its weights, as stored.
    pub bytes: u64,
    /// In the order of their names.
    pub tensors: Vec<TensorInspection>,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorInspection {
    /// Its path.
    pub name: String,
    /// As stored, in safetensors' spelling.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Inspection {
    /// Looks at any folder or single file, also one that would not load: what can be read is told, what is wrong is a problem.
    pub fn of(files: &ModelFiles) -> Self {
        let folder = files.model.as_path();
        match ModelFolder::open_files(files) {
            Ok(open) => Self::of_open(&open),
            Err(error) if folder.is_file() => Self::of_file(folder, &error),
            Err(error) => {
                let index = Config::open(folder.join("model_index.json")).ok();
                let family = index.as_ref().and_then(|index| family::detect(folder, index).ok());
                let names = index.iter().flat_map(|index| index.keys().filter(|key| is_folder_name(key)));
                let weights = names.filter_map(|name| Some((name, open_component(&folder.join(name)).ok()?)));
                let components: Vec<_> = weights.map(|(name, weights)| component(name, weights.index())).collect();
                Self {
                    family: family.map(|family| family.name().to_owned()),
                    bytes: components.iter().map(|component| component.bytes).sum(),
                    digest: None,
                    problems: vec![error.to_string()],
                    unused: Vec::new(),
                    components,
                }
            }
        }
    }

    /// Whether a file is a whole checkpoint, of whatever quality, by its header. False for what cannot be read.
    pub fn is_checkpoint(path: &Path) -> bool {
        open_file(path).is_ok_and(|weights| !family::recognise(weights.index()).is_empty())
    }

    /// Of a single file that would not load.
    fn of_file(path: &Path, error: &ModelError) -> Self {
        let weights = open_file(path).ok();
        let recognised = weights.as_ref().map(|weights| family::recognise(weights.index()));
        let family = recognised.and_then(|families| match families.as_slice() {
            [only] => Some(only.family.to_owned()),
            _ => None,
        });
        let components: Vec<_> = weights.iter().map(|weights| component("file", weights.index())).collect();
        Self {
            family,
            bytes: components.iter().map(|component| component.bytes).sum(),
            digest: None,
            problems: vec![error.to_string()],
            unused: Vec::new(),
            components,
        }
    }

    pub(super) fn of_open(open: &ModelFolder) -> Self {
        let (digest, problems) = match open.digest() {
            Ok(digest) => (Some(digest), Vec::new()),
            Err(error) => (None, vec![error.to_string()]),
        };
        let component = |open: &OpenPart| component(open.part.folder, open.index());
        Self {
            family: Some(open.spec.family().to_owned()),
            bytes: open.stored_bytes(),
            digest,
            problems,
            unused: open.unused(),
            components: open.parts.iter().map(component).collect(),
        }
    }
}

/// Whether a key of `model_index.json` can be that of a part; its file may hold anything.
fn is_folder_name(key: &str) -> bool {
    key.starts_with(|first: char| first.is_ascii_lowercase())
        && key.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

fn component(name: &str, index: &TensorIndex) -> ComponentInspection {
    let tensors = index.iter().map(|(name, info)| TensorInspection {
        name: name.to_owned(),
        dtype: info.dtype.to_string(),
        shape: info.shape.clone(),
    });
    ComponentInspection { name: name.to_owned(), bytes: index.bytes(), tensors: tensors.collect() }
}
