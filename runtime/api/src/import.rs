//! What an import and the router say to each other. An import parses what strangers made, so it holds neither the store's credentials nor the
//! database's: it asks the router where each chunk goes, with a token that is good for this one import, and hands in its manifest at the end.
//!
//! ```text
//! import ── POST …/chunks    ChunksAsked ─────────────────► router
//!        ◄─ [ChunkPlace] ─────────────────────────────────
//!        ── PUT to a URL that was signed for one chunk ──► store
//!        ── PUT …/manifest   ContentManifest ────────────► router: every chunk is there? then it is published
//!        ◄─ Published ────────────────────────────────────
//! ```

use serde::{Deserialize, Serialize};

/// Below the address that an import was given: where chunks are asked for.
pub const CHUNKS_PATH: &str = "/chunks";
/// Below the address that an import was given: where its manifest goes.
pub const MANIFEST_PATH: &str = "/manifest";
/// Chunks that one question may name.
pub const CHUNKS_ASKED_LIMIT: usize = 64;
/// Environment variable with the token of an import.
pub const IMPORT_TOKEN_VARIABLE: &str = "EMULSION_IMPORT_TOKEN";
/// Environment variables with an import's source and the source of its configuration.
pub const IMPORT_SOURCE_VARIABLE: &str = "EMULSION_IMPORT_SOURCE";
pub const IMPORT_CONFIG_VARIABLE: &str = "EMULSION_IMPORT_CONFIG";
/// How lines on standard output begin that tell how far an import is.
pub const PROGRESS_PREFIX: &str = "import: ";

/// Chunks that an import has and wants to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunksAsked {
    pub chunks: Vec<ChunkAsked>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkAsked {
    pub sha256: String,
    pub bytes: u64,
}

/// Where one of them goes, in the order of the question.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkPlace {
    /// A URL that was signed for one PUT; absent where the chunk is in the store already. It is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_url: Option<String>,
    /// Headers that the PUT must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

impl std::fmt::Debug for ChunkPlace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ChunkPlace").field("is_there", &self.put_url.is_none()).finish_non_exhaustive()
    }
}

/// The manifest is in the store: from now on the content can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// sha256 of the manifest's bytes.
    pub digest: String,
}

/// How an import ended, for whoever started it; below 4 kB, as a container's last message must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ImportResult {
    Imported(Imported),
    Failed {
        /// For people: what was wrong and what to do.
        message: String,
        /// Whether trying again with the same declaration leads to the same end.
        permanent: bool,
    },
}

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The manifest's digest.
    pub content: String,
    /// The digest that `spec.source.sha256` may pin.
    pub sha256: String,
    /// The architecture that was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// The sampler in the model's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Of all files.
    pub bytes: u64,
    pub tensors: u64,
}
