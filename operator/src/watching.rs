//! How the cluster is watched, and what is kept of it. Of ten thousand models neither the API server nor this program shall hold a whole list at
//! once, and who wrote which field of an object is never asked.

use std::fmt::Debug;

use futures::{
    StreamExt,
    future::Either::{Left, Right},
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec},
    core::v1::Pod,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::WatchParams,
    runtime::{
        WatchStreamExt,
        reflector::{self, Lookup, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;

/// How long the API server may keep the watch by which it is asked what it can do.
const PROBE_SECONDS: u32 = 1;

/// How first lists are asked for: as a stream where the API server can send one, and else in pages, as before Kubernetes 1.34. `namespace` is
/// one whose pods may be watched.
pub(crate) async fn config(client: &Client, namespace: &str) -> watcher::Config {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match pods.watch(&WatchParams::streaming_lists().timeout(PROBE_SECONDS).labels("emulsion.dev/none"), "").await {
        Ok(_) => watcher::Config::default().streaming_lists(),
        Err(error) => {
            tracing::info!("objects are listed in pages, because the API server does not stream lists: {error}");
            watcher::Config::default()
        }
    }
}

/// Whether everything that there is of a kind was seen once. Of a store only one can wait for that; of this, anybody.
pub(crate) type Known = tokio::sync::watch::Receiver<bool>;

/// What is watched of a kind.
pub(crate) struct Watched<K: Lookup + 'static>
where
    K::DynamicType: Eq + std::hash::Hash,
{
    /// What there is.
    pub(crate) store: Store<K>,
    /// Each change of it. The store follows while this is polled.
    pub(crate) changes: BoxStream<'static, Result<K, watcher::Error>>,
    pub(crate) known: Known,
}

/// Watches. `trim` takes away what is not used, before it is kept.
pub(crate) fn watch<K>(api: Api<K>, config: watcher::Config, trim: impl Fn(&mut K) + Send + 'static) -> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let (know, known) = tokio::sync::watch::channel(false);
    let objects = watcher(api, config).default_backoff().modify(move |object: &mut K| {
        object.managed_fields_mut().clear();
        trim(object);
    });
    let noted = reflector::reflector(writer, objects).inspect(move |event| {
        if matches!(event, Ok(watcher::Event::InitDone)) {
            know.send_replace(true);
        }
    });
    let listed = store.clone();
    // What a list holds is told once the store has it: whoever looked there for it before would find nothing, and forget it.
    let changes = noted.flat_map(move |event| match event {
        Ok(watcher::Event::InitDone) => Left(stream::iter(listed.state()).map(|object| Ok(object.as_ref().clone()))),
        Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => Right(stream::iter(Some(Ok(object)))),
        Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => Right(stream::iter(None)),
        Err(error) => Right(stream::iter(Some(Err(error)))),
    });
    Watched { store, changes: changes.boxed(), known }
}

/// Of a Deployment the number of replicas and the status are asked.
pub(crate) fn trim_deployment(deployment: &mut Deployment) {
    deployment.spec = DeploymentSpec { replicas: deployment.spec.replicas, ..DeploymentSpec::default() };
}

/// Of a pod the status is asked.
pub(crate) fn trim_pod(pod: &mut Pod) {
    pod.spec = None;
}
