//! Which pods of a set go first when fewer are wanted: those with the least to lose. The ReplicaSet controller reads it from an annotation, which
//! is written only when pods are about to be stopped and only where it says something else: an idle cluster is not written to.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{apply::ApplyError, workload::MANAGER};

/// Kubernetes' own: pods with a lower one are stopped first; absent means 0.
pub const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
/// One request weighs more than all models that a replica may hold.
const COST_OF_REQUEST: i32 = 1000;

/// What would be lost with a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLoad {
    /// Requests that it works on.
    pub in_flight: u32,
    /// Models that it has in memory.
    pub resident_models: u32,
}

impl PodLoad {
    fn cost(self) -> i32 {
        let requests = i32::try_from(self.in_flight).unwrap_or(i32::MAX).saturating_mul(COST_OF_REQUEST);
        let models = i32::try_from(self.resident_models).unwrap_or(i32::MAX).min(COST_OF_REQUEST - 1);
        requests.saturating_add(models)
    }
}

/// The annotation's value for each pod that has another one now. Pods that are ending anyway are left alone. Pure.
pub fn changes<'a>(pods: impl IntoIterator<Item = &'a Pod>, load: impl Fn(&str) -> PodLoad) -> Vec<(String, String)> {
    let lives = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
    let change = |pod: &Pod| {
        let cost = load(&pod.uid()?).cost().to_string();
        let before = pod.annotations().get(ANNOTATION).map_or("0", String::as_str);
        (before != cost).then(|| (pod.name_any(), cost))
    };
    pods.into_iter().filter(lives).filter_map(change).collect()
}

/// Writes them.
///
/// # Errors
/// If the API server does not take one.
pub async fn write(client: &Client, namespace: &str, changes: &[(String, String)]) -> Result<(), ApplyError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for (name, cost) in changes {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: cost}}}));
        match pods.patch_metadata(name, &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }, &patch).await {
            Ok(_) => {}
            // It is gone meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(ApplyError::Apply { kind: "Pod".to_owned(), name: name.clone(), source: Box::new(source) }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cost: Option<&str>) -> Pod {
        let annotations = cost.map(|cost| json!({ANNOTATION: cost})).unwrap_or_default();
        serde_json::from_value(json!({"metadata": {"name": format!("pod-{uid}"), "uid": uid, "annotations": annotations}})).unwrap()
    }

    #[test]
    fn work_weighs_more_than_models_and_models_more_than_nothing() {
        let load = |in_flight, resident_models| PodLoad { in_flight, resident_models };
        let mut costs = [load(0, 0), load(0, 2), load(0, 5000), load(1, 0), load(1, 3), load(8, 0)].map(PodLoad::cost).to_vec();
        let sorted = costs.clone();
        costs.sort_unstable();
        costs.dedup();
        assert_eq!(costs, sorted);
        assert_eq!(load(u32::MAX, u32::MAX).cost(), i32::MAX);
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut ending = pod("ending", None);
        ending.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let pods = [pod("idle", None), pod("was-busy", Some("2000")), pod("busy", None), pod("as-ever", Some("1000")), ending];
        let load = |uid: &str| PodLoad { in_flight: u32::from(!matches!(uid, "idle" | "was-busy")), resident_models: 0 };
        let expected = [("pod-was-busy", "0"), ("pod-busy", "1000")].map(|(name, cost)| (name.to_owned(), cost.to_owned()));
        assert_eq!(changes(&pods, load), expected);
    }
}
