//! The pictures that callers send or name: read, fetched under rules, looked at, and kept until the requests that use them have ended.
//! Replicas get them with URLs that were signed for reading. It knows no tasks and no dialects.
//!
//! ```text
//! call ─ Picture ─► Intake ─ fetch (AddressRules) ─► size from the header ─► store by sha256, durable ─► journal entry
//!                                                                              ▲
//!                                       replica ─ GET a signed URL ────────────┘
//! ```

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::s3::S3Error;

#[cfg(test)]
mod contract;
mod fetch;
mod folder;
mod intake;
pub(crate) mod picture;
mod routes;
mod s3;
mod source;

pub use egress::AddressRules;
pub use fetch::Fetcher;
pub use folder::FolderInputs;
pub use intake::{Intake, Taken};
pub use picture::Size;
pub use routes::{INPUT_ROUTE, routes};
pub use s3::S3Inputs;
pub use source::{Picture, PictureSource};

/// Bytes of one picture as it comes in.
pub const INPUT_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("the folder for inputs {path} cannot be made: {source}; name a folder this user may write to")]
    Open { path: String, source: std::io::Error },
    #[error("the input cannot be read: {0}")]
    Read(#[source] std::io::Error),
    #[error("the input cannot be written: {0}")]
    Write(#[source] std::io::Error),
    #[error("the store of inputs holds {limit_bytes} bytes already")]
    Full { limit_bytes: u64 },
    #[error(transparent)]
    S3(#[from] S3Error),
}

/// Keeps pictures by their sha256, in hex.
#[async_trait]
pub trait InputStore: Send + Sync + Debug {
    /// Keeps the bytes and returns their sha256. Durable when it returns: a crash right after loses nothing.
    async fn put(&self, bytes: Bytes) -> Result<String, InputError>;
    /// A URL on `base` (the address that replicas reach, without a trailing slash) good for reading until `expires`. A store that replicas
    /// reach without the router has no use for `base`.
    async fn signed_get_url(&self, base: &str, sha256: &str, expires: SystemTime) -> Result<String, InputError>;
    /// Removes what is not `needed` and was not put for `retention`. Returns how many inputs that were.
    async fn sweep(&self, needed: &HashSet<String>, retention: Duration) -> Result<usize, InputError>;
}
