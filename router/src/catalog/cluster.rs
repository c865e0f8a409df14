//! A catalog that is a cluster's custom resources, watched. An object that cannot be read or used costs only itself; while the API server is
//! away, what was known stays.
//!
//! ModelDeployments may be in any namespace, or in one; RuntimePools are in the installation's own.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::import::ImportSource;
use crds::{ModelDeployment, RuntimePool, TenantPlan, Violation, replica};
use futures::StreamExt;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use super::reading::decode;
use super::{Catalog, Model, Snapshot, WeightFiles, Weights};

/// After a change others follow soon: they are taken in together.
const SETTLING: Duration = Duration::from_millis(50);
/// Making a snapshot of ten thousand objects takes a while: for this many times as long it rests afterwards.
const REST: u32 = 4;
/// How long the first lists may take.
const FIRST_LIST_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ClusterCatalogError {
    #[error(
        "the cluster's objects could not be listed within {} s; the log says why (is the API server reachable, and may this service account list modeldeployments, tenantplans and runtimepools?)",
        FIRST_LIST_DEADLINE.as_secs()
    )]
    FirstList,
    #[error("the cluster's TenantPlans cannot be listed: {0}")]
    Plans(#[source] kube::Error),
}

/// Where objects are looked for.
#[derive(Clone, Debug)]
pub struct ClusterNamespaces {
    /// The installation's own, which holds all RuntimePools.
    pub own: String,
    /// The only one whose ModelDeployments are served; absent, those of all namespaces are.
    pub watched: Option<String>,
}

impl ClusterNamespaces {
    /// Objects that models bring with them: ModelDeployments, and pods of those that are dedicated.
    pub(crate) fn of_models<K>(&self, client: Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match &self.watched {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }
}

/// The custom resources of one cluster.
#[derive(Debug)]
pub struct ClusterCatalog {
    current: watch::Sender<Arc<Snapshot>>,
}

type Guarded<K> = DeserializeGuard<K>;

struct Objects {
    models: Store<Guarded<ModelDeployment>>,
    plans: Store<Guarded<TenantPlan>>,
    pools: Store<Guarded<RuntimePool>>,
}

impl ClusterCatalog {
    /// Watches from now on; returns when everything was read once.
    pub async fn open(client: Client, namespaces: ClusterNamespaces) -> Result<Arc<Self>, ClusterCatalogError> {
        let changed = Arc::new(Notify::new());
        let objects = Objects {
            models: keep(namespaces.of_models(client.clone()), &changed),
            plans: keep(Api::all(client.clone()), &changed),
            pools: keep(Api::namespaced(client, &namespaces.own), &changed),
        };
        let first_lists = async {
            // They fail only if the tasks that fill them are gone, and those do not end.
            let _ = tokio::join!(objects.models.wait_until_ready(), objects.plans.wait_until_ready(), objects.pools.wait_until_ready());
        };
        tokio::time::timeout(FIRST_LIST_DEADLINE, first_lists).await.map_err(|_| ClusterCatalogError::FirstList)?;
        let catalog = Arc::new(Self { current: watch::Sender::default() });
        let mut assembly = Assembly { pool_namespace: namespaces.own, read: HashMap::new() };
        catalog.replace(assembly.snapshot(&objects));
        tokio::spawn({
            let catalog = Arc::clone(&catalog);
            async move {
                let mut rest = SETTLING;
                loop {
                    changed.notified().await;
                    tokio::time::sleep(rest).await;
                    let started = Instant::now();
                    catalog.replace(assembly.snapshot(&objects));
                    rest = SETTLING.max(started.elapsed() * REST);
                }
            }
        });
        Ok(catalog)
    }

    fn replace(&self, next: Snapshot) {
        let previous = self.current();
        for problem in next.problems.iter().filter(|problem| !previous.problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.current.send_if_modified(|current| {
            let is_other = current.models != next.models || current.plans != next.plans || current.pools != next.pools;
            let is_told_otherwise = current.problems != next.problems || current.pool_namespace != next.pool_namespace;
            let is_content_other = current.other_content != next.other_content || current.has_unreadable != next.has_unreadable;
            if is_other || is_told_otherwise || is_content_other {
                tracing::debug!(models = next.models.len(), plans = next.plans.len(), pools = next.pools.len(), "the catalog changed");
                *current = Arc::new(next);
                return true;
            }
            false
        });
    }
}

impl Catalog for ClusterCatalog {
    fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }
}

/// The names of all plans that are declared now.
pub async fn find_plans(client: Client) -> Result<Vec<String>, ClusterCatalogError> {
    let plans = Api::<Guarded<TenantPlan>>::all(client).list(&ListParams::default()).await.map_err(ClusterCatalogError::Plans)?;
    Ok(plans.items.into_iter().filter(|plan| plan.0.is_ok()).map(|plan| plan.name_any()).collect())
}

/// Fills a store for as long as the process lives.
fn keep<K>(api: Api<Guarded<K>>, changed: &Arc<Notify>) -> Store<Guarded<K>>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let changed = Arc::clone(changed);
    let objects = watcher(api, watcher::Config::default()).default_backoff().modify(|object| object.managed_fields_mut().clear());
    tokio::spawn(reflector::reflector(writer, objects).for_each(move |event| {
        match event {
            Ok(_) => changed.notify_one(),
            Err(error) => tracing::warn!("watching {}s: {error}", K::kind(&())),
        }
        std::future::ready(())
    }));
    store
}

/// Makes snapshots, and remembers what it made of each object: ten thousand are not read again because one changed.
struct Assembly {
    pool_namespace: String,
    read: HashMap<String, Read>,
}

#[derive(Clone)]
struct Read {
    resource_version: Option<String>,
    model: Result<Arc<Model>, String>,
}

impl Assembly {
    fn snapshot(&mut self, objects: &Objects) -> Snapshot {
        let mut snapshot = Snapshot { pool_namespace: self.pool_namespace.clone(), ..Snapshot::default() };
        self.add_models(&mut snapshot, &objects.models.state());
        let problems = &mut snapshot.problems;
        snapshot.plans = usable(&objects.plans.state(), TenantPlan::validate, problems, |plan| plan.spec.clone());
        snapshot.pools = usable(&objects.pools.state(), RuntimePool::validate, problems, |pool| pool.spec.clone());
        snapshot
    }

    fn add_models(&mut self, snapshot: &mut Snapshot, objects: &[Arc<Guarded<ModelDeployment>>]) {
        let mut read = HashMap::with_capacity(objects.len());
        let mut claims = Vec::with_capacity(objects.len());
        for object in objects {
            let uid = object.uid().unwrap_or_default();
            let known = self.read.remove(&uid).filter(|known| known.resource_version == object.resource_version());
            match &object.0 {
                Ok(deployment) => snapshot
                    .other_content
                    .extend(deployment.status.iter().filter_map(|status| Some(status.imported.as_ref()?.content.clone()))),
                Err(_) => snapshot.has_unreadable = true,
            }
            let entry = known.unwrap_or_else(|| Read { resource_version: object.resource_version(), model: read_model(object) });
            match (&entry.model, &object.0) {
                (Ok(model), Ok(deployment)) => claims.push((deployment.seniority(), Arc::clone(model))),
                (Err(problem), _) => snapshot.problems.push(problem.clone()),
                (Ok(_), Err(_)) => {}
            }
            read.insert(uid, entry);
        }
        self.read = read;
        claims.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (_, model) in claims {
            if let Some(owner) = snapshot.models.get(&model.model_id) {
                let problem = format!("{}: Conflict: the modelId {} belongs to {}", model.origin, model.model_id, owner.origin);
                snapshot.problems.push(problem);
                continue;
            }
            if let Err(reason) = &model.weights {
                snapshot.problems.push(format!("{}: the model {} cannot be served: {reason}", model.origin, model.model_id));
            }
            snapshot.models.insert(model.model_id.clone(), model);
        }
    }
}

fn read_model(object: &Guarded<ModelDeployment>) -> Result<Arc<Model>, String> {
    let origin = origin(object);
    let deployment = object.0.as_ref().map_err(|invalid| format!("{origin}: {}", invalid.error))?;
    let violations = deployment.validate();
    if !violations.is_empty() {
        return Err(format!("{origin}: {}", joined(&violations)));
    }
    let created_at = deployment.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    if let Some(import) = ImportSource::of(&deployment.spec) {
        return Ok(Arc::new(imported(deployment, import, created_at, origin)));
    }
    let weights = match replica::location(&deployment.spec) {
        Ok(location) => match location.config.as_deref().map(decode) {
            Some(None) => Err("its source.config is no valid URI".to_owned()),
            config => Ok(Weights::Files(WeightFiles {
                config: config.flatten(),
                uri: format!("file://{}", location.path),
                path: location.path.into(),
                sha256: deployment.spec.source.sha256.clone(),
            })),
        },
        Err(reason) => Err(reason.to_string()),
    };
    Ok(Arc::new(Model::declared(deployment, weights, created_at, origin)))
}

/// A model with what the operator had imported for it, or why that is not in.
fn imported(deployment: &ModelDeployment, import: ImportSource, created_at: i64, origin: String) -> Model {
    let status = deployment.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == crds::condition::READY);
    let weights = match &status.imported {
        Some(imported) => Ok(Weights::Content { digest: imported.content.clone() }),
        None => Err(ready.map_or_else(|| "its weights wait to be imported".to_owned(), |ready| ready.message.clone())),
    };
    let family = deployment.spec.family.or_else(|| status.imported.as_ref()?.family);
    Model { family, import: Some(import), ..Model::declared(deployment, weights, created_at, origin) }
}

/// What can be used, by name; of the rest, what is wrong with it.
fn usable<K, S>(
    objects: &[Arc<Guarded<K>>],
    validate: impl Fn(&K) -> Vec<Violation>,
    problems: &mut Vec<String>,
    spec: impl Fn(&K) -> S,
) -> BTreeMap<String, S>
where
    K: Resource<DynamicType = ()>,
{
    let mut found = BTreeMap::new();
    for object in objects {
        match &object.0 {
            Ok(read) => match validate(read) {
                violations if violations.is_empty() => drop(found.insert(read.name_any(), spec(read))),
                violations => problems.push(format!("{}: {}", origin(object.as_ref()), joined(&violations))),
            },
            Err(invalid) => problems.push(format!("{}: {}", origin(object.as_ref()), invalid.error)),
        }
    }
    found
}

fn origin<K: Resource<DynamicType = ()>>(object: &Guarded<K>) -> String {
    match object.namespace() {
        Some(namespace) => format!("{} {namespace}/{}", K::kind(&()), object.name_any()),
        None => format!("{} {}", K::kind(&()), object.name_any()),
    }
}

fn joined(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sha256_name::Sha256Name;

    fn objects<K: DeserializeOwned>(values: &[Value]) -> Vec<Arc<Guarded<K>>>
    where
        Guarded<K>: DeserializeOwned,
    {
        values.iter().map(|value| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect()
    }

    fn model(name: &str, created: &str, version: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": crds::API_VERSION, "kind": "ModelDeployment", "spec": spec,
            "metadata": {"name": name, "namespace": "models", "uid": name, "creationTimestamp": created, "resourceVersion": version},
        })
    }

    fn assembled(assembly: &mut Assembly, values: &[Value]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        assembly.add_models(&mut snapshot, &objects(values));
        snapshot
    }

    fn assembly() -> Assembly {
        Assembly { pool_namespace: "emulsion".to_owned(), read: HashMap::new() }
    }

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn an_object_that_cannot_be_used_costs_only_itself() {
        let demo = json!({"source": {"uri": "file:///models/demo"}});
        let unreadable = json!({"source": "not what it should be"});
        let invalid = json!({"source": {"uri": "ftp://host/x"}});
        let snapshot = assembled(
            &mut assembly(),
            &[model("unreadable", OLD, "1", &unreadable), model("invalid", OLD, "1", &invalid), model("demo", OLD, "1", &demo)],
        );
        assert_eq!(snapshot.models.keys().collect::<Vec<_>>(), ["demo"]);
        let paths: Vec<_> = snapshot.models["demo"].weights.iter().flat_map(Weights::paths).collect();
        assert_eq!(paths, [std::path::Path::new("/models/demo")]);
        assert_eq!(snapshot.problems.len(), 2, "{:?}", snapshot.problems);
    }

    #[test]
    fn the_older_object_keeps_a_model_id_until_it_is_gone() {
        let claiming = json!({"modelId": "shared", "source": {"uri": "file:///models/demo"}});
        let (older, newer) = (model("b", OLD, "1", &claiming), model("a", NEW, "1", &claiming));
        let mut assembly = assembly();
        let contested = assembled(&mut assembly, &[newer.clone(), older]);
        assert!(contested.models["shared"].origin.ends_with("models/b"));
        assert!(contested.problems[0].contains("Conflict"), "{:?}", contested.problems);
        let free = assembled(&mut assembly, &[newer]);
        assert!(free.models["shared"].origin.ends_with("models/a"));
        assert_eq!(free.problems, Vec::<String>::new());
    }

    #[test]
    fn a_changed_object_is_read_again_and_an_unchanged_one_is_not() {
        let spec = |steps: i32| json!({"source": {"uri": "file:///models/demo"}, "defaults": {"steps": steps}});
        let mut assembly = assembly();
        let first = assembled(&mut assembly, &[model("demo", OLD, "1", &spec(10))]);
        let same = assembled(&mut assembly, &[model("demo", OLD, "1", &spec(10))]);
        assert!(Arc::ptr_eq(&first.models["demo"], &same.models["demo"]));
        let changed = assembled(&mut assembly, &[model("demo", OLD, "2", &spec(20))]);
        assert_eq!(changed.models["demo"].defaults.steps, Some(20));
    }

    #[test]
    fn a_single_files_configuration_goes_with_it() {
        let spec = |config: &str| json!({"source": {"uri": "file:///models/one.safetensors", "config": config}});
        let weights = |config: &str| {
            let snapshot = assembled(&mut assembly(), &[model("one", OLD, "1", &spec(config))]);
            snapshot.models["one"].weights.clone()
        };
        let weights_of = weights("file:///models/de%20mo").unwrap();
        let paths: Vec<_> = weights_of.paths().collect();
        assert_eq!(paths, ["/models/one.safetensors", "/models/de mo"].map(std::path::Path::new));
        assert!(weights("file:///models/de%mo").unwrap_err().contains("source.config"));
        assert!(weights("hf://owner/name").is_err());
    }

    #[test]
    fn what_was_imported_is_served_and_what_was_not_says_why() {
        let spec = json!({"source": {"uri": "hf://acme/sdxl"}});
        let mut coming = model("coming", OLD, "1", &spec);
        coming["status"] = json!({"conditions": [{
            "type": "Ready", "status": "False", "reason": "ImportFailed", "message": "404", "lastTransitionTime": OLD,
        }]});
        let mut there = model("there", OLD, "1", &spec);
        there["status"] = json!({"imported": {"source": "x", "content": "d", "sha256": "s", "family": "sdxl", "bytes": 1}});
        let snapshot = assembled(&mut assembly(), &[coming, there]);
        assert_eq!(snapshot.models["coming"].weights, Err("404".to_owned()));
        assert_eq!(snapshot.models["there"].weights, Ok(Weights::Content { digest: "d".to_owned() }));
        assert_eq!(snapshot.models["there"].family, Some(crds::model_deployment::Family::Sdxl));
    }

    #[test]
    fn content_is_in_use_also_where_its_model_is_not() {
        let with_content = |name: &str, created: &str, digit: &str| {
            let mut model = model(name, created, "1", &json!({"modelId": "shared", "source": {"uri": "hf://acme/sdxl"}}));
            model["status"] = json!({"imported": {"source": "x", "content": digit.repeat(64), "sha256": "s", "bytes": 1}});
            model
        };
        let objects = [with_content("first", OLD, "a"), with_content("second", NEW, "b")];
        let used = assembled(&mut assembly(), &objects).used_content().unwrap();
        assert_eq!(used.iter().map(Sha256Name::text).collect::<Vec<_>>(), ["a".repeat(64), "b".repeat(64)]);
        let unreadable = model("later", OLD, "1", &json!({"source": 7}));
        assert_eq!(assembled(&mut assembly(), &[objects[0].clone(), unreadable]).used_content(), None, "nobody knows what it names");
    }

    #[test]
    fn plans_that_break_a_rule_are_told_and_left_out() {
        let plan = |name: &str, burst: i32| {
            json!({
                "apiVersion": crds::API_VERSION, "kind": "TenantPlan", "metadata": {"name": name},
                "spec": {"requestsPerMinute": 60, "burst": burst, "parallelImages": 1, "queueDepth": 1},
            })
        };
        let mut problems = Vec::new();
        let plans = usable(&objects(&[plan("good", 60), plan("bad", 61)]), TenantPlan::validate, &mut problems, |plan| plan.spec.clone());
        assert_eq!(plans.keys().collect::<Vec<_>>(), ["good"]);
        assert!(problems[0].starts_with("TenantPlan bad: "), "{problems:?}");
    }
}
