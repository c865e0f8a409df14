//! What replicas of a pool or of a dedicated model are made of: one builder for both. Pure: it takes no client and cannot fail.
//!
//! A set of replicas is a Deployment, which belongs to the custom resource, and what belongs to the Deployment: the Secret with the token that
//! routers say to it, a NetworkPolicy that lets only routers in, and a PodDisruptionBudget. All have one name.

use std::collections::BTreeMap;

use crds::replica::{self, MODEL_ANNOTATION, POOL_ANNOTATION, Set};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ResourceRequirements, Toleration},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{autoscaler::Scale, quantity};

/// On the objects of a set: the name of the custom resource that they belong to.
pub const OWNER_ANNOTATION: &str = "emulsion.dev/owner";
/// On a Deployment: the autoscaler's last decision, as JSON.
pub const SCALE_ANNOTATION: &str = "emulsion.dev/scale";
/// Who made an object, as a label's value and as the field manager.
pub const MANAGER: &str = "emulsion-operator";
/// The resource that means: this replica computes on a GPU.
const GPU: &str = "nvidia.com/gpu";
/// How long a replica that is asked to end finishes what it has.
const DRAIN_SECONDS: u32 = 600;
/// Until it is killed: a little longer than it takes to give up by itself.
const GRACE_SECONDS: u32 = DRAIN_SECONDS + 30;
/// For a replica whose device hangs: it cannot finish what it has, so its end is not waited for.
const HUNG_GRACE_SECONDS: u32 = 10;
/// Where replicas keep imported models.
const CONTENT_CACHE: &str = "/tmp/content";
/// The runtime's user, as in its image.
pub(crate) const USER: u32 = 65_532;
/// Longest name of an object: what Kubernetes adds for pods must fit into a label, too.
const MAX_NAME_LENGTH: usize = 52;
/// Hexadecimal digits that tell shortened names apart.
const NAME_DIGITS: usize = 8;

/// A set of replicas, as it shall be.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where it runs.
    pub namespace: String,
    /// The custom resource that it belongs to.
    pub owner: OwnerReference,
    /// What it serves.
    pub set: Set,
    /// The runtime's image.
    pub image: String,
    /// What its replicas get of a node.
    pub resources: Option<ResourceRequirements>,
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints a node may have.
    pub tolerations: Vec<Toleration>,
    /// Bytes of weights in memory; absent, a share of the memory limit.
    pub resident_bytes: Option<u64>,
    /// Space for temporary files, such as 200Gi.
    pub disk: Option<String>,
    /// The storage class of the volume that this space is on; absent, it is the node's own disk.
    pub storage_class: Option<String>,
    /// The claim of a dedicated model's own volume.
    pub claim: Option<String>,
    /// What images are checked with.
    pub safety_checker: Option<SafetyChecker>,
    /// The number format, as the runtime spells it.
    pub precision: Option<String>,
    /// What routers say to these replicas.
    pub token: String,
    /// The namespace of the routers.
    pub router_namespace: String,
    /// The namespace of the monitoring that scrapes them.
    pub monitoring_namespace: Option<String>,
    /// How many, and why.
    pub scale: Scale,
}

/// Where replicas find the safety checker's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetyChecker {
    /// A path in the image, or in the volume of the claim.
    pub file: String,
    /// A claim in the replicas' namespace.
    pub claim: Option<String>,
}

impl SafetyChecker {
    /// The path in the replica's file system.
    fn path(&self) -> String {
        match &self.claim {
            Some(_) => format!("{}/{}", replica::VOLUME_SAFETY_CHECKER, self.file.trim_start_matches('/')),
            None => self.file.clone(),
        }
    }
}

/// The objects of a set, in the order in which they are applied. Those after the Deployment say nothing yet of their owner: its uid is known
/// when it is there.
#[derive(Clone, Debug)]
pub struct Objects {
    /// The replicas.
    pub deployment: Value,
    /// Who may call.
    pub network_policy: Value,
    /// How many may be missing.
    pub disruption_budget: Value,
    /// The token. No replica starts without it.
    pub secret: Value,
}

/// The name of all objects of a set. A custom resource's name may be longer than theirs.
pub fn object_name(owner: &str, set: &Set) -> String {
    let kind = match set {
        Set::Pool(_) => "pool",
        Set::Model(_) => "model",
    };
    shortened(&format!("emulsion-{kind}-{owner}"), owner, 0)
}

/// A name of `owner`'s that leaves `room` for more, cut where it is too long, and then with digits that tell it from others that begin alike.
pub(crate) fn shortened(name: &str, owner: &str, room: usize) -> String {
    if name.len() <= MAX_NAME_LENGTH - room {
        return name.to_owned();
    }
    let digest = hex::encode(Sha256::digest(owner.as_bytes()));
    let kept = name[..MAX_NAME_LENGTH - room - NAME_DIGITS - 1].trim_end_matches(['-', '.']);
    format!("{kept}-{}", &digest[..NAME_DIGITS])
}

/// The objects of a set.
pub fn build(workload: &Workload) -> Objects {
    let name = object_name(&workload.owner.name, &workload.set);
    let selector = json!({"app.kubernetes.io/name": "emulsion-runtime", "app.kubernetes.io/instance": name});
    let mut labels = selector.clone();
    labels[replica::PART_OF_LABEL] = json!(replica::EMULSION);
    labels[replica::COMPONENT_LABEL] = json!(replica::REPLICA);
    labels["app.kubernetes.io/managed-by"] = json!(MANAGER);
    let metadata = json!({
        "name": name,
        "namespace": workload.namespace,
        "labels": labels,
        "annotations": {OWNER_ANNOTATION: workload.owner.name},
    });
    Objects {
        deployment: deployment(workload, &metadata, &selector, &labels),
        network_policy: json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata,
            "spec": {
                "podSelector": {"matchLabels": selector},
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": callers(workload),
                    "ports": [{"port": replica::PORT, "protocol": "TCP"}],
                }],
            },
        }),
        disruption_budget: json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
        }),
        secret: json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque",
            "data": {"token": ByteString(workload.token.clone().into_bytes())},
        }),
    }
}

/// Routers, and who scrapes metrics; what is not for these needs the token.
fn callers(workload: &Workload) -> Vec<Value> {
    let namespace = |name: &String| json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
    let routers = json!({
        "namespaceSelector": namespace(&workload.router_namespace),
        "podSelector": {"matchLabels": {replica::PART_OF_LABEL: replica::EMULSION, replica::COMPONENT_LABEL: replica::ROUTER}},
    });
    let monitoring = workload.monitoring_namespace.as_ref().map(|name| json!({"namespaceSelector": namespace(name)}));
    [routers].into_iter().chain(monitoring).collect()
}

fn deployment(workload: &Workload, metadata: &Value, selector: &Value, labels: &Value) -> Value {
    let mut metadata = metadata.clone();
    metadata["ownerReferences"] = json!([workload.owner]);
    // A struct of numbers always has a JSON form.
    metadata["annotations"][SCALE_ANNOTATION] = json!(serde_json::to_string(&workload.scale).unwrap_or_default());
    let (annotation, served) = match &workload.set {
        Set::Pool(name) => (POOL_ANNOTATION, name),
        Set::Model(id) => (MODEL_ANNOTATION, id),
    };
    let mut volumes = vec![temporary(workload)];
    for (name, claim, _) in mounted(workload) {
        volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": true}}));
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "replicas": workload.scale.replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling_update(workload)},
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": labels, "annotations": {annotation: served, OWNER_ANNOTATION: workload.owner.name}},
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                        "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "nodeSelector": workload.node_selector,
                    "tolerations": workload.tolerations,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": selector},
                    }],
                    "containers": [container(workload, metadata["name"].as_str().unwrap_or_default())],
                    "volumes": volumes,
                },
            },
        },
    })
}

/// Where a replica keeps temporary files and what it has fetched: on the node's disk, or on a volume that is made and removed with the pod.
fn temporary(workload: &Workload) -> Value {
    let (disk, class) = (&workload.disk, &workload.storage_class);
    match (disk, class) {
        (Some(disk), Some(class)) => json!({"name": "tmp", "ephemeral": {"volumeClaimTemplate": {"spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": disk}},
        }}}}),
        (Some(disk), None) => json!({"name": "tmp", "emptyDir": {"sizeLimit": disk}}),
        (None, _) => json!({"name": "tmp", "emptyDir": {}}),
    }
}

/// A rollout makes a new replica before an old one goes. Where no node has a GPU to spare it would wait for ever, so one may go before: calls are
/// held meanwhile.
fn rolling_update(workload: &Workload) -> Value {
    let may_be_missing = i32::from(uses_gpu(workload.resources.as_ref()));
    json!({"maxSurge": "25%", "maxUnavailable": may_be_missing})
}

/// Claims that replicas read: the volume's name, the claim's, and where it is mounted.
fn mounted(workload: &Workload) -> impl Iterator<Item = (&'static str, &String, &'static str)> {
    let weights = workload.claim.as_ref().map(|claim| ("weights", claim, replica::VOLUME_MODELS));
    let checker = workload.safety_checker.as_ref().and_then(|checker| checker.claim.as_ref());
    weights.into_iter().chain(checker.map(|claim| ("safety-checker", claim, replica::VOLUME_SAFETY_CHECKER)))
}

fn container(workload: &Workload, secret: &str) -> Value {
    let mut mounts = vec![json!({"name": "tmp", "mountPath": "/tmp"})];
    for (name, _, path) in mounted(workload) {
        mounts.push(json!({"name": name, "mountPath": path, "readOnly": true}));
    }
    let probe = |path: &str, period_seconds: u32, failure_threshold: u32| {
        json!({
            "httpGet": {"path": path, "port": "http"}, "periodSeconds": period_seconds, "failureThreshold": failure_threshold,
            "timeoutSeconds": 5,
        })
    };
    let mut liveness = probe("/healthz", 10, 3);
    liveness["terminationGracePeriodSeconds"] = json!(HUNG_GRACE_SECONDS);
    json!({
        "name": "runtime",
        "image": workload.image,
        "args": ["serve"],
        "env": environment(workload, secret),
        "ports": [{"name": "http", "containerPort": replica::PORT, "protocol": "TCP"}],
        // A device may take a while to open; until then the other probes wait.
        "startupProbe": probe("/healthz", 1, 120),
        "livenessProbe": liveness,
        "readinessProbe": probe("/readyz", 2, 2),
        "resources": workload.resources.clone().unwrap_or_default(),
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        // Why it ended stands in the pod's status, from where it comes into the condition.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    })
}

fn environment(workload: &Workload, secret: &str) -> Vec<Value> {
    let roots = match &workload.claim {
        Some(_) => format!("{},{}", replica::IMAGE_MODELS, replica::VOLUME_MODELS),
        None => replica::IMAGE_MODELS.to_owned(),
    };
    let mut environment = vec![
        json!({"name": "EMULSION_LISTEN", "value": format!("0.0.0.0:{}", replica::PORT)}),
        json!({"name": "EMULSION_MODEL_ROOTS", "value": roots}),
        json!({"name": "EMULSION_REPLICA_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}}),
        json!({"name": "EMULSION_DRAIN_SECONDS", "value": DRAIN_SECONDS.to_string()}),
        json!({"name": "EMULSION_CONTENT_CACHE", "value": CONTENT_CACHE}),
    ];
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            environment.push(json!({"name": name, "value": value}));
        }
    };
    // The rest is for pictures and sockets.
    let content_bytes = workload.disk.as_ref().and_then(|disk| quantity::bytes(&Quantity(disk.clone())));
    set("EMULSION_CONTENT_CACHE_BYTES", content_bytes.map(|bytes| (bytes / 10 * 9).to_string()));
    set("EMULSION_DEVICE", uses_gpu(workload.resources.as_ref()).then(|| "cuda".to_owned()));
    set("EMULSION_DTYPE", workload.precision.clone());
    set("EMULSION_SAFETY_CHECKER", workload.safety_checker.as_ref().map(SafetyChecker::path));
    set("EMULSION_RESIDENT_BYTES_LIMIT", workload.resident_bytes.or_else(|| share_of_memory(workload)).map(|bytes| bytes.to_string()));
    environment
}

/// Whether replicas with these resources compute on a GPU.
pub fn uses_gpu(resources: Option<&ResourceRequirements>) -> bool {
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    limits.and_then(|limits| limits.get(GPU)).is_some_and(|count| count.0 != "0")
}

/// On a processor, weights share the memory with what they make: half of it is theirs. On a GPU, the runtime's own figure holds.
fn share_of_memory(workload: &Workload) -> Option<u64> {
    let resources = workload.resources.as_ref().filter(|resources| !uses_gpu(Some(resources)))?;
    quantity::bytes(resources.limits.as_ref()?.get("memory")?).map(|bytes| bytes / 2)
}

#[cfg(test)]
mod tests;
