//! The custom resources of Emulsion, as types: what an administrator declares, and nothing else.
//!
//! * [`ModelDeployment`]: one model and how it is served.
//! * [`TenantPlan`]: what the tenants of a plan may do, and what it costs them.
//! * [`RuntimePool`]: replicas that many models share.
//! * [`DemandReport`]: what a router tells the operator about waiting work, and [`replica`]: what the two agree on about
//!   pods, and [`import`]: about bringing weights in. No resources; they live here because this crate is all that the two have in common.
//!
//! ```text
//!   Rust types ──► schema with CEL rules ──► crds/*.yaml ──► API server refuses a bad object
//!                          │
//!                          └──► Manifest::from_value ──► local mode refuses the same object, with the same words
//! ```
//! The schema is the only source of what is allowed: [`schema`] walks the very schema that a cluster gets, and
//! [`rule`] pairs each CEL expression with a Rust function of the same meaning.
//!
//! This crate knows no client, no async runtime and no HTTP; it reads no file.

#![expect(clippy::duplicated_attributes, reason = "each printer column is an attribute of its own, and columns share their types")]

pub mod condition;
pub mod demand;
pub mod import;
pub mod manifest;
pub mod model_deployment;
pub mod price;
pub mod replica;
pub mod rule;
pub mod runtime_pool;
pub mod schema;
pub mod tenant_plan;
pub mod timespan;

pub use demand::DemandReport;
pub use import::ImportId;
pub use manifest::{Manifest, ManifestError};
pub use model_deployment::{ModelDeployment, ModelDeploymentSpec, ModelDeploymentStatus};
pub use price::Price;
pub use rule::Violation;
pub use runtime_pool::{RuntimePool, RuntimePoolSpec, RuntimePoolStatus};
pub use schema::definitions;
pub use tenant_plan::{TenantPlan, TenantPlanSpec};
pub use timespan::Timespan;

/// The API group of every resource here.
pub const GROUP: &str = "emulsion.dev";
/// The only version so far.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` as it stands in a manifest.
pub const API_VERSION: &str = "emulsion.dev/v1alpha1";
