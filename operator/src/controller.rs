//! The loop: takes each ModelDeployment that changed, asks [`status::desired`] and applies the answer.
//!
//! An object that cannot be read (of a newer version, say) is counted and left alone: it must not stop the others.

use std::{sync::Arc, time::Duration};

use crds::ModelDeployment;
use futures::StreamExt;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
    runtime::{
        controller::{Action, Controller},
        reflector::Store,
        watcher,
    },
};
use serde_json::json;

use crate::{metrics::Metrics, status};

/// Who the API server records as the writer of what is applied here.
const FIELD_MANAGER: &str = "emulsion-operator";
/// Everything is looked at again after this time even if nothing changed: a contested modelId may have become free.
const RESYNC: Duration = Duration::from_secs(300);
/// Wait after a failed reconciliation.
const RETRY: Duration = Duration::from_secs(10);

type Guarded = DeserializeGuard<ModelDeployment>;

/// A reconciliation that failed and is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server did not take the status.
    #[error("cannot apply the status of ModelDeployment {name}")]
    ApplyStatus {
        /// The object's name.
        name: String,
        /// What the API server or the connection to it said.
        #[source]
        source: kube::Error,
    },
}

struct Context {
    client: Client,
    models: Store<Guarded>,
    metrics: Metrics,
}

/// Reconciles until a signal comes.
pub async fn run(client: Client, namespace: Option<&str>, metrics: Metrics) {
    let models: Api<Guarded> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let controller = Controller::new(models, watcher::Config::default()).shutdown_on_signal();
    let store = controller.store();
    let context = Arc::new(Context { client, models: store.clone(), metrics: metrics.clone() });
    let readiness = async move {
        // It fails only if the controller is gone, and then nobody asks for readiness.
        if store.wait_until_ready().await.is_ok() {
            metrics.set_ready();
        }
    };
    let reconciling = controller.run(reconcile, retry, context).for_each(|result| async {
        if let Err(error) = result {
            tracing::warn!(error = &error as &dyn std::error::Error, "reconciliation failed");
        }
    });
    tokio::join!(readiness, reconciling);
}

async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let count = |result: &str| context.metrics.reconciliations.with_label_values(&[result]).inc();
    let model = match &object.0 {
        Ok(model) => model,
        Err(invalid) => {
            count("unreadable");
            tracing::warn!(name = object.name_any(), error = %invalid.error, "cannot read this ModelDeployment");
            return Ok(Action::await_change());
        }
    };
    let everybody = context.models.state();
    let others = everybody.iter().filter_map(|other| other.0.as_ref().ok());
    let desired = status::desired(model, others, &Time(Timestamp::now()));
    if model.status.as_ref() == Some(&desired) {
        count("unchanged");
        return Ok(Action::requeue(RESYNC));
    }
    let name = model.name_any();
    let models: Api<ModelDeployment> = Api::namespaced(context.client.clone(), &model.namespace().unwrap_or_default());
    let patch = Patch::Apply(json!({
        "apiVersion": ModelDeployment::api_version(&()),
        "kind": ModelDeployment::kind(&()),
        "status": desired,
    }));
    let applied = models.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &patch).await;
    match applied {
        Ok(_) => {
            count("applied");
            Ok(Action::requeue(RESYNC))
        }
        Err(source) => {
            count("failed");
            Err(ReconcileError::ApplyStatus { name, source })
        }
    }
}

fn retry(_: Arc<Guarded>, _: &ReconcileError, _: Arc<Context>) -> Action {
    Action::requeue(RETRY)
}
