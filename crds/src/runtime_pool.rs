//! RuntimePool: replicas that many models share.

use k8s_openapi::{
    api::core::v1::{ResourceRequirements, Toleration},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition},
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::{Timespan, Violation, rule, schema};

/// Replicas that load any model which names this pool.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "emulsion.dev",
    version = "v1alpha1",
    kind = "RuntimePool",
    namespaced,
    shortname = "rpool",
    category = "emulsion",
    status = "RuntimePoolStatus",
    derive = "PartialEq",
    doc = "Replicas that load any model which names this pool.",
    printcolumn(name = "Min", type_ = "integer", json_path = ".spec.minReplicas"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.maxReplicas"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rule::schema(&[&rule::REPLICA_RANGE])))]
pub struct RuntimePoolSpec {
    /// The fewest replicas; 0 lets the whole pool sleep.
    #[schemars(range(min = 0, max = 10000))]
    pub min_replicas: i32,
    /// The most replicas.
    #[schemars(range(min = 1, max = 10000))]
    pub max_replicas: i32,
    /// How long a replica above minReplicas may be without work before it is stopped.
    pub idle_after: Timespan,
    /// What each replica gets of a node, such as one nvidia.com/gpu.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints a node may have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Room for weights outside of GPU memory.
    pub cache: Cache,
    /// The runtime's container image. Absent: the one the operator was installed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Model ids that each replica loads before anybody asks, and lets go last; where not all of them fit, the first ones stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("items" = {"type": "string", "minLength": 1, "maxLength": 128, "x-kubernetes-validations": rule::schema(&[&rule::MODEL_ID])}),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub warm_models: Vec<String>,
}

impl Default for RuntimePoolSpec {
    fn default() -> Self {
        Self {
            min_replicas: 0,
            max_replicas: 1,
            idle_after: Timespan::from_secs(300),
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            cache: Cache::default(),
            image: None,
            warm_models: Vec::new(),
        }
    }
}

/// Room for weights outside of GPU memory, per replica.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rule::schema(&[&rule::CACHE_CLASS_NEEDS_DISK])))]
pub struct Cache {
    /// Host memory, such as 32Gi. Absent: half of the memory that `resources` limits a replica to, or the runtime's own figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64, "x-kubernetes-validations" = rule::schema(&[&rule::BYTES])))]
    pub host: Option<Quantity>,
    /// Disk for temporary files and imported weights, such as 200Gi. Absent: the node's own, without a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64, "x-kubernetes-validations" = rule::schema(&[&rule::BYTES])))]
    pub disk: Option<Quantity>,
    /// The disk is a volume of this storage class, made with each replica and removed with it. Absent: the node's own disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class: Option<String>,
}

/// What the operator found out and did. Written by the operator alone.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RuntimePoolStatus {
    /// Ready, Progressing and Degraded; WarmModels where some are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Replicas that take work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
}

impl RuntimePool {
    /// Everything a cluster would refuse, with the words it would use; empty if nothing.
    pub fn validate(&self) -> Vec<Violation> {
        schema::violations::<Self>(self, None)
    }
}
