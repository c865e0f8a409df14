//! The files that decide an image, and their digest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ModelError;
use crate::family::ModelSpec;

/// Files of a tokenizer.
const TOKENIZER_FILES: [&str; 7] =
    ["added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json", "vocab.json"];

/// Files besides the weights. Those that a folder does not have are left out.
fn configuration_files(spec: &dyn ModelSpec) -> Vec<String> {
    let mut files = vec!["model_index.json".to_owned(), "scheduler/scheduler_config.json".to_owned()];
    files.extend(spec.parts().iter().map(|part| format!("{}/config.json", part.folder)));
    files.extend(spec.tokenizers().iter().flat_map(|folder| TOKENIZER_FILES.iter().map(move |file| format!("{folder}/{file}"))));
    files
}

/// How much of a file is in memory at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The files that decide an image, in the order of their names.
pub(super) fn deciding(folder: &Path, spec: &dyn ModelSpec, weights: impl Iterator<Item = PathBuf>) -> BTreeSet<PathBuf> {
    let configurations = configuration_files(spec).into_iter().map(|name| folder.join(name)).filter(|path| path.is_file());
    configurations.chain(weights).collect()
}

/// SHA-256 in hex over name, length and content of every file, in the order of the names.
pub(super) fn digest(folder: &Path, files: &BTreeSet<PathBuf>) -> Result<String, ModelError> {
    let mut digest = FilesDigest::default();
    for path in files {
        let name = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned();
        add(&mut digest, &name, path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
    }
    Ok(digest.finish())
}

/// Computes the digest of a model's folder from its files as they come: [`super::ModelFolder::deciding_files`], in that order.
#[derive(Clone, Debug, Default)]
pub struct FilesDigest(Sha256);

impl FilesDigest {
    /// The next file begins. Lengths keep the border between one file and the next from being moved.
    pub fn begin(&mut self, name: &str, bytes: u64) {
        self.0.update((name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
        self.0.update(bytes.to_le_bytes());
    }

    /// The next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// In hex.
    pub fn finish(self) -> String {
        hexadecimal(self.0)
    }
}

/// The digest of a model with parts from elsewhere, or adapters merged into it: from the model's own, the parts' by name, and the adapters'
/// with their strengths, in their order.
pub(super) fn combined_digest<'a>(model: &str, parts: &[(&str, String)], adapters: impl Iterator<Item = (&'a str, f64)>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("model {model}\n"));
    for (part, digest) in parts {
        hasher.update(format!("{part} {digest}\n"));
    }
    for (digest, scale) in adapters {
        hasher.update(format!("adapter {digest} {scale}\n"));
    }
    hexadecimal(hasher)
}

fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn add(digest: &mut FilesDigest, name: &str, path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    digest.begin(name, file.metadata()?.len());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            count => digest.update(&chunk[..count]),
        }
    }
}
