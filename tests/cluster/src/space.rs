//! A namespace for one test, and what tests do in it.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Pod, ServiceAccount},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{AttachParams, DeleteParams, DynamicObject, LogParams, Patch, PatchParams, PostParams, PropagationPolicy},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery::Scope,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::{Cluster, Forward};

/// The small program of our own that pods run: see `cmd/cluster-pod`.
pub(crate) const POD_IMAGE: &str = "emulsion.test/pod:1";
/// How long a condition may take to become true.
pub const DEADLINE: Duration = Duration::from_secs(90);
const MANAGER: &str = "cluster-tests";
const RETRY_PERIOD: Duration = Duration::from_millis(100);

/// A namespace of a test's own.
#[derive(Debug)]
pub struct Space {
    cluster: &'static Cluster,
    client: ClientHandle,
    name: String,
}

/// A client has no `Debug` of its own.
#[derive(Clone)]
struct ClientHandle(Client);

impl Debug for ClientHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Client")
    }
}

impl Cluster {
    /// A client of an administrator. Each runtime needs one of its own.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // A refusal is what tests want to see (an eviction's 429), not what another hundred seconds of asking make of it.
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }
}

impl Space {
    pub(crate) async fn create(cluster: &'static Cluster, name: &str) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let client = cluster.client().await?;
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        let space = Self { cluster, client: ClientHandle(client), name };
        // Until it is there, pods are refused.
        space.wait_for::<ServiceAccount>("default", "made by the controller manager", |_| true).await?;
        Ok(space)
    }

    pub(crate) async fn delete(&self) -> anyhow::Result<()> {
        let options = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        Api::<Namespace>::all(self.client()).delete(&self.name, &options).await?;
        Ok(())
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it is in.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// A client of an administrator.
    pub fn client(&self) -> Client {
        self.client.0.clone()
    }

    /// Objects of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// Applies all documents of a YAML text, as `kubectl apply --server-side` does; what names no namespace goes into this one.
    ///
    /// # Errors
    /// With the API server's words, if it refuses one.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        for document in serde_yaml::Deserializer::from_str(yaml) {
            let object: Option<DynamicObject> = serde::Deserialize::deserialize(document).context("the YAML is no object")?;
            let Some(object) = object else { continue };
            let (api, name) = (self.dynamic(&object).await?, object.name_any());
            let parameters = PatchParams::apply(MANAGER).force();
            api.patch(&name, &parameters, &Patch::Apply(&object)).await.with_context(|| format!("apply {name}"))?;
        }
        Ok(())
    }

    async fn dynamic(&self, object: &DynamicObject) -> anyhow::Result<Api<DynamicObject>> {
        let types = object.types.as_ref().context("apiVersion and kind are missing")?;
        let kind = GroupVersionKind::try_from(types)?;
        // A definition that was just applied is served a moment later.
        let (resource, capabilities) = self
            .retry(&format!("{} to be served", kind.kind), async || Ok(kube::discovery::pinned_kind(&self.client(), &kind).await?))
            .await?;
        Ok(match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client(), &resource),
            Scope::Namespaced => {
                let namespace = object.metadata.namespace.as_deref().unwrap_or(&self.name);
                Api::namespaced_with(self.client(), namespace, &resource)
            }
        })
    }

    /// Waits until an object exists and is as wanted; returns it.
    ///
    /// # Errors
    /// After [`DEADLINE`], with the object as it was then.
    pub async fn wait_for<K>(&self, name: &str, what: &str, wanted: impl Fn(&K) -> bool) -> anyhow::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
    {
        self.wait_for_in(self.api::<K>(), name, what, wanted).await
    }

    /// As [`Space::wait_for`], for objects that are in no namespace or in another one.
    ///
    /// # Errors
    /// After [`DEADLINE`], with the object as it was then.
    pub async fn wait_for_in<K>(&self, api: Api<K>, name: &str, what: &str, wanted: impl Fn(&K) -> bool) -> anyhow::Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
    {
        let watch = watcher::watch_object(api.clone(), name).default_backoff();
        let mut watch = std::pin::pin!(watch);
        let waiting = async {
            loop {
                // The API server may be away for a while; the watcher asks again.
                if let Ok(Some(Some(object))) = watch.try_next().await
                    && wanted(&object)
                {
                    return object;
                }
            }
        };
        if let Ok(object) = tokio::time::timeout(DEADLINE, waiting).await {
            return Ok(object);
        }
        let last = match api.get_opt(name).await {
            Ok(Some(object)) => serde_yaml::to_string(&object)?,
            Ok(None) => "it does not exist".to_owned(),
            Err(error) => error.to_string(),
        };
        anyhow::bail!("{} {name} is not {what} after {DEADLINE:?}:\n{last}", K::kind(&()))
    }

    /// Waits until an object is gone.
    ///
    /// # Errors
    /// After [`DEADLINE`].
    pub async fn wait_gone<K>(&self, name: &str) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let api = self.api::<K>();
        self.retry(&format!("{name} to be gone"), async || match api.get_opt(name).await? {
            None => Ok(()),
            Some(_) => anyhow::bail!("it exists"),
        })
        .await
    }

    /// Tries until it succeeds; returns what it gave.
    ///
    /// # Errors
    /// After [`DEADLINE`], with the last error.
    pub async fn retry<T>(&self, what: &str, attempt: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let started = Instant::now();
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) if started.elapsed() > DEADLINE => {
                    return Err(error.context(format!("waiting for {what}: {DEADLINE:?} are over")));
                }
                Err(_) => tokio::time::sleep(RETRY_PERIOD).await,
            }
        }
    }

    /// Runs a command in a pod's first container; returns its standard output.
    ///
    /// # Errors
    /// If it does not end well, with its standard error.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        let mut process = self.api::<Pod>().exec(pod, command.iter().copied(), &AttachParams::default()).await?;
        let (mut output, mut error) = (String::new(), String::new());
        let mut stdout = process.stdout().context("no standard output")?;
        let mut stderr = process.stderr().context("no standard error")?;
        tokio::try_join!(stdout.read_to_string(&mut output), stderr.read_to_string(&mut error))?;
        let status = process.take_status().context("no status")?.await.context("the command's end was not told")?;
        anyhow::ensure!(status.status.as_deref() == Some("Success"), "{command:?}: {output}{error}{}", status.message.unwrap_or_default());
        Ok(output)
    }

    /// What a pod's first container has printed.
    pub async fn logs(&self, pod: &str) -> anyhow::Result<String> {
        Ok(self.api::<Pod>().logs(pod, &LogParams::default()).await?)
    }

    /// Opens a port of this machine's loopback to a port of a pod, through the API server.
    pub async fn port_forward(&self, pod: &str, port: u16) -> anyhow::Result<Forward> {
        Forward::to_pod(self.api(), pod.to_owned(), port).await
    }

    /// Makes an empty volume on a node, and a claim of the same name that is bound to it.
    ///
    /// # Errors
    /// If the cluster is another's: its disks are not ours.
    pub async fn static_volume(&self, name: &str, node: &str, size: &str) -> anyhow::Result<()> {
        let spec = json!({"storageClassName": "static", "capacity": {"storage": size}});
        let volume = self.volume_on(node, spec, name, (&self.name, name)).await?;
        let claim = json!({
            "storageClassName": "static", "accessModes": ["ReadWriteOnce"], "volumeName": volume,
            "resources": {"requests": {"storage": size}},
        });
        self.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": claim}).to_string())
            .await
    }

    /// Makes an empty volume on a node for a claim that comes later and names no storage class.
    ///
    /// # Errors
    /// If the cluster is another's: its disks are not ours.
    pub async fn static_volume_for(&self, name: &str, node: &str, size: &str, namespace: &str, claim: &str) -> anyhow::Result<()> {
        self.volume_on(node, json!({"capacity": {"storage": size}}), name, (namespace, claim)).await.map(drop)
    }

    /// Makes a volume of a folder on a node; returns its name.
    async fn volume_on(&self, node: &str, mut spec: Value, name: &str, (namespace, claim): (&str, &str)) -> anyhow::Result<String> {
        let volume = format!("{}-{name}", self.name);
        let folder = format!("/var/lib/volumes/{volume}");
        self.cluster.control()?.run(node, &["mkdir", "-p", "-m", "777", &folder]).await?;
        let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
        spec["accessModes"] = json!(["ReadWriteOnce"]);
        spec["local"] = json!({"path": folder});
        spec["persistentVolumeReclaimPolicy"] = json!("Retain");
        spec["claimRef"] = json!({"namespace": namespace, "name": claim});
        spec["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}});
        self.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": spec}).to_string())
            .await?;
        Ok(volume)
    }

    /// Deletes a pod without giving it time to end.
    pub async fn kill_pod(&self, pod: &str) -> anyhow::Result<()> {
        self.api::<Pod>().delete(pod, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// Pods with a label, by name.
    pub async fn pods(&self, label: &str) -> anyhow::Result<Vec<Pod>> {
        Ok(self.api::<Pod>().list(&kube::api::ListParams::default().labels(label)).await?.items)
    }
}
