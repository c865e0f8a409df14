//! The router: takes API calls in the dialects that clients already speak, admits them under the tenant's plan, journals them,
//! and dispatches them to replicas: child processes that it starts from zero, or pods that the operator starts by what it tells of demand.
//!
//! ```text
//! client ─► edge ─ dialect ─► Submission ─► Service ─ admission + journal ─► dispatch ─► replica
//!                                              │  (one transaction)            │
//!        ◄─ dialect ◄─ Generation ◄────────────┴── events, settled usage ◄──────┘
//! ```
//! `edge` and `dialect` know HTTP and the callers' languages and nothing of SQL or replicas; everything behind [`service::Service`]
//! knows neither HTTP statuses nor dialects.

#[cfg(test)]
#[macro_use]
mod contract;

pub mod accounts;
pub mod admission;
pub mod bounded_body;
pub mod catalog;
pub mod check;
pub mod cluster;
pub mod command;
pub mod content;
pub mod demand;
pub mod dialect;
pub mod dispatch;
pub mod edge;
pub mod generation;
pub mod imports;
pub mod inputs;
pub mod local;
mod local_key;
pub mod metrics;
pub mod object_stores;
pub mod openapi;
pub mod outputs;
pub mod placement;
pub mod refusal;
pub mod replicas;
pub mod s3;
pub mod service;
pub mod serving;
pub mod sha256_name;
mod signature;
pub mod store;
pub mod validation;
