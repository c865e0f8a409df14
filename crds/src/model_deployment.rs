//! ModelDeployment: one model, where its weights come from and how it is served.
//!
//! Doc comments on fields become the descriptions that `kubectl explain` shows.

use k8s_openapi::{
    api::core::v1::{ResourceRequirements, Toleration},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::import::Imported;
use crate::{Price, Timespan, Violation, rule, schema};

pub mod defaults;
mod family;
pub use defaults::EffectiveDefaults;
pub use family::Latents;

/// The RuntimePool that serves a model which names none.
pub const DEFAULT_POOL: &str = "default";

/// A model that callers can ask for by its id, and how it is served.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "emulsion.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    namespaced,
    shortname = "mdep",
    category = "emulsion",
    status = "ModelDeploymentStatus",
    derive = "PartialEq",
    doc = "A model that callers can ask for by its id, and how it is served.",
    scale(
        spec_replicas_path = ".spec.serving.dedicated.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.modelId"),
    printcolumn(name = "Family", type_ = "string", json_path = ".status.family"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.serving.pooled.pool"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Last Used", type_ = "date", json_path = ".status.lastUsed"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source.uri", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rule::schema(&[
    &rule::MODEL_ID_FIXED,
    &rule::VOLUME_NEEDS_DEDICATED,
    &rule::DEFAULT_WIDTH,
    &rule::DEFAULT_HEIGHT,
    &rule::DEFAULT_STEPS,
])))]
pub struct ModelDeploymentSpec {
    /// The name callers use for the model, unique in the installation. Absent: the object's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-validations" = rule::schema(&[&rule::MODEL_ID])))]
    pub model_id: Option<String>,
    /// Where the weights come from.
    pub source: Source,
    /// The model's architecture. Absent: found out from the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// What the weights are.
    #[serde(default)]
    pub kind: ModelKind,
    /// The number format the model computes in. Absent: the device's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// How the model is served: exactly one of pooled and dedicated.
    #[serde(default)]
    pub serving: Serving,
    /// What a request that leaves something open gets.
    #[serde(default)]
    pub defaults: GenerationDefaults,
    /// What a request may ask for.
    #[serde(default)]
    pub limits: Limits,
    /// Other models that are always used together with this one.
    #[serde(default)]
    pub components: Components,
    /// Prices of this model that replace those of a tenant's plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<Pricing>,
    /// Who may see and call the model. Absent: every tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
}

/// Where a model's weights come from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// s3://bucket/key, s3://bucket/folder/, https://…, hf://owner/name, civitai:id, pvc://claim/path (dedicated serving only), and for
    /// local mode file:///absolute/path or file://./path beside the manifest.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = rule::schema(&[&rule::SOURCE_URI])))]
    pub uri: String,
    /// The digest the source must have: of the file, or of the folder's sorted list of digests and names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 64, max = 64), extend("x-kubernetes-validations" = rule::schema(&[&rule::SHA256])))]
    pub sha256: Option<String>,
    /// A Secret in the object's namespace with the credentials for the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// For a single file: the uri of a folder with diffusers' config files. Absent: the family's built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = rule::schema(&[&rule::SOURCE_URI])))]
    pub config: Option<String>,
}

/// A Secret by its name.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A model's architecture.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are those of the architectures")]
pub enum Family {
    Sd15,
    Sd21,
    Sdxl,
    SdxlRefiner,
    Sd3,
    Sd35Medium,
    Sd35Large,
    FluxDev,
    FluxSchnell,
}

/// What a set of weights is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the field's own terms")]
pub enum ModelKind {
    #[default]
    Checkpoint,
    Lora,
    Controlnet,
    Vae,
    Embedding,
    Upscaler,
}

/// The number format a model computes in.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the formats' own")]
pub enum Precision {
    F32,
    F16,
    Bf16,
}

/// How a model is served: exactly one of the two.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rule::schema(&[&rule::SERVING_ONE_WAY])))]
pub struct Serving {
    /// Any replica of a RuntimePool may load the model; it costs nothing until it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooled: Option<Pooled>,
    /// The model has replicas of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedicated: Option<Dedicated>,
}

impl Default for Serving {
    fn default() -> Self {
        Self { pooled: Some(Pooled::default()), dedicated: None }
    }
}

/// Serving by any replica of a pool.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Pooled {
    /// The RuntimePool's name.
    #[serde(default = "default_pool")]
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
}

impl Default for Pooled {
    fn default() -> Self {
        Self { pool: default_pool() }
    }
}

fn default_pool() -> String {
    DEFAULT_POOL.to_owned()
}

/// Serving by replicas of the model's own.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rule::schema(&[&rule::REPLICA_RANGE, &rule::REPLICAS_WITHIN_RANGE])))]
pub struct Dedicated {
    /// The fewest replicas; 0 lets the model sleep.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,
    /// The most replicas.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// How many replicas there shall be; obeyed in mode External, where `kubectl scale` and other autoscalers write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Who decides how many replicas there are.
    #[serde(default)]
    pub mode: ScalingMode,
    /// In mode Auto: the images in flight that one replica shall have.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 1000))]
    pub target_in_flight: i32,
    /// In mode Auto: how long a replica above minReplicas may be without work before it is stopped.
    #[serde(default = "five_minutes")]
    pub idle_after: Timespan,
    /// What each replica gets of a node, such as one nvidia.com/gpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints a node may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
}

/// Who decides how many replicas a dedicated model has.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScalingMode {
    /// The operator, from the demand that routers report; it never writes the spec.
    #[default]
    Auto,
    /// Whoever writes `replicas`.
    External,
}

fn one() -> i32 {
    1
}

fn four() -> i32 {
    4
}

fn five_minutes() -> Timespan {
    Timespan::from_secs(300)
}

/// What a request that leaves something open gets. Absent values follow the model's family.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GenerationDefaults {
    /// The sampler, by diffusers' class name. Absent: the one in the model's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-validations" = rule::schema(&[&rule::SAMPLER])))]
    pub sampler: Option<String>,
    /// Denoising steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub steps: Option<i32>,
    /// How strongly the prompt rules; 1 switches guidance off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 50.0))]
    pub guidance_scale: Option<f64>,
    /// Width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 8192))]
    pub width: Option<i32>,
    /// Height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 8192))]
    pub height: Option<i32>,
}

/// What a request may ask of a model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rule::schema(&[&rule::SIZE_RANGE, &rule::SIZE_MULTIPLE])))]
pub struct Limits {
    /// Smallest width in pixels.
    #[schemars(range(min = 8, max = 8192))]
    pub min_width: i32,
    /// Largest width in pixels.
    #[schemars(range(min = 8, max = 8192))]
    pub max_width: i32,
    /// Smallest height in pixels.
    #[schemars(range(min = 8, max = 8192))]
    pub min_height: i32,
    /// Largest height in pixels.
    #[schemars(range(min = 8, max = 8192))]
    pub max_height: i32,
    /// Width and height must be multiples of this many pixels.
    #[schemars(range(min = 8, max = 64))]
    pub size_multiple_of: i32,
    /// Most denoising steps; a request for more gets these.
    #[schemars(range(min = 1, max = 1000))]
    pub max_steps: i32,
    /// Most images of one request.
    #[schemars(range(min = 1, max = 16))]
    pub max_samples: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { min_width: 64, max_width: 2048, min_height: 64, max_height: 2048, size_multiple_of: 8, max_steps: 100, max_samples: 4 }
    }
}

/// Other models that are always used together with this one.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    /// The model id of a VAE that replaces the checkpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-validations" = rule::schema(&[&rule::MODEL_ID])))]
    pub vae: Option<String>,
    /// Adapters that are merged into the weights; they are part of the model's digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub adapters: Vec<Adapter>,
}

/// An adapter and how strongly it acts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Adapter {
    /// The adapter's model id.
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-validations" = rule::schema(&[&rule::MODEL_ID])))]
    pub model: String,
    /// Its strength; 1 as it was trained.
    #[serde(default = "full_strength")]
    #[schemars(range(min = -10.0, max = 10.0))]
    pub scale: f64,
}

fn full_strength() -> f64 {
    1.0
}

/// Prices of a model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Pricing {
    /// Price of one image in US dollars, such as "0.004".
    pub image: Price,
}

/// Who may see and call a model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Visibility {
    /// The tenants that may; to all others the model does not exist.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 128)))]
    pub tenants: Vec<String>,
}

/// What the operator found out and did. Written by the operator alone.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentStatus {
    /// Ready, Progressing and Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas of the model's own that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selects the pods of those replicas, for autoscalers that read the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The family that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Size of the weights in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Digest of what was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What was imported, and of which declaration. Routers serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// When the model was last called; written at most once a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Time>,
}

impl ModelDeployment {
    /// The name callers use: `spec.modelId`, or else the object's own.
    pub fn model_id(&self) -> String {
        self.spec.model_id.clone().unwrap_or_else(|| self.name_any())
    }

    /// Whether callers use this name for it.
    pub fn has_model_id(&self, id: &str) -> bool {
        self.spec.model_id.as_deref().or(self.metadata.name.as_deref()) == Some(id)
    }

    /// Who claimed a model id first has the smaller one: the older object, and of two equally old ones the first by namespace and name.
    pub fn seniority(&self) -> impl Ord + use<> {
        (self.creation_timestamp(), self.namespace(), self.name_any())
    }

    /// Everything a cluster would refuse at creation, with the words it would use; empty if nothing.
    pub fn validate(&self) -> Vec<Violation> {
        schema::violations::<Self>(self, None)
    }

    /// Everything a cluster would refuse in the change from `old`.
    pub fn validate_update(&self, old: &Self) -> Vec<Violation> {
        schema::violations::<Self>(self, Some(old))
    }
}
