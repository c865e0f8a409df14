//! What the house knows of one request for images, in no dialect: what was submitted, and what became of it.

use std::time::Duration;

use crds::model_deployment::ModelKind;
use runtime_api::{Failure, ImageRequest, Timings};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::inputs::Picture;

/// A request as a dialect hands it in, before admission.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Without the names of its pictures, which are known once they are stored.
    pub request: ImageRequest,
    pub pictures: Pictures,
    /// Whether somebody holds the connection for the answer.
    pub mode: Mode,
    /// Previews wanted of each unfinished image (streaming callers).
    pub partial_images: u32,
    /// The caller's own name for the request, given back in answers.
    pub track_id: Option<String>,
    /// The dialect and version that took the call, for metrics and for the answers' links: `modelslab/v7`, `openai`.
    pub dialect: &'static str,
}

/// The pictures that a request begins with, as the caller sent or named them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pictures {
    pub image: Option<Picture>,
    pub mask: Option<Mask>,
}

/// How a picture says what is drawn anew.
#[derive(Clone, Debug, PartialEq)]
pub enum Mask {
    /// White is drawn anew, black is kept.
    White(Picture),
    /// Transparent is drawn anew, opaque is kept.
    Transparent(Picture),
}

/// What happens when the caller goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The caller waits: when it leaves before the answer, the request is cancelled and not billed.
    Attached,
    /// The caller was told an id: the request goes on whatever happens to connections.
    Detached,
}

/// One request as it stands now. Everything an answer is made of.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The id inside the house.
    pub id: Uuid,
    /// The id that callers see: positive, below 2³¹, unique within the tenant.
    pub public_id: i32,
    pub state: State,
    /// The request with every default filled in: model, size, steps, guidance, sampler and seed are `Some`.
    pub request: ImageRequest,
    /// Public URLs, one per sample, known from the start; they answer 404 until the image is there.
    /// Relative to the public address: `/outputs/….png`, with the ending of the request's format.
    pub output_paths: Vec<String>,
    pub track_id: Option<String>,
    /// Since admission; for finished ones, from admission to the end.
    pub elapsed: Duration,
    /// Estimate of what remains; zero when finished.
    pub eta: Duration,
    /// What starting took, once known.
    pub start: StartReport,
    /// Which images are not safe for work and were drawn over; empty until they are there, and where they are not checked.
    pub nsfw_content_detected: Vec<bool>,
}

/// How far a generation is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Held by the router: its replica starts, or it waits its turn.
    Queued,
    /// A replica works on it. `progress` in 0…1.
    Running {
        progress: f32,
    },
    Succeeded,
    Failed(Failure),
    /// By the caller, or because the caller went away.
    Cancelled,
}

impl State {
    pub fn is_finished(&self) -> bool {
        matches!(self, State::Succeeded | State::Failed(_) | State::Cancelled)
    }
}

/// Where the time before and around the image went; every answer tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartReport {
    /// Whether this request had to wait for a replica's process to start.
    pub cold: bool,
    /// In the router's own queue, in milliseconds.
    pub held_ms: u64,
    /// Starting the replica, in milliseconds; 0 when it ran.
    pub replica_start_ms: u64,
    /// The replica's own phases, once it told them.
    pub replica: Option<Timings>,
}

/// What a watcher of a generation is told.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Image `image` has a preview; `index` counts them from 0.
    Preview {
        image: u32,
        index: u32,
        png_base64: String,
    },
    Changed(State),
}

/// A model as lists show it.
#[derive(Clone, Debug)]
pub struct ModelListing {
    pub model_id: String,
    pub kind: ModelKind,
    /// Where known: `sd15`.
    pub family: Option<String>,
    /// Seconds since 1970.
    pub created_at: i64,
    pub ready: bool,
}

impl ModelListing {
    pub fn is_checkpoint(&self) -> bool {
        self.kind == ModelKind::Checkpoint
    }
}
