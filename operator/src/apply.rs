//! Brings objects into the cluster: server-side apply with one field manager, so that what others set in other fields stays, and what they
//! changed in ours is repaired.

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Secret, networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    condition::Facts,
    workload::{MANAGER, Objects},
};

/// The field manager of what is said on objects that cannot be read: what the operator wrote of them before stays.
const UNREADABLE_MANAGER: &str = "emulsion-operator-unreadable";

/// What was not done; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server did not take an object.
    #[error("cannot apply {kind} {name}")]
    Apply {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server or the connection to it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not tell an object.
    #[error("cannot read {kind} {name}")]
    Read {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server or the connection to it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not delete an object.
    #[error("cannot delete {kind} {name}")]
    Delete {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server or the connection to it said.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ApplyError {
    /// What the API server said, where it refused.
    pub fn refusal(&self) -> Option<String> {
        let (Self::Apply { source, kind, .. } | Self::Delete { source, kind, .. } | Self::Read { source, kind, .. }) = self;
        match source.as_ref() {
            // What passes by itself is no refusal.
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => Some(format!("{kind}: {}", status.message)),
            _ => None,
        }
    }
}

/// Applies all objects of a set; returns the Deployment as it is then.
///
/// The Deployment comes first and owns the others: its end, which is one write, is the end of all, wherever an operator before stopped. The
/// Secret comes last: no replica starts before it is known who may call it.
pub async fn apply(client: &Client, namespace: &str, objects: &Objects) -> Result<Deployment, ApplyError> {
    let deployment = apply_one::<Deployment>(client, namespace, &objects.deployment).await?;
    let owner = deployment.controller_owner_ref(&());
    let owned = |object: &Value| {
        let mut object = object.clone();
        object["metadata"]["ownerReferences"] = json!([owner]);
        object
    };
    apply_one::<NetworkPolicy>(client, namespace, &owned(&objects.network_policy)).await?;
    apply_one::<PodDisruptionBudget>(client, namespace, &owned(&objects.disruption_budget)).await?;
    apply_one::<Secret>(client, namespace, &owned(&objects.secret)).await?;
    Ok(deployment)
}

pub(crate) async fn apply_one<K>(client: &Client, namespace: &str, object: &Value) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch(name, &parameters, &Patch::Apply(object)).await.map_err(|source| ApplyError::Apply {
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    })
}

/// Deletes a set: its Deployment, with which the others go. One that is gone already counts as deleted.
pub async fn remove(client: &Client, namespace: &str, name: &str) -> Result<(), ApplyError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    match deployments.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => {
            Err(ApplyError::Delete { kind: Deployment::kind(&()).into_owned(), name: name.to_owned(), source: Box::new(source) })
        }
    }
}

/// Applies the status of a custom resource.
pub async fn apply_status<K>(api: &Api<K>, name: &str, status: &impl Serialize) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let patch = Patch::Apply(json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status}));
    match api.patch_status(name, &PatchParams::apply(MANAGER).force(), &patch).await {
        Ok(_) => Ok(()),
        // It was deleted meanwhile.
        Err(kube::Error::Api(refused)) if refused.code == 404 => Ok(()),
        Err(source) => Err(ApplyError::Apply { kind: K::kind(&()).into_owned(), name: name.to_owned(), source: Box::new(source) }),
    }
}

/// Applies the conditions of an object that cannot be read. Returns whether they were others before.
pub(crate) async fn apply_unreadable<K: Resource<DynamicType = ()>>(
    api: &Api<DynamicObject>,
    name: &str,
    facts: &Facts,
    generation: Option<i64>,
) -> Result<bool, ApplyError> {
    let kind = K::kind(&()).into_owned();
    let found = api.get_opt(name).await;
    let found = found.map_err(|source| ApplyError::Read { kind: kind.clone(), name: name.to_owned(), source: Box::new(source) })?;
    let Some(found) = found else { return Ok(false) };
    let before: Vec<Condition> = serde_json::from_value(found.data["status"]["conditions"].clone()).unwrap_or_default();
    let conditions = facts.conditions(&before, generation, &Time(Timestamp::now()));
    if before == conditions {
        return Ok(false);
    }
    let status = json!({"conditions": conditions, "observedGeneration": generation});
    let patch = Patch::Apply(json!({"apiVersion": K::api_version(&()), "kind": kind, "status": status}));
    match api.patch_status(name, &PatchParams::apply(UNREADABLE_MANAGER).force(), &patch).await {
        Ok(_) => Ok(true),
        // It was deleted meanwhile.
        Err(kube::Error::Api(refused)) if refused.code == 404 => Ok(false),
        Err(source) => Err(ApplyError::Apply { kind, name: name.to_owned(), source: Box::new(source) }),
    }
}
