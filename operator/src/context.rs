//! What both controllers share: what is known of the cluster, and the way to it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use crds::{ModelDeployment, RuntimePool, condition::REASON_INVALID};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ObjectReference, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder},
        reflector::{ObjectRef, Store},
    },
};

use crate::{
    apply::{self, ApplyError},
    autoscaler::Scale,
    condition::{Fact, Facts, Running},
    deletion_cost,
    demand::Board,
    metrics::Metrics,
    pods,
    watching::Known,
    workload::{OWNER_ANNOTATION, SCALE_ANNOTATION, SafetyChecker},
};

/// Objects that may be of a version that this program does not know: they must not stop the others.
pub type Guarded<K> = DeserializeGuard<K>;

/// Everything is looked at again after this time even if nothing changed.
pub const RESYNC: Duration = Duration::from_secs(300);
/// An object that cannot be served is looked at again after this time: others hold what it lacks.
pub const REFUSED_RECHECK: Duration = Duration::from_secs(5);
/// Wait after a failed reconciliation.
pub const RETRY: Duration = Duration::from_secs(5);

/// What an administrator sets.
#[derive(Clone)]
pub struct Settings {
    /// The installation's namespace: pools and routers are there.
    pub namespace: String,
    /// The only namespace whose ModelDeployments are served; absent, all are.
    pub watched: Option<String>,
    /// The installation's token.
    pub installation_token: String,
    /// The runtime's image.
    pub runtime_image: String,
    /// The runtime's image for replicas with a GPU.
    pub runtime_gpu_image: Option<String>,
    /// Whose pods may scrape replicas.
    pub monitoring_namespace: Option<String>,
    /// What replicas check images with.
    pub safety_checker: Option<SafetyChecker>,
    /// The routers' internal address, for imports.
    pub router_url: String,
    /// Inside networks that sources may be in.
    pub import_allow_networks: Vec<String>,
    /// Inside hosts that sources may be at.
    pub import_allow_hosts: Vec<String>,
}

impl Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Settings").field("namespace", &self.namespace).field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl Settings {
    /// Objects that are with models.
    pub fn of_models<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, client: Client) -> Api<K> {
        match &self.watched {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }
}

/// What reconciliations see and use.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) models: Store<Guarded<ModelDeployment>>,
    pub(crate) pools: Store<Guarded<RuntimePool>>,
    /// Of replicas, wherever they are.
    pub(crate) deployments: Vec<Store<Deployment>>,
    /// Of replicas, wherever they are.
    pub(crate) pods: Vec<Store<Pod>>,
    /// Of each of these whether it is complete.
    pub(crate) known: Vec<Known>,
    pub(crate) board: Arc<Board>,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
}

impl Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Context {
    /// Waits until everything that there is was seen once. A Deployment that is not known yet would else be taken for none, and all its replicas
    /// be stopped.
    pub(crate) async fn know_all(&self) {
        for known in &self.known {
            // A watch that has ended brings nothing any more; the program ends then, too.
            let _ = known.clone().wait_for(|known| *known).await;
        }
    }

    /// The Deployment of a set, if it is there and belongs to `owner`.
    pub(crate) fn deployment(&self, namespace: &str, name: &str, owner_uid: &str) -> Option<Arc<Deployment>> {
        let key = ObjectRef::<Deployment>::new(name).within(namespace);
        let found = self.deployments.iter().find_map(|store| store.get(&key))?;
        let is_owned = found.owner_references().iter().any(|owner| owner.uid == owner_uid);
        is_owned.then_some(found)
    }

    /// How the replicas of a Deployment stand, as it was last seen.
    pub(crate) fn running(&self, deployment: &Deployment, wanted: i32, starts_on_call: bool) -> Running {
        let status = deployment.status.as_ref();
        let ready = status.and_then(|status| status.ready_replicas).unwrap_or_default();
        let pods: Vec<Arc<Pod>> = if ready < wanted { self.pods_of(deployment) } else { Vec::new() };
        Running {
            wanted,
            exist: status.and_then(|status| status.replicas).unwrap_or_default(),
            ready,
            starts_on_call,
            problem: pods::problem(deployment, pods.iter().map(AsRef::as_ref)),
        }
    }

    /// Before fewer replicas are asked for: tells the cluster which of them should go.
    pub(crate) async fn mark_for_deletion(&self, deployment: Option<&Deployment>, wanted: i32) -> Result<(), ApplyError> {
        let Some(deployment) = deployment else { return Ok(()) };
        let exist = deployment.spec.replicas.unwrap_or_default();
        // Where all go or none, there is no choice.
        if wanted == 0 || wanted >= exist {
            return Ok(());
        }
        let pods = self.pods_of(deployment);
        let changes = deletion_cost::changes(pods.iter().map(AsRef::as_ref), |uid| self.board.load_of_pod(uid));
        deletion_cost::write(&self.client, &deployment.namespace().unwrap_or_default(), &changes).await
    }

    fn pods_of(&self, deployment: &Deployment) -> Vec<Arc<Pod>> {
        let is_of_set = |pod: &Arc<Pod>| {
            pod.namespace() == deployment.namespace()
                && pod.annotations().get(OWNER_ANNOTATION) == deployment.annotations().get(OWNER_ANNOTATION)
                && pod.labels().get("app.kubernetes.io/instance") == deployment.labels().get("app.kubernetes.io/instance")
        };
        let mut pods: Vec<Arc<Pod>> = self.pods.iter().flat_map(|store| store.state()).filter(is_of_set).collect();
        // The same pod speaks for all as long as it is there.
        pods.sort_by_key(|pod| pod.name_any());
        pods
    }

    /// Tells people what happened. Events may get lost; conditions do not.
    pub(crate) async fn tell(&self, about: &ObjectReference, action: &str, fact: &Fact) {
        /// Longest note of an event, in bytes.
        const NOTE_LIMIT: usize = 1000;
        let note = fact.message[..fact.message.floor_char_boundary(NOTE_LIMIT)].to_owned();
        let type_ = if fact.holds { EventType::Normal } else { EventType::Warning };
        let event = Event { type_, reason: fact.reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::debug!("an event is lost: {error}");
        }
    }

    /// Says on an object that it is of a version that this operator does not know, once.
    pub(crate) async fn tell_unreadable<K>(&self, object: &Guarded<K>, error: &str) -> Result<Action, ReconcileError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let (kind, name) = (K::kind(&()), object.name_any());
        self.count(&kind, "unreadable");
        tracing::warn!(%kind, name, error, "cannot read this object");
        let namespace = object.namespace().ok_or(ReconcileError::Incomplete("namespace"))?;
        let message = format!("this operator cannot read it: {error}; upgrade the operator, or leave out what it does not know");
        let facts = Facts::refused(REASON_INVALID, message);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &ApiResource::erase::<K>(&()));
        // What was told before is not told again: the write itself would bring it here anew.
        if apply::apply_unreadable::<K>(&api, &name, &facts, object.meta().generation).await? {
            self.tell(&object.object_ref(&()), "Reconcile", &facts.ready).await;
        }
        Ok(Action::await_change())
    }

    pub(crate) fn count(&self, kind: &str, result: &str) {
        self.metrics.reconciliations.with_label_values(&[kind, result]).inc();
    }
}

/// The scale that was decided last, as the Deployment tells it. What somebody changed in its spec is not asked: that is repaired.
pub(crate) fn last_scale(deployment: Option<&Deployment>) -> Scale {
    let Some(deployment) = deployment else { return Scale::default() };
    let noted = deployment.annotations().get(SCALE_ANNOTATION).and_then(|text| serde_json::from_str(text).ok());
    let replicas = || deployment.spec.replicas.unwrap_or_default();
    noted.unwrap_or_else(|| Scale { replicas: replicas(), shrink: None })
}

/// A reconciliation that failed and is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server did not take what was to be.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The object is incomplete: the API server never gives such.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
}
