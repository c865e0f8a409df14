//! Brings weights in from where they are published: recognised by their headers before the bulk is fetched, checked, and put into the content
//! store chunk by chunk. It holds no credentials but those of its source.
//!
//! ```text
//! URI ─► catalogue (which files there are) ─► outline (configurations, headers: does it load?) ─► transfer (bytes ─► chunks ─► store) ─► manifest
//! ```
//! Nothing of the weights stays on this machine's disk. Where it stops before the manifest, nothing was imported.

use std::time::Duration;

use egress::{AddressRules, Client};
use runtime_api::Imported;

mod catalogue;
mod choice;
mod error;
mod hub;
mod outline;
mod remote;
mod s3;
mod store;
mod transfer;

pub use catalogue::{Places, SourceUri};
pub use error::ImportError;
pub use s3::S3Place;
pub use store::RouterAddress;

/// What a set of weights is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Checkpoint,
    Lora,
    Embedding,
    Vae,
}

/// What is to be imported, and under which bounds.
#[derive(Debug)]
pub struct Order {
    pub source: SourceUri,
    pub kind: Kind,
    /// The digest that it must have.
    pub sha256: Option<String>,
    /// For one file: the folder whose configurations replace the built-in ones.
    pub config: Option<SourceUri>,
    /// Bytes of all files together.
    pub max_bytes: u64,
    /// For everything.
    pub deadline: Duration,
    pub places: Places,
    pub rules: AddressRules,
    pub router: RouterAddress,
}

/// Imports. `tell` is told how far it is, in words for people.
///
/// # Errors
/// [`ImportError`]; nothing of what was fetched can be seen then.
pub async fn import(order: &Order, tell: &(dyn Fn(&str) + Sync)) -> Result<Imported, ImportError> {
    let bounded = tokio::time::timeout(order.deadline, run(order, tell)).await;
    bounded.unwrap_or(Err(ImportError::Deadline { seconds: order.deadline.as_secs() }))
}

async fn run(order: &Order, tell: &(dyn Fn(&str) + Sync)) -> Result<Imported, ImportError> {
    let client = Client::new(order.rules.clone());
    tell("looking at the source");
    let catalogue = catalogue::open(&client, order).await?;
    let outline = outline::draw(&client, order, &catalogue).await?;
    let family = outline.facts.family.as_deref().unwrap_or("an unknown family");
    tell(&format!("{family}, {} files of {} MiB; fetching", outline.files.len(), outline.bytes() >> 20));
    let store = store::Store::new(order.router.clone());
    let files = transfer::transfer(&client, &store, &outline, order.sha256.as_deref(), tell).await?;
    let manifest = outline.manifest(files);
    let content = store.publish(&manifest).await?;
    let (bytes, tensors) = (manifest.bytes(), manifest.tensors);
    Ok(Imported { content, sha256: manifest.sha256, family: manifest.family, sampler: manifest.sampler, bytes, tensors })
}
