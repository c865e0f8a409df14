//! The operator: reads the custom resources of a cluster and brings it to what they ask for.
//!
//! ```text
//!   watch ModelDeployments ─► status::desired (pure) ─► server-side apply of the status
//! ```
//! Today it judges each ModelDeployment and says in its conditions what is wrong or missing; it does not yet import
//! weights or start replicas. Every decision is a pure function in [`status`]; [`controller`] only carries it out.
//!
//! It knows Kubernetes and the types of `crds`; of router, runtime and candle it knows nothing.

pub mod command;
pub mod controller;
pub mod metrics;
pub mod serve;
pub mod status;
