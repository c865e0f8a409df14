//! Bringing weights in. What imports are asked and told over HTTP ([`routes`]), and, where there is no cluster, who starts them
//! ([`Importer`]): one process for each declared source, a few at once, again and again until it is in.
//!
//! ```text
//! catalog ─ wanted sources ─► Importer ─► emulsion-runtime import ─ chunks, manifest ─► routes ─► Content
//!    ▲                           │
//!    └──── how each stands ◄─────┘
//! ```
//! It knows no tenants and no requests.

use crds::import::ImportSource;
use runtime_api::Imported;

use crate::sha256_name::Sha256Name;

mod importer;
mod process;
mod routes;
mod secrets;

pub use importer::{ImportSettings, ImportStates, Importer};
pub use routes::routes;

/// How an import stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportState {
    /// Others come first.
    Waiting,
    /// `progress` is for people.
    Running {
        progress: String,
    },
    /// It is tried again later. `message` may be shown to callers.
    Failed {
        message: String,
    },
    Done(Imported),
}

/// Names what becomes of a declaration.
pub(crate) fn key(source: &ImportSource) -> Sha256Name {
    Sha256Name::parse(&source.digest()).unwrap_or(Sha256Name::NOTHING)
}
