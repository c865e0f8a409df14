//! What is declared: models, plans and pools, by name. The source is a folder of YAML or a cluster. It knows no requests, no
//! replicas that run and no keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crds::import::ImportSource;
use crds::model_deployment::{Adapter, Family, GenerationDefaults, Limits, ModelKind, Serving};
use crds::{ModelDeployment, RuntimePoolSpec, TenantPlanSpec};
use tokio::sync::watch;

use crate::replicas::{ReplicaSet, SetKey};
use crate::sha256_name::Sha256Name;

mod cluster;
mod folder;
mod imported;
mod nearest;
mod reading;

pub use cluster::{ClusterCatalog, ClusterCatalogError, ClusterNamespaces, find_plans};
pub use folder::{CatalogError, FolderCatalog};
pub use imported::ImportedCatalog;
pub(crate) use reading::file_uri;

/// Declared objects, which may change while the router runs.
pub trait Catalog: Send + Sync + Debug {
    /// What is declared now.
    fn current(&self) -> Arc<Snapshot>;
    /// Tells of each change.
    fn changes(&self) -> watch::Receiver<Arc<Snapshot>>;
}

/// Everything declared at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By model id.
    pub models: BTreeMap<String, Arc<Model>>,
    pub plans: BTreeMap<String, TenantPlanSpec>,
    pub pools: BTreeMap<String, RuntimePoolSpec>,
    /// In a cluster, the namespace of all pools; empty on one machine, where the default pool need not be declared.
    pub pool_namespace: String,
    /// What was declared and cannot be used, for people.
    pub problems: Vec<String>,
    /// Content that objects name which are no models here, such as those whose id belongs to another.
    pub other_content: BTreeSet<String>,
    /// An object could not be read at all: what content it names is not known.
    pub has_unreadable: bool,
}

/// A model that callers may name: a checkpoint, or what is used together with one.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub model_id: String,
    pub kind: ModelKind,
    pub family: Option<Family>,
    /// Where replicas read it, or why it cannot be served.
    pub weights: Result<Weights, String>,
    /// What must be imported before it can be served; callers may be told how that stands.
    pub import: Option<ImportSource>,
    pub serving: Serving,
    pub defaults: GenerationDefaults,
    /// The sampler in the model's own folder, by diffusers' class name.
    pub own_sampler: Option<String>,
    pub limits: Limits,
    /// The VAE whose weights it is used with instead of its own.
    pub vae: Option<String>,
    /// The adapters that are always used with it.
    pub adapters: Vec<Adapter>,
    /// The tenants that may see it; `None` is everybody.
    pub tenants: Option<Vec<String>>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// In a cluster, the namespace of its ModelDeployment; empty on one machine.
    pub namespace: String,
    /// Where it is declared, for messages.
    pub origin: String,
}

/// Where a model's weights are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Where replicas have them already.
    Files(WeightFiles),
    /// In the content store, under this manifest's digest.
    Content { digest: String },
}

impl Weights {
    /// What of them is on a disk that replicas see.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let files = match self {
            Self::Files(files) => Some(files),
            Self::Content { .. } => None,
        };
        files.into_iter().flat_map(|files| [Some(&files.path), files.config.as_ref()].into_iter().flatten())
    }
}

/// Weights that are files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFiles {
    /// A `file://` URI with an absolute path, as the replica sees it.
    pub uri: String,
    /// A checkpoint's folder, or the file of anything else.
    pub path: PathBuf,
    /// Of a checkpoint that is one file: the folder whose configurations replace the built-in ones.
    pub config: Option<PathBuf>,
    pub sha256: Option<String>,
}

/// A pool that nobody declared but models name by default: one replica, started on demand.
fn default_pool() -> RuntimePoolSpec {
    RuntimePoolSpec::default()
}

impl Model {
    /// What a ModelDeployment declares; the rest depends on where it was declared.
    fn declared(deployment: &ModelDeployment, weights: Result<Weights, String>, created_at: i64, origin: String) -> Self {
        let spec = &deployment.spec;
        Self {
            model_id: deployment.model_id(),
            kind: spec.kind,
            // An import or a replica has told what it found.
            family: spec.family.or(deployment.status.as_ref().and_then(|status| status.family)),
            weights,
            import: None,
            serving: spec.serving.clone(),
            defaults: spec.defaults.clone(),
            own_sampler: None,
            limits: spec.limits.clone(),
            vae: spec.components.vae.clone(),
            adapters: spec.components.adapters.clone(),
            tenants: spec.visibility.as_ref().map(|visibility| visibility.tenants.clone()),
            created_at,
            namespace: deployment.metadata.namespace.clone().unwrap_or_default(),
            origin,
        }
    }

    pub fn is_visible_to(&self, tenant_name: &str) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.iter().any(|tenant| tenant == tenant_name))
    }
}

impl Snapshot {
    /// The manifests of everything that is declared; `None` where that is not known.
    pub fn used_content(&self) -> Option<BTreeSet<Sha256Name>> {
        let digest = |model: &Arc<Model>| match &model.weights {
            Ok(Weights::Content { digest }) => Some(digest.clone()),
            _ => None,
        };
        let named = self.models.values().filter_map(digest).chain(self.other_content.iter().cloned());
        (!self.has_unreadable).then(|| named.filter_map(|digest| Sha256Name::parse(&digest)).collect())
    }

    /// The model, if there is one by that id that the tenant may see.
    pub fn model(&self, model_id: &str, tenant_name: &str) -> Option<&Arc<Model>> {
        self.models.get(model_id).filter(|model| model.is_visible_to(tenant_name))
    }

    pub fn visible_to<'a>(&'a self, tenant_name: &'a str) -> impl Iterator<Item = &'a Arc<Model>> {
        self.models.values().filter(move |model| model.is_visible_to(tenant_name))
    }

    /// The id that was probably meant, among those of its kind that the tenant may see.
    pub fn nearest(&self, model_id: &str, kind: ModelKind, tenant_name: &str) -> Option<String> {
        let candidates = self.visible_to(tenant_name).filter(|model| model.kind == kind);
        nearest::nearest(model_id, candidates.map(|model| model.model_id.as_str()))
    }

    /// The VAE that a checkpoint declares, or why it cannot have it.
    pub fn declared_vae(&self, model: &Model) -> Result<Option<&Arc<Model>>, String> {
        let Some(name) = &model.vae else { return Ok(None) };
        let vae = self.models.get(name).ok_or_else(|| format!("its VAE {name} is not declared"))?;
        if vae.kind != ModelKind::Vae {
            return Err(format!("its VAE {name} is {}, not {}", kind_name(vae.kind), kind_name(ModelKind::Vae)));
        }
        match (vae.family, model.family) {
            (Some(its), Some(own)) if its.latents() != own.latents() => {
                Err(format!("its VAE {name} is for {}, and the model is {}", its.name(), own.name()))
            }
            _ => Ok(Some(vae)),
        }
    }

    /// The adapters that a checkpoint declares, with their strengths, or why it cannot have one of them.
    pub fn declared_adapters(&self, model: &Model) -> Result<Vec<(&Arc<Model>, f64)>, String> {
        let find = |declared: &Adapter| {
            let name = &declared.model;
            let adapter = self.models.get(name).ok_or_else(|| format!("its adapter {name} is not declared"))?;
            if adapter.kind != ModelKind::Lora {
                return Err(format!("its adapter {name} is {}, not {}", kind_name(adapter.kind), kind_name(ModelKind::Lora)));
            }
            Ok((adapter, declared.scale))
        };
        model.adapters.iter().map(find).collect()
    }

    /// The replicas that serve the model under a plan, or why there can be none.
    pub fn replica_set(&self, model: &Model, plan_pool: Option<&str>) -> Result<ReplicaSet, String> {
        if let Some(dedicated) = &model.serving.dedicated {
            let own = model.weights.iter().flat_map(Weights::paths).cloned();
            return Ok(ReplicaSet {
                key: SetKey::Dedicated(model.model_id.clone()),
                namespace: model.namespace.clone(),
                min_replicas: count(dedicated.min_replicas),
                max_replicas: count(dedicated.max_replicas),
                idle_after: dedicated.idle_after.as_duration(),
                model_roots: without_covered(own.chain(self.roots_of(|model| model.kind != ModelKind::Checkpoint)).collect()),
            });
        }
        // A plan's own pool need not exist everywhere the plan is used.
        let own = plan_pool.filter(|name| self.pools.contains_key(*name));
        let named = model.serving.pooled.clone().unwrap_or_default().pool;
        let name = own.unwrap_or(&named);
        let pool = match self.pools.get(name) {
            Some(pool) => pool.clone(),
            None if name == crds::model_deployment::DEFAULT_POOL && self.pool_namespace.is_empty() => default_pool(),
            None => return Err(format!("it names the RuntimePool {name}, which is not declared")),
        };
        Ok(self.pool_set(name, &pool))
    }

    /// The sets that never shrink to nothing.
    pub fn warm_sets(&self) -> Vec<ReplicaSet> {
        let pools = self.pools.iter().map(|(name, pool)| self.pool_set(name, pool));
        let dedicated = self
            .models
            .values()
            .filter(|model| model.kind == ModelKind::Checkpoint && model.serving.dedicated.is_some())
            .filter_map(|model| self.replica_set(model, None).ok());
        pools.chain(dedicated).filter(|set| set.min_replicas > 0).collect()
    }

    /// The replicas of a pool that is declared so.
    pub(crate) fn pool_set(&self, name: &str, pool: &RuntimePoolSpec) -> ReplicaSet {
        ReplicaSet {
            key: SetKey::Pool(name.to_owned()),
            namespace: self.pool_namespace.clone(),
            min_replicas: count(pool.min_replicas),
            max_replicas: count(pool.max_replicas),
            idle_after: pool.idle_after.as_duration(),
            model_roots: self.pooled_roots(),
        }
    }

    /// The folders above all pooled models and all adapters; any pool may load any of them.
    fn pooled_roots(&self) -> Vec<PathBuf> {
        without_covered(self.roots_of(|model| model.serving.dedicated.is_none()).collect())
    }

    /// The folders above the models that are `wanted`.
    fn roots_of(&self, wanted: impl Fn(&Model) -> bool) -> impl Iterator<Item = PathBuf> {
        let weights = self.models.values().filter(move |model| wanted(model)).filter_map(|model| model.weights.as_ref().ok());
        weights.flat_map(Weights::paths).map(|path| path.parent().unwrap_or(path).to_owned())
    }
}

/// A folder below another one is covered by it.
fn without_covered(mut roots: Vec<PathBuf>) -> Vec<PathBuf> {
    roots.sort();
    roots.dedup_by(|later, earlier| later.starts_with(earlier));
    roots
}

/// With its article, for messages.
pub fn kind_name(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Checkpoint => "a checkpoint",
        ModelKind::Lora => "a LoRA",
        ModelKind::Controlnet => "a ControlNet",
        ModelKind::Vae => "a VAE",
        ModelKind::Embedding => "an embedding",
        ModelKind::Upscaler => "an upscaler",
    }
}

/// Manifests were checked against their schema, whose counts are never negative.
fn count(number: i32) -> u32 {
    number.unsigned_abs()
}

/// Seconds between two looks at a source of objects that tells nothing by itself.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
pub(crate) mod tests {
    use crds::model_deployment::Pooled;

    use super::*;

    pub(crate) fn model(model_id: &str) -> Model {
        Model {
            model_id: model_id.to_owned(),
            kind: ModelKind::Checkpoint,
            family: Some(Family::Sd15),
            weights: Ok(Weights::Files(WeightFiles {
                uri: format!("file:///models/{model_id}"),
                path: format!("/models/{model_id}").into(),
                config: None,
                sha256: None,
            })),
            import: None,
            serving: Serving::default(),
            defaults: GenerationDefaults::default(),
            own_sampler: Some("DDIMScheduler".to_owned()),
            limits: Limits::default(),
            vae: None,
            adapters: Vec::new(),
            tenants: None,
            created_at: 0,
            namespace: String::new(),
            origin: "test".to_owned(),
        }
    }

    pub(crate) fn snapshot(models: impl IntoIterator<Item = Model>) -> Snapshot {
        Snapshot { models: models.into_iter().map(|model| (model.model_id.clone(), Arc::new(model))).collect(), ..Snapshot::default() }
    }

    /// A LoRA in a file of its own.
    pub(crate) fn lora(model_id: &str) -> Model {
        let path = format!("/adapters/{model_id}.safetensors");
        Model {
            kind: ModelKind::Lora,
            weights: Ok(Weights::Files(WeightFiles { uri: format!("file://{path}"), path: path.into(), config: None, sha256: None })),
            own_sampler: None,
            ..model(model_id)
        }
    }

    #[test]
    fn replicas_of_every_kind_may_read_every_adapter() {
        let dedicated: Serving = serde_json::from_value(serde_json::json!({"dedicated": {"maxReplicas": 3}})).unwrap();
        let own = Model { serving: Serving { pooled: None, ..dedicated.clone() }, ..model("own") };
        let snapshot = snapshot([model("a"), own, lora("ink"), Model { serving: Serving { pooled: None, ..dedicated }, ..lora("oil") }]);
        let roots = |id: &str| snapshot.replica_set(&snapshot.models[id], None).unwrap().model_roots;
        assert_eq!(roots("a"), [PathBuf::from("/adapters"), PathBuf::from("/models")]);
        assert_eq!(roots("own"), [PathBuf::from("/adapters"), PathBuf::from("/models/own")]);
    }

    #[test]
    fn declared_adapters_are_found_or_named() {
        let declaring = |name: &str| Model { adapters: vec![Adapter { model: name.to_owned(), scale: 0.5 }], ..model("base") };
        let snapshot = snapshot([model("a"), lora("ink")]);
        let found = |name: &str| snapshot.declared_adapters(&declaring(name)).map(|found| (found[0].0.model_id.clone(), found[0].1));
        assert_eq!(found("ink"), Ok(("ink".to_owned(), 0.5)));
        assert_eq!(found("oil"), Err("its adapter oil is not declared".to_owned()));
        assert_eq!(found("a"), Err("its adapter a is a checkpoint, not a LoRA".to_owned()));
    }

    #[test]
    fn a_private_model_does_not_exist_for_others_not_even_as_the_nearest() {
        let snapshot = snapshot([Model { tenants: Some(vec!["acme".to_owned()]), ..model("secret") }]);
        assert!(snapshot.model("secret", "acme").is_some());
        assert!(snapshot.model("secret", "other").is_none());
        assert_eq!(snapshot.nearest("secret", ModelKind::Checkpoint, "other"), None);
        assert_eq!(snapshot.nearest("secrets", ModelKind::Checkpoint, "acme").as_deref(), Some("secret"));
        assert_eq!(snapshot.nearest("secrets", ModelKind::Lora, "acme"), None);
    }

    #[test]
    fn pooled_models_share_the_roots_above_them_and_dedicated_ones_have_their_own() {
        let dedicated: Serving = serde_json::from_value(serde_json::json!({"dedicated": {"maxReplicas": 3}})).unwrap();
        let snapshot = snapshot([model("a"), model("b/c"), Model { serving: Serving { pooled: None, ..dedicated }, ..model("own") }]);
        let set = |id: &str| snapshot.replica_set(&snapshot.models[id], None).unwrap();
        assert_eq!(set("a"), set("b/c"));
        assert_eq!(set("a").model_roots, [PathBuf::from("/models")]);
        assert_eq!((set("a").min_replicas, set("a").max_replicas), (0, 1));
        assert_eq!(set("own").key, SetKey::Dedicated("own".to_owned()));
        assert_eq!(set("own").max_replicas, 3);
        assert_eq!(set("own").model_roots, [PathBuf::from("/models/own")]);
    }

    #[test]
    fn a_plans_own_pool_is_used_where_it_exists() {
        let mut snapshot = snapshot([model("a")]);
        let set = |snapshot: &Snapshot| snapshot.replica_set(&snapshot.models["a"], Some("big")).unwrap().key;
        assert_eq!(set(&snapshot), SetKey::Pool("default".to_owned()));
        snapshot.pools.insert("big".to_owned(), RuntimePoolSpec::default());
        assert_eq!(set(&snapshot), SetKey::Pool("big".to_owned()));
    }

    #[test]
    fn in_a_cluster_the_default_pool_is_a_pool_like_any_other() {
        let mut snapshot = Snapshot { pool_namespace: "emulsion".to_owned(), ..snapshot([model("a")]) };
        assert!(snapshot.replica_set(&snapshot.models["a"], None).is_err_and(|reason| reason.contains("default")));
        snapshot.pools.insert("default".to_owned(), RuntimePoolSpec::default());
        assert_eq!(snapshot.replica_set(&snapshot.models["a"], None).unwrap().namespace, "emulsion");
    }

    #[test]
    fn a_pool_that_is_not_declared_is_named() {
        let pooled = Serving { pooled: Some(Pooled { pool: "gpu".to_owned() }), dedicated: None };
        let snapshot = snapshot([Model { serving: pooled, ..model("a") }]);
        assert!(snapshot.replica_set(&snapshot.models["a"], None).is_err_and(|reason| reason.contains("gpu")));
    }
}
