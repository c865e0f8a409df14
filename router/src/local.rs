//! Local mode: the real house on one machine. Its objects are a folder of manifests, its replicas child processes; everything it keeps is in
//! one folder.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crds::model_deployment::ModelKind;

use crate::accounts::ApiKey;
use crate::catalog::{Catalog, CatalogError, FolderCatalog, ImportedCatalog, Snapshot};
use crate::command::{Folders, Imports, KeyCreate, Local, Storage};
use crate::imports::{self, ImportSettings, Importer};
use crate::local_key;
use crate::metrics::Metrics;
use crate::replicas::{ChildProcesses, ChildSettings, ContentCache, Replicas};
use crate::serving::{House, Kept, Parts, ServeError, StopSignals, listen, open_store};
use crate::store::StoreError;

/// Between two looks at sets that have a minimum of replicas.
const WARM_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no plan {plan:?}; declared are: {}", if .declared.is_empty() { "none" } else { .declared })]
    PlanUnknown { plan: String, declared: String },
    #[error("there is no runtime at {path}; build it with `cargo build -p runtime`, or name another with --runtime")]
    NoRuntime { path: String },
    #[error("there are no weights of the safety checker at {path}; `make safety-checker` makes them")]
    NoSafetyChecker { path: String },
    #[error("the folder for imports cannot be made: {0}; --data-dir names another place")]
    ImportFolder(#[source] io::Error),
    #[error("the key file {path} cannot be read or written: {source}")]
    KeyFile { path: String, source: io::Error },
}

/// Runs until SIGTERM or SIGINT.
pub async fn serve(options: Local) -> Result<(), LocalError> {
    let stop = StopSignals::listen()?;
    let program = runtime_program(options.runtime.as_deref())?;
    if let Some(path) = options.safety_checker.as_deref().filter(|path| !path.is_file()) {
        return Err(LocalError::NoSafetyChecker { path: path.display().to_string() });
    }
    let kept = Kept::open(&options.folders.storage, &options.s3).await?;
    let declared = Arc::new(FolderCatalog::open(&options.folders.manifests)?);
    let listener = listen(options.listen, "--listen").await?;
    let address = reachable(listener.local_addr().map_err(ServeError::Serve)?);

    let metrics = Arc::new(Metrics::default());
    let token = hex::encode(rand::random::<[u8; 32]>());
    let has_safety_checker = options.safety_checker.is_some();
    let data_dir = &options.folders.storage.data_dir;
    let importer = importer(&kept, program.clone(), token.clone(), data_dir, &options.imports).await?;
    let catalog = ImportedCatalog::start(Arc::clone(&declared) as Arc<dyn Catalog>, importer).await;
    let content_cache = ContentCache { folder: data_dir.join("content-cache"), limit_bytes: options.imports.content_cache_bytes };
    let child_settings = ChildSettings {
        program,
        token,
        safety_checker: options.safety_checker,
        content_cache: Some(content_cache),
        idle_after: options.replica_idle_after,
    };
    let replicas: Arc<dyn Replicas> = Arc::new(ChildProcesses::new(child_settings, Arc::clone(&metrics)));
    let store_base = format!("http://{address}");
    let public_url = options.calls.public_url.clone().unwrap_or_else(|| store_base.clone());
    let house = House::build(Parts {
        kept: kept.clone(),
        catalog: Arc::clone(&catalog) as Arc<dyn Catalog>,
        replicas: Arc::clone(&replicas),
        metrics,
        store_base,
        has_safety_checker,
        calls: options.calls,
        input_options: options.inputs,
        content_options: options.content,
    })
    .await?;
    let key = local_key::load_or_create(&options.folders.storage.data_dir, kept.store.as_ref(), &catalog.current()).await?;
    println!("{}", greeting(&public_url, key.as_ref(), &catalog.current()));
    tokio::spawn(declared.keep_current());
    tokio::spawn(keep_warm(catalog, replicas));
    Ok(house.serve(listener, stop).await?)
}

/// Starts what brings weights in: imports, and where they come with what they have.
async fn importer(kept: &Kept, program: PathBuf, token: String, data_dir: &Path, options: &Imports) -> Result<Importer, LocalError> {
    // Of its own: what callers reach is not for imports.
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "the loopback address").await?;
    let address = listener.local_addr().map_err(ServeError::Serve)?;
    let routes = imports::routes(kept.objects.content.clone(), &token).merge(kept.objects.import_routes.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let settings = ImportSettings {
        program,
        router_url: format!("http://{address}"),
        installation_token: token,
        allow_networks: options.import_allow_network.clone(),
        allow_hosts: options.import_allow_host.clone(),
        secrets: options.secrets.clone().unwrap_or_else(|| data_dir.join("secrets")),
        work_folder: data_dir.join("imports"),
    };
    Importer::new(settings, kept.objects.content.clone()).map_err(LocalError::ImportFolder)
}

/// Makes a key for a tenant under a declared plan. Works beside a running router.
pub async fn create_key(options: &KeyCreate) -> Result<ApiKey, LocalError> {
    let catalog = FolderCatalog::open(&options.folders.manifests)?.current();
    if !catalog.plans.contains_key(&options.plan) {
        let declared = catalog.plans.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(LocalError::PlanUnknown { plan: options.plan.clone(), declared });
    }
    let store = open_store(&options.folders.storage).await?;
    let key = ApiKey::generate();
    store.add_key(&options.tenant, &options.plan, key.hash()).await?;
    Ok(key)
}

/// The runtime that was named, or the one beside this executable.
fn runtime_program(named: Option<&Path>) -> Result<PathBuf, LocalError> {
    let beside = || std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("emulsion-runtime")));
    let program = named.map(Path::to_owned).or_else(beside).unwrap_or_else(|| PathBuf::from("emulsion-runtime"));
    if program.is_file() { Ok(program) } else { Err(LocalError::NoRuntime { path: program.display().to_string() }) }
}

/// Where this machine's processes reach the listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What to call and with which key, ready to be pasted.
fn greeting(url: &str, key: Option<&ApiKey>, catalog: &Snapshot) -> String {
    let ready = |id: &&String| {
        catalog.models.get(*id).is_some_and(|model| model.kind == ModelKind::Checkpoint && model.weights.is_ok() && model.tenants.is_none())
    };
    let model = catalog.models.keys().filter(ready).min_by_key(|id| id.as_str() != "demo");
    let mut lines = vec![format!("Emulsion listens on {url}")];
    match (key, model) {
        (Some(key), Some(model)) => {
            lines.push(format!("key: {}", key.expose()));
            lines.push("try:".to_owned());
            lines.push(format!(
                "curl -X POST '{url}/api/v7/images/text-to-image' -H 'Content-Type: application/json' -d '{{\"key\":\"{}\",\"model_id\":\"{model}\",\"prompt\":\"a red circle on a blue background\"}}'",
                key.expose()
            ));
        }
        (Some(key), None) => lines.push(format!("key: {} (no model can be called yet: the log says why)", key.expose())),
        (None, _) => lines.push("no TenantPlan is declared, so that no key can be made: add one to the manifests".to_owned()),
    }
    lines.join("\n")
}

async fn keep_warm(catalog: Arc<dyn Catalog>, replicas: Arc<dyn Replicas>) {
    let mut looks = tokio::time::interval(WARM_INTERVAL);
    loop {
        looks.tick().await;
        for set in catalog.current().warm_sets() {
            replicas.warm(&set);
        }
    }
}

/// Folders as the tests and `key create` name them.
impl Folders {
    pub fn new(data_dir: impl Into<PathBuf>, manifests: impl Into<PathBuf>) -> Self {
        Self { storage: Storage { data_dir: data_dir.into(), database_url: None }, manifests: manifests.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{model, snapshot};

    const PLAN: &str = "apiVersion: emulsion.dev/v1alpha1\nkind: TenantPlan\nmetadata: {name: free}\n\
                        spec: {requestsPerMinute: 60, burst: 20, parallelImages: 1, queueDepth: 10}\n";

    #[tokio::test]
    async fn a_key_is_valid_at_once_and_its_plan_must_be_declared() {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).unwrap();
        std::fs::write(manifests.join("plan.yaml"), PLAN).unwrap();
        let folders = Folders::new(folder.path().join("new/data"), &manifests);
        let create =
            |plan: &str| KeyCreate { tenant: "acme".to_owned(), plan: plan.to_owned(), from_cluster: false, folders: folders.clone() };
        let error = create_key(&create("gold")).await.unwrap_err().to_string();
        assert!(error.contains("gold") && error.contains("free"), "{error}");
        assert!(!folders.storage.data_dir.exists(), "a refused key leaves nothing behind");
        let key = create_key(&create("free")).await.unwrap();
        let store = open_store(&folders.storage).await.unwrap();
        let caller = store.find_caller(key.hash()).await.unwrap().unwrap();
        assert_eq!((caller.tenant_name.as_str(), caller.plan.as_str()), ("acme", "free"));
    }

    #[test]
    fn the_greeting_names_a_model_that_everybody_may_call() {
        let catalog =
            snapshot([model("another"), model("demo"), crate::catalog::Model { tenants: Some(vec![]), ..model("a-private-one") }]);
        let key = ApiKey::generate();
        let text = greeting("http://127.0.0.1:8080", Some(&key), &catalog);
        assert!(text.contains(key.expose()) && text.contains("\"model_id\":\"demo\""), "{text}");
    }

    #[test]
    fn replicas_reach_a_listener_on_every_address_by_loopback() {
        assert_eq!(reachable("0.0.0.0:80".parse().unwrap()).to_string(), "127.0.0.1:80");
        assert_eq!(reachable("[::]:80".parse().unwrap()).to_string(), "[::1]:80");
        assert_eq!(reachable("192.0.2.1:80".parse().unwrap()).to_string(), "192.0.2.1:80");
    }
}
