//! Where finished images are kept and how callers reach them. Replicas put images here with URLs that were signed for one write;
//! callers get them at unguessable paths that are known before the image exists. It knows no tenants, no requests, no dialects.
//!
//! ```text
//! router ─ signed_put_url ─► replica ─ PUT once ─► store ◄─ GET public_path ─ caller
//! ```
//! A folder is served by the router itself; from a bucket, callers are sent on to S3 with a URL that was signed for the moment.

use std::fmt::Debug;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use runtime_api::OutputFormat;
use uuid::Uuid;

mod content;
#[cfg(test)]
mod contract;
mod folder;
mod redirect;
mod routes;
mod s3;
mod secret;
mod signing;

pub use folder::FolderStore;
pub use redirect::routes as redirect_routes;
pub use routes::{OUTPUT_ROUTE, routes};
pub use s3::S3Outputs;
pub use secret::Secret;

use crate::s3::S3Error;

/// The largest image a replica may store: four times an uncompressed 2048×2048 RGB picture would fit; anything larger is no image of ours.
pub const OUTPUT_LIMIT_BYTES: usize = 48 * 1024 * 1024;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("the folder for outputs {path} cannot be made: {source}; name a folder this user may write to")]
    Open { path: String, source: std::io::Error },
    #[error("the output cannot be read: {0}")]
    Read(#[source] std::io::Error),
    #[error("the output cannot be written: {0}")]
    Write(#[source] std::io::Error),
    #[error("the output exists already: each is written once")]
    Exists,
    #[error("the output is not a whole {} file", format.name())]
    OtherFormat { format: OutputFormat },
    #[error("the output is larger than {OUTPUT_LIMIT_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    S3(#[from] S3Error),
}

/// Keeps images by (generation, index of the image within it, format). The same three always name the same object, whichever dispatch writes
/// it, and what is written must be a file of that format.
#[async_trait]
pub trait OutputStore: Send + Sync + Debug {
    /// The path callers GET, below the public address: `/outputs/….png`, `.jpg` or `.webp`. Unguessable, and the same for every dispatch.
    fn public_path(&self, generation: Uuid, image: u32, format: OutputFormat) -> String;
    /// A URL on `base` (the address that replicas reach, without a trailing slash) good for one PUT until `expires`. A second PUT to the
    /// same object is refused with 412, so that a replica that was given up cannot overwrite. The PUT must say `If-None-Match: *` and the
    /// format's `Content-Type`. A store that replicas reach without the router has no use for `base`.
    async fn signed_put_url(
        &self,
        base: &str,
        generation: Uuid,
        image: u32,
        format: OutputFormat,
        expires: SystemTime,
    ) -> Result<String, OutputError>;
    /// The image, or `None` while it is not there.
    async fn read(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<Option<Bytes>, OutputError>;
    /// Whether the image is there, and no larger than any image of ours.
    async fn exists(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<bool, OutputError>;
    /// Removes the image; one that is not there is removed already.
    async fn remove(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<(), OutputError>;
}
