//! A component's folder as diffusers writes it: one file, or shards with an index, or their 16-bit variants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::digest::sha256_of_component;
use super::file::{MappedFile, recognise};
use super::{TensorIndex, TensorInfo, WeightSource, WeightsError, decode};
use crate::json::Config;

/// Base names diffusers and transformers give their weights, in the order they are looked for.
const BASE_NAMES: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// The most files one component may be split into; the largest public ones have below 30.
pub(super) const MAX_SHARDS: usize = 256;

/// The tensors of one component (text encoder, UNet, VAE), mapped.
#[derive(Debug)]
pub struct SafetensorsFolder {
    files: Vec<MappedFile>,
    index: TensorIndex,
}

/// Opens the weights in a component's folder.
///
/// Looked for, in this order, each as `diffusion_pytorch_model` and as `model`: `NAME.safetensors`,
/// `NAME.safetensors.index.json` with its shards, `NAME.fp16.safetensors`, `NAME.safetensors.index.fp16.json`.
///
/// # Errors
/// [`WeightsError`] if there are none, or what is there is not acceptable. Pickle files get an answer that says how to convert.
pub fn open_component(folder: &Path) -> Result<SafetensorsFolder, WeightsError> {
    for (single, sharded) in [("safetensors", "safetensors.index.json"), ("fp16.safetensors", "safetensors.index.fp16.json")] {
        for base in BASE_NAMES {
            let file = folder.join(format!("{base}.{single}"));
            if exists(&file)? {
                return SafetensorsFolder::open(&[file]);
            }
            let index = folder.join(format!("{base}.{sharded}"));
            if exists(&index)? {
                return open_shards(folder, &index);
            }
        }
    }
    Err(nothing_found(folder))
}

/// Opens one safetensors file.
///
/// # Errors
/// [`WeightsError`] if it is not acceptable.
pub fn open_file(file: &Path) -> Result<SafetensorsFolder, WeightsError> {
    SafetensorsFolder::open(&[file.to_path_buf()])
}

impl SafetensorsFolder {
    fn open(paths: &[PathBuf]) -> Result<Self, WeightsError> {
        let mut files = Vec::with_capacity(paths.len());
        let mut index = TensorIndex::default();
        for path in paths {
            let (file, header) = MappedFile::open(path)?;
            index.add(path, header)?;
            files.push(file);
        }
        Ok(Self { files, index })
    }

    /// The sha256 that names these weights, as 64 hexadecimal digits: of the file itself if there is one, else of the list of
    /// all files' digests and names. Reads everything.
    ///
    /// # Errors
    /// [`WeightsError::Read`].
    pub fn digest(&self) -> Result<String, WeightsError> {
        sha256_of_component(self.index.files())
    }
}

impl WeightSource for SafetensorsFolder {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor, WeightsError> {
        self.read(name, self.index.expect(name, shape)?, dtype, device)
    }
}

impl SafetensorsFolder {
    /// Reads what `info` describes: a tensor of these files, or a part of one. `name` is for messages.
    pub(super) fn read(&self, name: &str, info: &TensorInfo, dtype: DType, device: &Device) -> Result<Tensor, WeightsError> {
        // Checked when the file was opened; an absent slice would be a defect here, and is still no panic.
        let missing = || WeightsError::Missing { names: vec![name.to_owned()] };
        let file = self.files.get(info.file).ok_or_else(missing)?;
        let bytes = file.bytes(&info.range).ok_or_else(missing)?;
        let release = |done: std::ops::Range<u64>| file.release(&(info.range.start + done.start..info.range.start + done.end));
        decode::tensor(name, bytes, info, &release, dtype, device)
    }
}

/// Whether there is something of this name; a dangling link counts, and fails when it is opened.
fn exists(path: &Path) -> Result<bool, WeightsError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(WeightsError::Read { path: path.to_path_buf(), source }),
    }
}

/// Opens the shards an index names, and checks that the index is right about them.
fn open_shards(folder: &Path, path: &Path) -> Result<SafetensorsFolder, WeightsError> {
    let refused = |reason: String| WeightsError::ShardIndex { path: path.to_path_buf(), reason };
    let config = Config::open(path)?;
    let Some(map) = config.value("weight_map").and_then(|value| value.as_object()) else {
        return Err(refused("it has no object `weight_map`".to_owned()));
    };
    let mut declared = BTreeMap::new();
    for (name, file) in map {
        let Some(file) = file.as_str().filter(|file| is_plain_file_name(file)) else {
            return Err(refused(format!("`{name}` must name a file beside the index, not {file}")));
        };
        declared.insert(name.as_str(), file);
    }
    let shards: BTreeSet<&str> = declared.values().copied().collect();
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return Err(refused(format!("it names {} files; 1 to {MAX_SHARDS} are possible", shards.len())));
    }
    let paths: Vec<PathBuf> = shards.iter().map(|shard| folder.join(shard)).collect();
    let opened = SafetensorsFolder::open(&paths)?;
    for (name, file) in declared {
        let found = opened.index.get(name).map(|info| &opened.index.files()[info.file]);
        if found != Some(&folder.join(file)) {
            return Err(refused(format!("tensor `{name}` is not in {file}, as it says")));
        }
    }
    Ok(opened)
}

/// One normal component: no separator of any system, no `..`, nothing absolute.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let normal = matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    normal && !name.contains(['/', '\\', ':', '\0']) && name.ends_with(".safetensors")
}

/// The answer for a folder without safetensors: what else lies there, if that is known.
fn nothing_found(folder: &Path) -> WeightsError {
    for base in ["diffusion_pytorch_model", "diffusion_pytorch_model.fp16", "pytorch_model", "pytorch_model.fp16", "model"] {
        for extension in ["bin", "ckpt", "pt", "pth", "pickle"] {
            let path = folder.join(format!("{base}.{extension}"));
            if let Some((kind, remedy)) = recognise(&path) {
                return WeightsError::Format { path, kind, remedy };
            }
        }
    }
    match std::fs::read_dir(folder) {
        Ok(_) => WeightsError::NoWeights {
            folder: folder.to_path_buf(),
            expected: BASE_NAMES.map(|base| format!("{base}.safetensors")).join(", "),
        },
        Err(source) => WeightsError::Read { path: folder.to_path_buf(), source },
    }
}
