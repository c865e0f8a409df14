//! The router in a cluster: its objects are custom resources, its replicas pods. It reads the cluster and writes nothing to it; the operator
//! asks it for its demand.

use std::io;
use std::sync::Arc;

use kube::Client;

use crate::accounts::ApiKey;
use crate::catalog::{Catalog, ClusterCatalog, ClusterCatalogError, ClusterNamespaces, find_plans};
use crate::command::{KeyCreate, Serve};
use crate::demand;
use crate::imports;
use crate::metrics::Metrics;
use crate::replicas::{PodReplicas, PodSettings, Replicas};
use crate::serving::{House, Kept, Parts, ServeError, StopSignals, listen, open_store};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("there is no cluster to serve in: {0}; without one there is `emulsion-router local`")]
    NoCluster(#[source] Box<kube::Error>),
    #[error(transparent)]
    Catalog(#[from] ClusterCatalogError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no TenantPlan {plan:?}; declared are: {}", if .declared.is_empty() { "none" } else { .declared })]
    PlanUnknown { plan: String, declared: String },
}

/// Runs until SIGTERM or SIGINT.
pub async fn serve(options: Serve) -> Result<(), ClusterError> {
    let stop = StopSignals::listen()?;
    let kept = Kept::open(&options.storage, &options.s3).await?;
    let client = client().await?;
    let namespaces = ClusterNamespaces { own: options.namespace, watched: options.watch_namespace };
    let catalog = ClusterCatalog::open(client.clone(), namespaces.clone()).await?;
    let settings = PodSettings { namespaces, installation_token: options.installation_token.clone() };
    let pods = Arc::new(PodReplicas::watch(client, &settings).map_err(ServeError::Client)?) as Arc<dyn Replicas>;
    let internal = listen(options.internal_listen, "--internal-listen").await?;
    let listener = listen(options.listen, "--listen").await?;
    let objects = &kept.objects;
    let import_routes = imports::routes(objects.content.clone(), &options.installation_token).merge(objects.import_routes.clone());
    let house = House::build(Parts {
        kept,
        catalog: Arc::clone(&catalog) as Arc<dyn Catalog>,
        replicas: Arc::clone(&pods),
        metrics: Arc::new(Metrics::default()),
        store_base: options.store_url,
        has_safety_checker: options.has_safety_checker,
        calls: options.calls,
        input_options: options.inputs,
        content_options: options.content,
    })
    .await?;
    let told = demand::routes(Arc::clone(house.service.demand()), pods, &options.installation_token).merge(import_routes);
    let models = catalog.current().models.len();
    tracing::info!("listening on {}, for the operator on {}; {models} models are declared", options.listen, options.internal_listen);
    tokio::select! {
        served = house.serve(listener, stop) => Ok(served?),
        ended = async { axum::serve(internal, told).await } => {
            Err(ServeError::Serve(ended.err().unwrap_or_else(|| io::Error::other("it ended"))).into())
        }
    }
}

/// Makes a key for a tenant under a plan that the cluster declares. Works beside a running router.
pub async fn create_key(options: &KeyCreate) -> Result<ApiKey, ClusterError> {
    let plans = find_plans(client().await?).await?;
    if !plans.contains(&options.plan) {
        return Err(ClusterError::PlanUnknown { plan: options.plan.clone(), declared: plans.join(", ") });
    }
    let store = open_store(&options.folders.storage).await?;
    let key = ApiKey::generate();
    store.add_key(&options.tenant, &options.plan, key.hash()).await?;
    Ok(key)
}

async fn client() -> Result<Client, ClusterError> {
    Client::try_default().await.map_err(|error| ClusterError::NoCluster(Box::new(error)))
}
