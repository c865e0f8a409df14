//! What a replica tells about a generation while it works on it.

use serde::{Deserialize, Serialize};

/// One server-sent event: its `event:` name is the variant, its `data:` this JSON. The last event of a stream is `done` or `failed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// Waits behind this many other generations.
    Queued {
        ahead: u32,
    },
    /// The weights are being read; `bytes_total` is 0 until the header was read.
    Loading {
        bytes_done: u64,
        bytes_total: u64,
    },
    /// Some image of the request finished one more denoiser evaluation.
    Step {
        image: u32,
        evaluation: u32,
        evaluations: u32,
    },
    /// A look at an unfinished image: base64 of a PNG.
    Preview {
        image: u32,
        index: u32,
        png_base64: String,
    },
    /// Every image was stored at its target.
    Done {
        timings: Timings,
        /// Of each image, in order; empty where they were not checked.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        nsfw_content_detected: Vec<bool>,
        /// The family that the model's own files tell, as manifests spell it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        family: Option<String>,
    },
    Failed(Failure),
}

/// Where the time of one generation went. Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Waiting in the replica's queue.
    pub queue_ms: u64,
    /// Bringing imported weights from the content store to the replica's disk; 0 when they were there.
    #[serde(default)]
    pub fetch_ms: u64,
    /// Reading weights; 0 when they were resident.
    pub load_ms: u64,
    pub encode_ms: u64,
    pub denoise_ms: u64,
    pub decode_ms: u64,
    /// Checking where it was asked for, writing the files, and storing them.
    pub upload_ms: u64,
    pub weights_from: WeightsTier,
}

/// Where a replica found the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsTier {
    /// Resident in the device's memory: nothing was read.
    #[default]
    Device,
    /// Read from a local disk.
    Disk,
    /// Brought from the content store first.
    ContentStore,
}

/// Why a generation ended without its images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: FailureReason,
    /// For people: what was wrong and what to do.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The caller can mend it: the request does not fit this model. Not retried.
    InvalidRequest,
    /// The checkpoint cannot be served: truncated, wrong shapes, not safetensors. Not retried.
    InvalidModel,
    /// The queue is full or the memory is in use; another replica or a later try may do.
    Busy,
    /// `deadline_ms` passed.
    DeadlineExceeded,
    /// The router closed the stream or asked for it.
    Cancelled,
    /// The images could not be stored.
    OutputRejected,
    /// Anything else; retried elsewhere within the router's bound.
    Internal,
}
