//! The loops: what happened is turned into whom it concerns, and each of those is reconciled.
//!
//! ```text
//!   ModelDeployments ─┐
//!   RuntimePools ─────┤                      ┌─► models::reconcile ─┐
//!   Deployments, Pods ┼─► whom it concerns ──┤                      ├─► objects and statuses
//!   routers' demand ──┘                      └─► pools::reconcile ──┘
//! ```
//! An object that cannot be read (of a newer version, say) is counted and left alone: it must not stop the others.

use std::{error::Error, fmt::Debug, sync::Arc};

use crds::{ModelDeployment, RuntimePool, replica};
use futures::{Stream, StreamExt};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        controller::{Action, Controller},
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    context::{Context, Guarded, RETRY, ReconcileError, Settings},
    demand::{self, Board, CHANGES_LIMIT, Concerned},
    metrics::Metrics,
    models, pools,
    watching::{self, Known, Watched},
    workload::{MANAGER, OWNER_ANNOTATION},
};

/// Reconciliations of one kind at a time.
const CONCURRENCY: u16 = 16;

type Model = Guarded<ModelDeployment>;
type Pool = Guarded<RuntimePool>;

/// Who is to be reconciled.
#[derive(Clone, Debug)]
struct Triggers {
    models: mpsc::Sender<ObjectRef<Model>>,
    pools: mpsc::Sender<ObjectRef<Pool>>,
}

/// Reconciles for as long as it is polled.
pub async fn run(client: Client, settings: Settings, metrics: Metrics) {
    let (models_sender, models_receiver) = mpsc::channel(CHANGES_LIMIT);
    let (pools_sender, pools_receiver) = mpsc::channel(CHANGES_LIMIT);
    let triggers = Triggers { models: models_sender, pools: pools_sender };
    let board = Arc::new(Board::default());

    let pools_api: Api<Pool> = match &settings.watched {
        Some(_) => Api::namespaced(client.clone(), &settings.namespace),
        None => Api::all(client.clone()),
    };
    let config = watching::config(&client, &settings.namespace).await;
    let Watched { store: pools_store, changes: of_pools, known: pools_known } = watching::watch(pools_api.clone(), config.clone(), |_| {});
    let pool_controller = Controller::for_stream(of_pools, pools_store.clone());
    let models = watching::watch(settings.of_models::<Model>(client.clone()), config.clone(), |_| {});
    let (models_store, using) = (models.store.clone(), models.store);
    // A pool that appears or goes changes what is true of the models that name it.
    let model_controller = Controller::for_stream(models.changes, models_store.clone())
        .watches(pools_api, config.clone(), move |pool| models_of_pool(&using, &pool.name_any()));

    let selected = config.labels(&replica::selector(replica::REPLICA));
    let mut known = vec![pools_known, models.known];
    let (deployments, of_deployments) = owned(&client, &settings, &selected, watching::trim_deployment, &mut known);
    let (pods, of_pods) = owned(&client, &settings, &selected, watching::trim_pod, &mut known);
    let (concerned_sender, concerned) = mpsc::channel(CHANGES_LIMIT);
    let demand = demand::follow(client.clone(), &settings.namespace, &settings.installation_token, Arc::clone(&board), concerned_sender);
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None });
    let context = Arc::new(Context {
        client,
        settings: settings.clone(),
        models: models_store.clone(),
        pools: pools_store,
        deployments,
        pods,
        known,
        board,
        recorder,
        metrics,
    });

    let reconcile_pools = pool_controller
        .with_config(kube::runtime::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(ReceiverStream::new(pools_receiver))
        .run(pools::reconcile, retry, Arc::clone(&context));
    let reconcile_models = model_controller
        .with_config(kube::runtime::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(ReceiverStream::new(models_receiver))
        .run(models::reconcile, retry, context);
    tokio::join!(
        reconcile_pools.for_each(|result| async { log(result) }),
        reconcile_models.for_each(|result| async { log(result) }),
        trigger_owners(of_deployments, triggers.clone()),
        trigger_owners(of_pods, triggers.clone()),
        trigger_concerned(concerned, triggers, models_store, settings.namespace.clone()),
        demand,
    );
}

/// Objects of replicas, wherever they may be. When they are known goes into `known`.
fn owned<K>(
    client: &Client,
    settings: &Settings,
    selected: &watcher::Config,
    trim: fn(&mut K),
    known: &mut Vec<Known>,
) -> (Vec<Store<K>>, impl Stream<Item = Result<K, watcher::Error>> + use<K>)
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut apis = vec![settings.of_models::<K>(client.clone())];
    if settings.watched.as_ref().is_some_and(|watched| *watched != settings.namespace) {
        apis.push(Api::namespaced(client.clone(), &settings.namespace));
    }
    let (mut stores, mut changes) = (Vec::new(), Vec::new());
    for api in apis {
        let watched = watching::watch(api, selected.clone(), trim);
        stores.push(watched.store);
        changes.push(watched.changes);
        known.push(watched.known);
    }
    (stores, futures::stream::select_all(changes))
}

/// Whose replicas changed is reconciled.
async fn trigger_owners<K: Resource<DynamicType = ()>>(objects: impl Stream<Item = Result<K, watcher::Error>>, triggers: Triggers) {
    let mut objects = std::pin::pin!(objects);
    while let Some(object) = objects.next().await {
        let object = match object {
            Ok(object) => object,
            Err(error) => {
                tracing::warn!("watching {}s: {error}", K::kind(&()));
                continue;
            }
        };
        let (Some(owner), Some(namespace)) = (object.annotations().get(OWNER_ANNOTATION), object.namespace()) else { continue };
        let instance = object.labels().get("app.kubernetes.io/instance").map(String::as_str).unwrap_or_default();
        // Nobody is there to be told when it ends.
        let _ = if instance.starts_with("emulsion-pool-") {
            triggers.pools.send(ObjectRef::new(owner).within(&namespace)).await.is_ok()
        } else {
            triggers.models.send(ObjectRef::new(owner).within(&namespace)).await.is_ok()
        };
    }
}

/// Whose demand changed is reconciled.
async fn trigger_concerned(mut concerned: mpsc::Receiver<Concerned>, triggers: Triggers, models: Store<Model>, namespace: String) {
    while let Some(concerned) = concerned.recv().await {
        match concerned {
            Concerned::Pool(pool) => {
                let _ = triggers.pools.send(ObjectRef::new(&pool).within(&namespace)).await;
            }
            Concerned::Model(id) => {
                if let Some(model) = models.find(|model| model.0.as_ref().is_ok_and(|model| model.has_model_id(&id))) {
                    let _ = triggers.models.send(ObjectRef::from_obj(model.as_ref())).await;
                }
            }
        }
    }
}

fn models_of_pool(models: &Store<Model>, pool: &str) -> Vec<ObjectRef<Model>> {
    let names_it = |model: &Arc<Model>| {
        let serving = model.0.as_ref().ok().map(|model| model.spec.serving.clone()).unwrap_or_default();
        serving.pooled.is_some_and(|pooled| pooled.pool == pool)
    };
    models.state().iter().filter(|model| names_it(model)).map(|model| ObjectRef::from_obj(model.as_ref())).collect()
}

fn log<K: Debug, E: Error>(result: Result<K, E>) {
    if let Err(error) = result {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        tracing::warn!("{text}");
    }
}

fn retry<K>(_: Arc<K>, _: &ReconcileError, _: Arc<Context>) -> Action {
    Action::requeue(RETRY)
}
