//! Models that shall be in memory before anybody asks for them.

use serde::{Deserialize, Serialize};

use crate::{ContentSource, ModelSource};

/// The most models a replica is asked to keep in memory.
pub const WARM_MODELS_LIMIT: usize = 64;

/// What a router wants in a replica's memory, as a whole and in this order: where not all of them fit, the first ones stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WarmModels {
    pub models: Vec<WarmModel>,
}

/// A model with all that reading it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmModel {
    pub source: ModelSource,
    /// Where the replica finds out about what was imported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<ContentSource>,
}

/// How the models that were asked for stand, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmReport {
    pub models: Vec<WarmState>,
}

/// How one of them stands: resident, or kept out by a problem, or else on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmState {
    pub id: String,
    pub resident: bool,
    /// For people. It is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
