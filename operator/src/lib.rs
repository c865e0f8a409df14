//! The operator: reads the custom resources of a cluster and brings it to what they ask for.
//!
//! ```text
//!   watch ─► dereference ─► validate (judgement) ─► decide (autoscaler) ─► build (workload) ─► apply ─► status (condition)
//!                              pure                    pure                  pure                          pure
//! ```
//! A RuntimePool and a dedicated ModelDeployment become a Deployment of replicas each, by one builder; a pooled ModelDeployment becomes
//! nothing: any replica of its pool loads it. How many replicas run follows from the demand that routers tell.
//!
//! It knows Kubernetes and the types of `crds`; of router, runtime and candle it knows nothing.

pub mod apply;
pub mod autoscaler;
pub mod command;
pub mod condition;
pub mod context;
pub mod controller;
pub mod deletion_cost;
pub mod demand;
pub mod import_job;
mod imports;
pub mod judgement;
pub mod leader;
pub mod metrics;
mod models;
mod pods;
mod pools;
mod quantity;
pub mod requests;
pub mod serve;
mod warm_models;
mod watching;
pub mod workload;
