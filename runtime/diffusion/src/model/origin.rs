//! Where a model's files are, and what answers for each part: a folder of it, a stretch of one file, or a file from elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ModelError;
use crate::built_in;
use crate::family::{self, ModelSpec, Part, Recognised};
use crate::weights::{MappedPart, SafetensorsFolder, TensorIndex, WeightSource, describe, open_component, open_file};

/// Scales that some files of 8-bit floats keep beside their weights, which are then not the weights themselves.
const SCALE_SUFFIXES: [&str; 3] = [".scale_weight", ".weight_scale", ".input_scale"];

/// Where a model's files are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelFiles {
    /// A folder in diffusers' layout, or one file.
    pub model: PathBuf,
    /// For one file: a folder in diffusers' layout whose configurations and tokenizers take the place of the built-in ones, and whose weights
    /// stand in for parts that the file does not have.
    pub config: Option<PathBuf>,
    /// Parts taken from elsewhere, by their folders' names: a file, a part's folder, or the folder of a whole model.
    pub components: BTreeMap<String, PathBuf>,
}

impl ModelFiles {
    /// A folder or a file alone.
    pub fn of(model: impl Into<PathBuf>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }
}

/// Files that were found and read as far as their headers.
#[derive(Debug)]
pub(super) struct Origin {
    /// Where the configurations are.
    pub(super) folder: PathBuf,
    file: Option<SingleFile>,
    components: BTreeMap<String, PathBuf>,
}

#[derive(Debug)]
struct SingleFile {
    path: PathBuf,
    weights: Arc<SafetensorsFolder>,
    recognised: Recognised,
}

/// What answers for one part.
pub(super) enum PartWeights {
    /// A component in diffusers' names.
    Folder(SafetensorsFolder),
    /// A part of a file.
    Mapped(MappedPart),
}

impl PartWeights {
    pub(super) fn source(&self) -> &dyn WeightSource {
        match self {
            Self::Folder(weights) => weights,
            Self::Mapped(weights) => weights,
        }
    }
}

impl Origin {
    pub(super) fn open(files: &ModelFiles) -> Result<Self, ModelError> {
        let components = files.components.clone();
        if files.model.is_dir() {
            if files.config.is_some() {
                return Err(ModelError::ConfigForFolder { path: files.model.clone() });
            }
            return Ok(Self { folder: files.model.clone(), file: None, components });
        }
        if !files.model.exists() {
            return Err(ModelError::NotFound { path: files.model.clone() });
        }
        let file = SingleFile::open(&files.model)?;
        let folder = match &files.config {
            Some(config) if config.is_dir() => config.clone(),
            Some(config) => return Err(ModelError::NotAFolder { path: config.clone() }),
            None if file.recognised.reads_t5 => return Err(file.needs_config()),
            None => built_in::folder(file.recognised.configuration),
        };
        Ok(Self { folder, file: Some(file), components })
    }

    /// Refuses a configuration of another family than the file's, and components that the model does not have.
    pub(super) fn check(&self, spec: &dyn ModelSpec) -> Result<(), ModelError> {
        if let Some(file) = &self.file
            && file.recognised.family != spec.family()
        {
            let (path, folder) = (file.path.clone(), self.folder.clone());
            return Err(ModelError::OtherFamily { path, family: file.recognised.family, folder, configured: spec.family() });
        }
        let is_part = |name: &&String| spec.parts().iter().any(|part| part.folder == **name);
        match self.components.keys().find(|name| !is_part(name)) {
            None => Ok(()),
            Some(name) => {
                let known = spec.parts().iter().map(|part| part.folder).collect();
                Err(ModelError::UnknownComponent { name: name.clone(), known })
            }
        }
    }

    /// Finds what answers for a part, by all that its network asks for.
    pub(super) fn part(&self, part: &Part, family: &str, asked: &[(String, Vec<usize>)]) -> Result<PartWeights, ModelError> {
        let mismatch = |source| ModelError::Mismatch { part: part.folder, source: Box::new(source) };
        if let Some(path) = self.components.get(part.folder) {
            if path.is_dir() {
                return Ok(PartWeights::Folder(open_component(&own_folder(path, part.folder))?));
            }
            let file = Arc::new(open_file(path)?);
            refuse_scaled(path, file.index())?;
            let mapped = MappedPart::new(&file, &family::layouts_alone(family, part), asked).map_err(mismatch)?;
            return Ok(PartWeights::Mapped(mapped));
        }
        let Some(file) = &self.file else {
            return Ok(PartWeights::Folder(open_component(&self.folder.join(part.folder))?));
        };
        let layouts = family::layouts_within(family, part);
        let is_within = layouts.iter().any(|layout| MappedPart::answers(file.weights.index(), *layout, asked));
        if is_within {
            return Ok(PartWeights::Mapped(MappedPart::new(&file.weights, layouts, asked).map_err(mismatch)?));
        }
        let beside = self.folder.join(part.folder);
        match beside.is_dir() {
            true => Ok(PartWeights::Folder(open_component(&beside)?)),
            false => Err(ModelError::PartNotInFile { path: file.path.clone(), family: file.recognised.family, part: part.folder }),
        }
    }

    /// The single file's path.
    pub(super) fn single_file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// The single file's path, where no other file is the model's own.
    pub(super) fn only_file(&self) -> Option<&Path> {
        self.single_file().filter(|_| built_in::is_built_in(&self.folder))
    }

    /// The model's own files of a part that comes from elsewhere: none where it has no such weights, or none that can be read.
    pub(super) fn own_files(&self, part: &str) -> Vec<PathBuf> {
        match &self.file {
            Some(file) => vec![file.path.clone()],
            None => open_component(&self.folder.join(part)).map(|own| own.index().files().to_vec()).unwrap_or_default(),
        }
    }

    /// Tensors of the single file that no part uses, in the order of their names.
    pub(super) fn unused<'a>(&'a self, parts: impl Iterator<Item = &'a PartWeights>) -> Vec<String> {
        let Some(file) = &self.file else { return Vec::new() };
        let mapped = parts.filter_map(|part| match part {
            PartWeights::Mapped(mapped) => Some(mapped),
            PartWeights::Folder(_) => None,
        });
        let used: std::collections::BTreeSet<&str> = mapped.flat_map(MappedPart::used).collect();
        file.weights.index().iter().map(|(name, _)| name).filter(|name| !used.contains(name)).map(str::to_owned).collect()
    }
}

impl SingleFile {
    fn open(path: &Path) -> Result<Self, ModelError> {
        let weights = Arc::new(open_file(path)?);
        let path = path.to_path_buf();
        match family::recognise(weights.index()).as_slice() {
            [recognised] => {
                refuse_scaled(&path, weights.index())?;
                Ok(Self { path, weights, recognised: *recognised })
            }
            [] => {
                let (kind, remedy) = describe(weights.index());
                Err(ModelError::NotACheckpoint { path, kind, remedy })
            }
            several => Err(ModelError::Mixed { path, families: several.iter().map(|recognised| recognised.family).collect() }),
        }
    }

    fn needs_config(&self) -> ModelError {
        ModelError::NeedsConfig { path: self.path.clone(), family: self.recognised.family }
    }
}

/// Where a part lies in a folder that is the part's own, or that of a whole model.
pub(super) fn own_folder(folder: &Path, part: &str) -> PathBuf {
    let within = folder.join(part);
    if within.is_dir() { within } else { folder.to_path_buf() }
}

fn refuse_scaled(path: &Path, index: &TensorIndex) -> Result<(), ModelError> {
    let is_scale = |name: &str| name == "scaled_fp8" || SCALE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    match index.iter().find(|(name, _)| is_scale(name)) {
        None => Ok(()),
        Some((name, _)) => Err(ModelError::Scaled { path: path.to_path_buf(), name: name.to_owned() }),
    }
}
