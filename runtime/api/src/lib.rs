//! The wire contract between a router and its replicas: what an image request is, what a replica is asked to do with it, and what
//! it tells on the way. Types only: this crate knows no HTTP library, no Kubernetes, no tensors.
//!
//! ```text
//! router ── POST /v1/generations  Dispatch ──────────────► replica
//!        ◄─ text/event-stream     Event, Event, … ────────
//!        ── GET  /v1/state ──────────────────────────────►
//!        ◄─ ReplicaState ─────────────────────────────────
//!        ── PUT  /v1/warm-models  WarmModels ────────────►
//!        ◄─ WarmReport ───────────────────────────────────
//! ```
//! A dispatch that is refused at the door is answered with a status other than 200 and a [`Failure`] as JSON: 400 for a request that cannot
//! be served, 401 for a wrong token, 503 where the queue is full or the replica drains. Everything later is told as an event, the last one
//! being [`Event::Done`] or [`Event::Failed`]; a stream that ends without either was cut off, and the generation may be tried elsewhere.
//!
//! Closing the event stream cancels the generation at its next step: a replica never works for a router that is gone.

mod content;
mod dispatch;
mod event;
mod import;
mod output;
mod request;
mod state;
mod warm;

pub use content::{
    CHUNK_BYTES, CONTENT_SCHEME, ContentFile, ContentListing, ContentManifest, ContentSource, FILES_LIMIT, MANIFEST_LIMIT_BYTES,
    ManifestError,
};
pub use dispatch::{AdapterSource, Dispatch, InputSource, ModelSource, OutputTarget, VaeSource};
pub use event::{Event, Failure, FailureReason, Timings, WeightsTier};
pub use import::{
    CHUNKS_ASKED_LIMIT, CHUNKS_PATH, ChunkAsked, ChunkPlace, ChunksAsked, IMPORT_CONFIG_VARIABLE, IMPORT_SOURCE_VARIABLE,
    IMPORT_TOKEN_VARIABLE, ImportResult, Imported, MANIFEST_PATH, PROGRESS_PREFIX, Published,
};
pub use output::{OutputFormat, SafetyStyle};
pub use request::{AdapterUse, ImageRequest, Margins, PromptSyntax, RefinerUse, Task};
pub use state::{ReplicaState, ResidentModel};
pub use warm::{WARM_MODELS_LIMIT, WarmModel, WarmModels, WarmReport, WarmState};

/// Path, below a replica's address, that takes a [`Dispatch`] and answers with a stream of [`Event`]s.
pub const GENERATIONS_PATH: &str = "/v1/generations";
/// Path, below a replica's address, of its [`ReplicaState`].
pub const STATE_PATH: &str = "/v1/state";
/// Path, below a replica's address, that takes [`WarmModels`] by PUT and answers with a [`WarmReport`].
pub const WARM_MODELS_PATH: &str = "/v1/warm-models";
/// Environment variable that gives a replica the token which routers must send as `Authorization: Bearer`.
pub const TOKEN_VARIABLE: &str = "EMULSION_REPLICA_TOKEN";
/// The line a replica prints on standard output once it listens, followed by its address: `emulsion-runtime listening on 127.0.0.1:4321`.
pub const LISTENING_PREFIX: &str = "emulsion-runtime listening on ";
