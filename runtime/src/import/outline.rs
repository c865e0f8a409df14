//! What a model is, before its bulk is fetched: configurations and vocabularies whole, and of each file of weights its header, in a file that
//! has its size and otherwise nothing but a hole. So the very code that loads models decides whether this one would load, by the names
//! and shapes of all its tensors, for a few hundred kilobytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use diffusion::adapter::AdapterFile;
use diffusion::model::{ModelFiles, ModelFolder};
use diffusion::text::Embedding;
use diffusion::weights::{MAX_HEADER_BYTES, SafetensorsFolder, WeightSource, open_file};
use egress::Client;
use runtime_api::{ContentFile, ContentManifest};
use serde_json::Value;

use super::catalogue::{Catalogue, Folder, Found};
use super::choice::{self, MODEL_INDEX, Weights};
use super::remote::Remote;
use super::{ImportError, Kind, Order};
use crate::engine::chain;

/// Bytes of a configuration or a vocabulary.
const SMALL_FILE_LIMIT_BYTES: u64 = 64 << 20;
/// Bytes that tell what a file is that is no safetensors.
const SIGNATURE_BYTES: u64 = 64;
/// Bytes that hold a header's length.
const LENGTH_BYTES: usize = 8;
/// Where the configuration of a single file goes.
const CONFIG_FOLDER: &str = "config";
/// Says of a VAE beside it for which latents it is.
const VAE_CONFIG: &str = "config.json";
/// For a single file whose own name cannot be kept.
const FILE_NAME: &str = "model.safetensors";
/// Shards of one part.
const SHARDS_LIMIT: usize = 256;

/// Everything that is known before the bulk comes.
#[derive(Debug)]
pub(super) struct Outline {
    /// In the order in which they are transferred: those that decide an image first, in the digest's order.
    pub(super) files: Vec<OutlineFile>,
    /// The name of the file that is the model, where it is no folder.
    pub(super) model: Option<String>,
    config: Option<String>,
    pub(super) facts: Facts,
    /// Removed with this.
    _scratch: tempfile::TempDir,
}

/// One file of the model.
#[derive(Debug)]
pub(super) struct OutlineFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) source: Source,
    /// Whether the digest of the folder is of it, too.
    pub(super) decides: bool,
}

/// Where its bytes are.
#[derive(Debug)]
pub(super) enum Source {
    /// Here, whole.
    Here(PathBuf),
    /// At its publisher; `head` is how it began when it was looked at.
    There { remote: Remote, head: Vec<u8> },
}

/// What the headers say.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) family: Option<String>,
    sampler: Option<String>,
    tensors: u64,
    weight_bytes: u64,
}

impl Outline {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    pub(super) fn manifest(&self, (mut files, sha256): (Vec<ContentFile>, String)) -> ContentManifest {
        files.sort_by(|one, other| one.name.cmp(&other.name));
        ContentManifest {
            files,
            model: self.model.clone().unwrap_or_default(),
            config: self.config.clone(),
            family: self.facts.family.clone(),
            sampler: self.facts.sampler.clone(),
            tensors: self.facts.tensors,
            weight_bytes: self.facts.weight_bytes,
            sha256,
        }
    }
}

pub(super) async fn draw(client: &Client, order: &Order, catalogue: &Catalogue) -> Result<Outline, ImportError> {
    let mut sketch = Sketch::new(client, order.max_bytes)?;
    let mut model = None;
    match &catalogue.model {
        Found::File(remote) => model = Some(sketch.file(remote).await?),
        Found::Folder(folder) if order.kind == Kind::Checkpoint && folder.contains_key(MODEL_INDEX) => {
            if order.config.is_some() {
                let reason = "the source is a folder with configurations of its own; source.config is for a single file".to_owned();
                return Err(ImportError::Refused { reason });
            }
            sketch.folder("", folder).await?;
        }
        Found::Folder(folder) => {
            let name = choice::only_file(folder.keys()).map_err(|reason| ImportError::Refused { reason })?;
            model = Some(sketch.file(&folder[name]).await?);
            if let Some(config) = folder.get(VAE_CONFIG).filter(|_| order.kind == Kind::Vae) {
                sketch.small(VAE_CONFIG, config).await?;
            }
        }
    }
    let config = match &catalogue.config {
        Some(folder) => {
            sketch.folder(&format!("{CONFIG_FOLDER}/"), folder).await?;
            Some(CONFIG_FOLDER.to_owned())
        }
        None => None,
    };
    sketch.finish(order.kind, model, config).await
}

/// Files as they come together in a folder.
struct Sketch<'a> {
    client: &'a Client,
    scratch: tempfile::TempDir,
    max_bytes: u64,
    files: BTreeMap<String, OutlineFile>,
}

impl<'a> Sketch<'a> {
    fn new(client: &'a Client, max_bytes: u64) -> Result<Self, ImportError> {
        let scratch = tempfile::Builder::new().prefix("emulsion-import-").tempdir().map_err(ImportError::Scratch)?;
        Ok(Self { client, scratch, max_bytes, files: BTreeMap::new() })
    }

    /// A single file of weights; answers its name.
    async fn file(&mut self, remote: &Remote) -> Result<String, ImportError> {
        self.head(None, remote).await
    }

    /// The files of a folder in diffusers' layout that the loader would read, `within` a folder of ours.
    async fn folder(&mut self, within: &str, folder: &Folder) -> Result<(), ImportError> {
        for name in choice::small_files(folder.keys()) {
            self.small(&format!("{within}{name}"), &folder[name]).await?;
        }
        for part in self.parts(within)? {
            match choice::weights(&part, |name| folder.contains_key(name)) {
                Some(Weights::File(name)) => drop(self.head(Some(&format!("{within}{name}")), &folder[&name]).await?),
                Some(Weights::Shards(index)) => self.shards(within, &index, folder).await?,
                // The loader says what it misses.
                None => {}
            }
        }
        Ok(())
    }

    /// The parts of the pipeline that have weights, as its configuration names them.
    fn parts(&self, within: &str) -> Result<Vec<String>, ImportError> {
        let root = self.scratch.path().join(within);
        let spec = diffusion::family::open(&root).map_err(|error| self.refused(&error))?;
        Ok(spec.parts().iter().map(|part| part.folder.to_owned()).collect())
    }

    async fn shards(&mut self, within: &str, index: &str, folder: &Folder) -> Result<(), ImportError> {
        self.small(&format!("{within}{index}"), &folder[index]).await?;
        let text = std::fs::read(self.path(&format!("{within}{index}"))).map_err(ImportError::Scratch)?;
        let index_of = serde_json::from_slice::<Value>(&text).unwrap_or_default();
        let map = index_of.get("weight_map").and_then(Value::as_object);
        let named: BTreeSet<&str> =
            map.into_iter().flat_map(|map| map.values()).filter_map(Value::as_str).take(SHARDS_LIMIT * 4096).collect();
        let part = index.split_once('/').map_or("", |(part, _)| part);
        for shard in named.into_iter().take(SHARDS_LIMIT) {
            let name = format!("{part}/{shard}");
            // One that is not there, or elsewhere, is the loader's to refuse.
            if let Some(remote) = folder.get(&name) {
                self.head(Some(&format!("{within}{name}")), remote).await?;
            }
        }
        Ok(())
    }

    async fn small(&mut self, name: &str, remote: &Remote) -> Result<(), ImportError> {
        let file = remote.read(self.client, SMALL_FILE_LIMIT_BYTES).await?;
        let (path, bytes) = (self.path(name), file.len() as u64);
        write(&path, &file, bytes).map_err(ImportError::Scratch)?;
        let source = Source::Here(path);
        self.files.insert(name.to_owned(), OutlineFile { name: name.to_owned(), bytes, source, decides: false });
        Ok(())
    }

    /// The beginning of a file of weights, and a hole for the rest.
    async fn head(&mut self, name: Option<&str>, remote: &Remote) -> Result<String, ImportError> {
        let mut reader = remote.open(self.client).await?;
        let bytes = reader.total();
        let sum = self.files.values().map(|file| file.bytes).fold(bytes, u64::saturating_add);
        if sum > self.max_bytes {
            let (name, limit) = (remote.name.clone(), self.max_bytes);
            return Err(ImportError::TooLarge { name, bytes: sum, limit, remedy: "; --max-bytes allows more" });
        }
        let mut head = Vec::new();
        while (head.len() as u64) < wanted(&head).min(bytes) {
            match reader.next().await? {
                Some(piece) => head.extend_from_slice(&piece),
                None => break,
            }
        }
        let kept = wanted(&head).min(head.len() as u64) as usize;
        head.truncate(kept);
        let name = name.map_or_else(|| plain_name(reader.file_name(), remote), str::to_owned);
        write(&self.path(&name), &head, bytes).map_err(ImportError::Scratch)?;
        let source = Source::There { remote: remote.clone(), head };
        self.files.insert(name.clone(), OutlineFile { name: name.clone(), bytes, source, decides: false });
        Ok(name)
    }

    async fn finish(self, kind: Kind, model: Option<String>, config: Option<String>) -> Result<Outline, ImportError> {
        let root = self.scratch.path().to_owned();
        let files = ModelFiles {
            model: model.as_ref().map_or_else(|| root.clone(), |name| root.join(name)),
            config: config.as_ref().map(|name| root.join(name)),
            components: BTreeMap::new(),
        };
        let opened = tokio::task::spawn_blocking(move || open(kind, &files)).await;
        let (facts, deciding) = match opened {
            Ok(opened) => opened.map_err(|reason| ImportError::Refused { reason: self.without_scratch(&reason) })?,
            Err(_) => {
                let reason = "reading the headers ended in a panic; the files are not what they claim".to_owned();
                return Err(ImportError::Refused { reason });
            }
        };
        let Self { scratch, files: mut found, .. } = self;
        let mut files = Vec::new();
        for path in deciding {
            let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            // What is built in comes from nowhere.
            files.extend(found.remove(&name).map(|file| OutlineFile { decides: true, ..file }));
        }
        // An index decides nothing, and is needed to find its shards.
        let is_needed = |index: &OutlineFile| {
            let part = index.name.rsplit_once('/').map_or("", |(part, _)| part);
            index.name.ends_with(".json")
                && index.name.contains(".safetensors.index.")
                && files.iter().any(|file| file.name.starts_with(part))
        };
        let indices: Vec<OutlineFile> = found.into_values().filter(is_needed).collect();
        files.extend(indices);
        Ok(Outline { files, model, config, facts, _scratch: scratch })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn refused(&self, error: &dyn std::error::Error) -> ImportError {
        ImportError::Refused { reason: self.without_scratch(&chain(error)) }
    }

    /// Where this machine keeps files for a moment says nobody anything.
    fn without_scratch(&self, reason: &str) -> String {
        let folder = format!("{}/", self.scratch.path().display());
        reason.replace(&folder, "").replace(folder.trim_end_matches('/'), "the repository")
    }
}

/// What is known by the headers, and the files that decide an image, in the order of their digest.
fn open(kind: Kind, files: &ModelFiles) -> Result<(Facts, Vec<PathBuf>), String> {
    let alone = || vec![files.model.clone()];
    match kind {
        Kind::Checkpoint => {
            let model = ModelFolder::open_files(files).map_err(|error| chain(&error))?;
            let facts = Facts {
                family: Some(model.family().to_owned()),
                sampler: model.own_sampler().map(str::to_owned),
                tensors: model.tensors() as u64,
                weight_bytes: model.stored_bytes(),
            };
            Ok((facts, model.deciding_files()))
        }
        Kind::Lora => {
            let adapter = AdapterFile::open(&files.model).map_err(|error| chain(&error))?;
            let (tensors, weight_bytes) = adapter.size();
            let family = adapter.family().map(str::to_owned);
            Ok((Facts { family, sampler: None, tensors: tensors as u64, weight_bytes }, alone()))
        }
        Kind::Embedding => {
            let embedding = Embedding::open(&files.model).map_err(|error| chain(&error))?;
            Ok((Facts { tensors: 1, weight_bytes: embedding.bytes() as u64, ..Facts::default() }, alone()))
        }
        Kind::Vae => {
            let weights = open_file(&files.model).map_err(|error| chain(&error))?;
            if !is_autoencoder(&weights) {
                return Err(format!("it is no VAE: it has no tensor {OF_AUTOENCODER}"));
            }
            let (tensors, weight_bytes) = (weights.index().len() as u64, weights.index().bytes());
            let config = files.model.with_file_name(VAE_CONFIG);
            let deciding = alone().into_iter().chain(config.is_file().then_some(config)).collect();
            Ok((Facts { tensors, weight_bytes, ..Facts::default() }, deciding))
        }
    }
}

/// A tensor that every autoencoder has in diffusers' names and in those of Latent Diffusion, there below the autoencoder's own name or not.
const OF_AUTOENCODER: &str = "decoder.conv_in.weight";

fn is_autoencoder(weights: &SafetensorsFolder) -> bool {
    let own = |name: &str| name.strip_suffix(OF_AUTOENCODER).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    weights.index().iter().any(|(name, info)| own(name) && info.shape.len() == 4)
}

/// How much of a file must be seen of which this is the beginning.
fn wanted(head: &[u8]) -> u64 {
    match head.first_chunk::<LENGTH_BYTES>() {
        Some(length) if u64::from_le_bytes(*length) <= MAX_HEADER_BYTES => {
            (LENGTH_BYTES as u64 + u64::from_le_bytes(*length)).max(SIGNATURE_BYTES)
        }
        _ => SIGNATURE_BYTES,
    }
}

/// The name that the server gives it, or the URL's last, where that is a plain one.
fn plain_name(given: Option<&str>, remote: &Remote) -> String {
    let last = remote.url.path_segments().and_then(Iterator::last).unwrap_or_default();
    let is_plain = |name: &&str| {
        name.ends_with(".safetensors")
            && name.len() <= 128
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
    };
    given.into_iter().chain([last]).find(is_plain).unwrap_or(FILE_NAME).to_owned()
}

fn write(path: &Path, head: &[u8], bytes: u64) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = File::create(path)?;
    file.write_all(head)?;
    file.set_len(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_looked_at_as_the_header_says_and_never_more() {
        assert_eq!(wanted(&[]), SIGNATURE_BYTES);
        assert_eq!(wanted(&1000_u64.to_le_bytes()), 1008);
        assert_eq!(wanted(b"<!DOCTYPE html>"), SIGNATURE_BYTES);
        assert_eq!(wanted(&u64::MAX.to_le_bytes()), SIGNATURE_BYTES);
    }

    #[test]
    fn files_keep_plain_names() {
        let remote = |url: &str| Remote { name: String::new(), url: url.parse().unwrap(), credentials: None, sha256: None };
        let name = |given, url: &str| plain_name(given, &remote(url));
        assert_eq!(name(None, "https://a.example/x/dream.safetensors?download=1"), "dream.safetensors");
        assert_eq!(name(Some("given.safetensors"), "https://a.example/dream.safetensors"), "given.safetensors");
        assert_eq!(name(Some("../given.safetensors"), "https://a.example/models/12"), FILE_NAME);
    }
}
