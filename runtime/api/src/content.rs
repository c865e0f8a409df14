//! What is in the content store: files in chunks that are named by their sha256, and a manifest that lists them. A manifest is named by
//! the sha256 of its own bytes, so that whoever knows that name can check everything below it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Bytes of a chunk; a file's last one may have fewer. Small enough to be held in memory, sent again and checked while it comes, and large
/// enough for the store: a checkpoint of 7 GB has 417.
pub const CHUNK_BYTES: u64 = 16 << 20;
/// Files of one manifest; a folder in diffusers' layout has below 50, and some dozens of shards.
pub const FILES_LIMIT: usize = 512;
/// Bytes of a manifest: enough for the chunks of a terabyte.
pub const MANIFEST_LIMIT_BYTES: usize = 8 << 20;
/// How the URI of a model begins that is read from the content store; its manifest's digest follows.
pub const CONTENT_SCHEME: &str = "content:";
/// Characters of a file's name, folders included.
const NAME_LIMIT: usize = 255;

/// What an import brought: the files that make a model, and what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentManifest {
    /// In the order of their names.
    pub files: Vec<ContentFile>,
    /// The name of the one file that is the model; empty where all of them together are a folder in diffusers' layout.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Of a model that is one file: the folder, among the files, whose configurations replace the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The architecture that was recognised, as manifests of models spell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// The sampler in the model's own folder, by diffusers' class name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Tensors of all parts.
    pub tensors: u64,
    /// Bytes of all tensors, as stored.
    pub weight_bytes: u64,
    /// The digest that `spec.source.sha256` may pin.
    pub sha256: String,
}

/// One file of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentFile {
    /// Relative, with `/` between folders.
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
    /// The sha256 of each chunk, in order; none of a file without bytes.
    pub chunks: Vec<String>,
}

/// Why a manifest is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    Files { count: usize },
    Name { name: String },
    Order { name: String },
    Sha256 { name: String },
    Chunks { name: String, chunks: usize, bytes: u64 },
    NoSuchFile { name: String },
}

impl std::fmt::Display for ManifestError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files { count } => write!(formatter, "the manifest lists {count} files; 1 to {FILES_LIMIT} are possible"),
            Self::Name { name } => write!(formatter, "the manifest lists the file {name:?}, which is no relative path of plain names"),
            Self::Order { name } => write!(formatter, "the manifest lists the file {name:?} twice, within another file, or out of order"),
            Self::Sha256 { name } => write!(formatter, "a sha256 of {name:?} is not 64 hexadecimal digits in lower case"),
            Self::Chunks { name, chunks, bytes } => write!(formatter, "the file {name:?} of {bytes} bytes has {chunks} chunks"),
            Self::NoSuchFile { name } => write!(formatter, "the manifest names {name:?}, which is not among its files"),
        }
    }
}

impl std::error::Error for ManifestError {}

impl ContentManifest {
    /// Whether everything it says can be true. After this its names are safe to be joined to a folder's path.
    ///
    /// # Errors
    /// [`ManifestError`] for the first thing that cannot.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.files.is_empty() || self.files.len() > FILES_LIMIT {
            return Err(ManifestError::Files { count: self.files.len() });
        }
        let mut before: Option<&str> = None;
        let mut folders = BTreeSet::new();
        for file in &self.files {
            file.check()?;
            let name = file.name.as_str();
            let is_below_file = |end: usize| self.files.iter().any(|other| other.name == name[..end]);
            folders.extend(name.match_indices('/').map(|(end, _)| &name[..end]));
            if before.is_some_and(|before| before >= name) || name.match_indices('/').any(|(end, _)| is_below_file(end)) {
                return Err(ManifestError::Order { name: name.to_owned() });
            }
            before = Some(name);
        }
        if !is_sha256(&self.sha256) {
            return Err(ManifestError::Sha256 { name: self.model.clone() });
        }
        if !self.model.is_empty() && !self.files.iter().any(|file| file.name == self.model) {
            return Err(ManifestError::NoSuchFile { name: self.model.clone() });
        }
        match &self.config {
            Some(config) if self.model.is_empty() || !folders.contains(config.as_str()) => {
                Err(ManifestError::NoSuchFile { name: config.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// Every chunk with its size, each once.
    pub fn chunks(&self) -> BTreeSet<(&str, u64)> {
        self.files.iter().flat_map(ContentFile::sized_chunks).collect()
    }
}

impl ContentFile {
    /// Its chunks with their sizes, in order.
    pub fn sized_chunks(&self) -> impl Iterator<Item = (&str, u64)> {
        let sizes = (0_u64..).map(|index| CHUNK_BYTES.min(self.bytes.saturating_sub(index.saturating_mul(CHUNK_BYTES))));
        self.chunks.iter().map(String::as_str).zip(sizes)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let name = || self.name.clone();
        if !is_plain_path(&self.name) {
            return Err(ManifestError::Name { name: name() });
        }
        if !self.chunks.iter().chain([&self.sha256]).all(|digest| is_sha256(digest)) {
            return Err(ManifestError::Sha256 { name: name() });
        }
        if self.chunks.len() as u64 != self.bytes.div_ceil(CHUNK_BYTES) {
            return Err(ManifestError::Chunks { name: name(), chunks: self.chunks.len(), bytes: self.bytes });
        }
        Ok(())
    }
}

/// Only what every file system takes and none reads as anything but a name.
fn is_plain_path(name: &str) -> bool {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'(' | b')' | b' '))
    };
    name.len() <= NAME_LIMIT && name.split('/').all(is_plain)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Where one manifest and everything in it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentSource {
    /// sha256 of the manifest's bytes, in hex.
    pub digest: String,
    /// A URL that was signed for reading its [`ContentListing`]. It is a secret: it is never logged.
    pub listing_url: String,
}

impl std::fmt::Debug for ContentSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ContentSource").field("digest", &self.digest).field("listing_url", &"<signed>").finish()
    }
}

/// A manifest, and where its chunks are for a while.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentListing {
    /// The manifest's own bytes, which its digest is of.
    pub manifest: String,
    /// For each file, URLs signed for reading its chunks, in their order. They are secrets.
    pub chunk_urls: Vec<Vec<String>>,
}

impl std::fmt::Debug for ContentListing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ContentListing").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> ContentFile {
        let digest = "ab".repeat(32);
        ContentFile { name: name.to_owned(), bytes, sha256: digest.clone(), chunks: vec![digest; bytes.div_ceil(CHUNK_BYTES) as usize] }
    }

    fn manifest(files: Vec<ContentFile>) -> ContentManifest {
        ContentManifest {
            files,
            model: String::new(),
            config: None,
            family: None,
            sampler: None,
            tensors: 1,
            weight_bytes: 1,
            sha256: "cd".repeat(32),
        }
    }

    #[test]
    fn files_are_cut_into_chunks_of_which_the_last_may_be_short() {
        let file = file("a", CHUNK_BYTES * 2 + 5);
        assert_eq!(file.sized_chunks().map(|(_, bytes)| bytes).collect::<Vec<_>>(), [CHUNK_BYTES, CHUNK_BYTES, 5]);
        assert_eq!(manifest(vec![file]).check(), Ok(()));
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for name in ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a\\b", "a\0", "C:a", "ü", &"a".repeat(256)] {
            assert_eq!(manifest(vec![file(name, 1)]).check(), Err(ManifestError::Name { name: name.to_owned() }), "{name}");
        }
        assert_eq!(manifest(vec![file("unet/model-00001-of-00002.fp16.safetensors", 1)]).check(), Ok(()));
    }

    #[test]
    fn manifests_that_contradict_themselves_are_refused() {
        let order = |names: &[&str]| manifest(names.iter().map(|name| file(name, 1)).collect()).check().is_err();
        assert!(order(&[]) && order(&["b", "a"]) && order(&["a", "a"]) && order(&["a", "a/b"]) && !order(&["a", "b"]));
        let mut short = file("a", CHUNK_BYTES + 1);
        short.chunks.pop();
        assert!(matches!(manifest(vec![short]).check(), Err(ManifestError::Chunks { .. })));
        let mut upper = file("a", 1);
        upper.chunks[0] = "AB".repeat(32);
        assert!(matches!(manifest(vec![upper]).check(), Err(ManifestError::Sha256 { .. })));
        let of = |model: &str, config: Option<&str>| {
            let files = vec![file("config/model_index.json", 1), file("m.safetensors", 1)];
            ContentManifest { model: model.to_owned(), config: config.map(str::to_owned), ..manifest(files) }.check().is_ok()
        };
        assert!(of("m.safetensors", Some("config")) && of("", None));
        assert!(!of("x", None) && !of("m.safetensors", Some("x")) && !of("", Some("config")));
    }
}
