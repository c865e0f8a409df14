//! What a router hands to a replica: the request, where the weights are, and where each image goes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ContentSource, ImageRequest};

/// One generation, sent to one replica. Everything the replica needs is inside; it holds no secrets of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    pub id: Uuid,
    pub model: ModelSource,
    pub request: ImageRequest,
    /// Where each picture that the request names is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputSource>,
    /// The model that the request names as its refiner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refiner: Option<ModelSource>,
    /// Where each adapter and embedding that the request names is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<ModelSource>,
    /// Where the content of each `content:` URI is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<ContentSource>,
    /// One target per sample, in order.
    pub outputs: Vec<OutputTarget>,
    /// Milliseconds the replica may spend, queueing and loading included, before it gives the generation up.
    pub deadline_ms: u64,
    /// How many previews of each unfinished image to send as [`crate::Event::Preview`].
    #[serde(default)]
    pub partial_images: u32,
    /// Text written into the image, key and value, in order: all of it into PNG; of JPEG and WebP, whose EXIF data has one place for
    /// it, `parameters` alone.
    #[serde(default)]
    pub metadata: Vec<(String, String)>,
}

/// Where a model's weights are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSource {
    /// The API's name of the model, for messages and metrics.
    pub id: String,
    /// `file://` URI of a folder in diffusers' layout, or of one file for a checkpoint, an adapter or an embedding, below one of the replica's
    /// `--model-root`s; or `content:` and the digest of what was imported.
    pub uri: String,
    /// Of a model that is one file: `file://` URI of a folder whose configurations and tokenizers replace the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// sha256 that it must have, in hex, where one was declared; of a model without what is merged into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whose weights its autoencoder has instead of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<VaeSource>,
    /// What is merged into the weights, in this order: the same model with other adapters is another model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterSource>,
}

/// Weights of an autoencoder that replace a model's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaeSource {
    /// The API's name of it, for messages.
    pub id: String,
    /// `file://` URI of its file, below one of the replica's `--model-root`s, or `content:` and the digest of what was imported.
    pub uri: String,
    /// sha256 that it must have, in hex, where one was declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// An adapter that is part of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterSource {
    /// The API's name of the adapter, for messages.
    pub id: String,
    /// `file://` URI of its file, below one of the replica's `--model-root`s, or `content:` and the digest of what was imported.
    pub uri: String,
    /// sha256 that it must have, in hex, where one was declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// How strongly it acts; 1 is as it was trained.
    pub scale: f64,
}

/// Where one input picture is. What it is was decided at the edge; the replica still trusts neither its bytes nor its size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSource {
    /// Of its bytes, in hex; the request names it so.
    pub sha256: String,
    /// A URL that was signed for reading it. It is a secret: it is never logged.
    pub get_url: String,
}

impl std::fmt::Debug for InputSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("InputSource").field("sha256", &self.sha256).field("get_url", &"<signed>").finish()
    }
}

/// Where one finished image goes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTarget {
    /// A URL that was signed for one PUT. It is a secret: it is never logged.
    pub put_url: String,
}

impl std::fmt::Debug for OutputTarget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("OutputTarget { put_url: <signed> }")
    }
}
