//! A real Kubernetes for tests: brought up once for a test binary, gone when it ends, and open to being broken.
//!
//! ```no_run
//! use cluster::{Needs, in_namespace};
//! use k8s_openapi::api::core::v1::ConfigMap;
//!
//! #[test]
//! fn a_map_is_kept() {
//!     in_namespace("a-map", Needs::Api, async |space| {
//!         space.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: it}, data: {key: value}}").await?;
//!         space.wait_for::<ConfigMap>("it", "data", |map| map.data.is_some()).await?;
//!         Ok(())
//!     });
//! }
//! ```
//!
//! The cluster is `emulsion-cluster` (the Go program beside this crate), or the one that `EMULSION_TEST_KUBECONFIG` names. The user's
//! own `KUBECONFIG` is never read. Where there is neither, tests are skipped and say so.

mod bring_up;
mod control;
mod dump;
mod forward;
mod program;
mod space;

pub use bring_up::Cluster;
pub use control::{Control, HostState, State};
pub use forward::Forward;
pub use program::{Image, Said};
pub use space::{DEADLINE, Space};

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

/// What a test needs of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// The API and nothing that runs.
    Api,
    /// Pods that run our own images. Another's cluster must say how it takes them.
    Pods,
    /// Hosts to break. No other test runs meanwhile, and another's cluster is left alone.
    Hosts,
}

/// Runs a test in a namespace of its own. If the test fails, what the namespace and the nodes look like is printed; the namespace is
/// deleted in any case.
///
/// # Panics
/// If the test panics or returns an error.
pub fn in_namespace(name: &str, needs: Needs, test: impl AsyncFnOnce(&Space) -> anyhow::Result<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let cluster = match bring_up::shared().await {
            Ok(Some(cluster)) => cluster,
            Ok(None) => return eprintln!("skipped: `make test-cluster` brings up what this needs"),
            Err(error) => panic!("no cluster: {error:#}"),
        };
        if let Some(missing) = cluster.lacks(needs) {
            return eprintln!("skipped: {missing}");
        }
        let _turn = cluster.take_turn(needs).await;
        let space = Space::create(cluster, name).await.unwrap_or_else(|error| panic!("no namespace for {name}: {error:#}"));
        let result = AssertUnwindSafe(test(&space)).catch_unwind().await;
        if !matches!(result, Ok(Ok(()))) {
            eprintln!("{}", dump::describe(&space).await);
        }
        if let Err(error) = space.delete().await {
            eprintln!("the namespace {} stays: {error:#}", space.name());
        }
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{name}: {error:#}"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}
