//! Which pods take work, from the cluster's watch, one change at a time: what one of thousands does costs no more than itself.

use std::collections::HashSet;

use crds::replica::{self, MODEL_ANNOTATION, POOL_ANNOTATION, Set};
use futures::stream::{BoxStream, StreamExt, select_all};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};

use super::{Place, PodSettings};
use crate::replicas::{Endpoint, SetKey};

/// A pod that takes work, as the cluster tells.
#[derive(Debug)]
pub(super) struct ReadyPod {
    pub(super) place: Place,
    pub(super) incarnation: String,
    pub(super) endpoint: Endpoint,
}

/// What became of a pod, by its uid.
type Change = (String, Option<ReadyPod>);

/// What becomes of replicas' pods. Never ends; what the API server refuses is logged and asked for again.
pub(super) fn changes(client: Client, settings: &PodSettings) -> BoxStream<'static, Vec<Change>> {
    let selected = watcher::Config::default().labels(&replica::selector(replica::REPLICA));
    let mut apis = vec![settings.namespaces.of_models::<Pod>(client.clone())];
    // The pools' pods are in the installation's namespace.
    if settings.namespaces.watched.as_ref().is_some_and(|watched| *watched != settings.namespaces.own) {
        apis.push(kube::Api::namespaced(client, &settings.namespaces.own));
    }
    let streams = apis.into_iter().map(|api| {
        let (mut known, token) = (Known::default(), settings.installation_token.clone());
        let events = watcher(api, selected.clone()).default_backoff();
        events.map(move |event| event.map_or_else(|error| missed(&error), |event| known.take_in(event, &token))).boxed()
    });
    select_all(streams).boxed()
}

fn missed(error: &watcher::Error) -> Vec<Change> {
    tracing::warn!("watching pods: {error}");
    Vec::new()
}

/// The pods of one watch, so that a new list tells which have gone meanwhile.
#[derive(Debug, Default)]
struct Known {
    uids: HashSet<String>,
    /// While a list comes.
    listed: HashSet<String>,
}

impl Known {
    fn take_in(&mut self, event: Event<Pod>, installation_token: &str) -> Vec<Change> {
        match event {
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                self.listed.extend(pod.uid());
                self.changed(&pod, installation_token)
            }
            Event::InitDone => {
                let gone = self.uids.difference(&self.listed).map(|uid| (uid.clone(), None)).collect();
                self.uids = std::mem::take(&mut self.listed);
                gone
            }
            Event::Apply(pod) => self.changed(&pod, installation_token),
            Event::Delete(pod) => pod.uid().map(|uid| self.gone(uid)).into_iter().collect(),
        }
    }

    fn changed(&mut self, pod: &Pod, installation_token: &str) -> Vec<Change> {
        let Some(uid) = pod.uid() else { return Vec::new() };
        self.uids.insert(uid.clone());
        vec![(uid, ready_pod(pod, installation_token))]
    }

    fn gone(&mut self, uid: String) -> Change {
        self.uids.remove(&uid);
        (uid, None)
    }
}

/// The pod, if it takes work.
pub(super) fn ready_pod(pod: &Pod, installation_token: &str) -> Option<ReadyPod> {
    let status = pod.status.as_ref()?;
    let is_ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    // One that is asked to end finishes what it has.
    if !is_ready || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let annotations = pod.annotations();
    let set = match (annotations.get(POOL_ANNOTATION), annotations.get(MODEL_ANNOTATION)) {
        (Some(pool), None) => Set::Pool(pool.clone()),
        (None, Some(model)) => Set::Model(model.clone()),
        _ => return None,
    };
    let namespace = pod.namespace()?;
    let address = status.pod_ip.as_deref()?;
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let token = replica::replica_token(installation_token, &namespace, &set);
    let restarts: i32 = status.container_statuses.iter().flatten().map(|container| container.restart_count).sum();
    let key = match set {
        Set::Pool(pool) => SetKey::Pool(pool),
        Set::Model(model) => SetKey::Dedicated(model),
    };
    Some(ReadyPod {
        place: (namespace, key),
        incarnation: format!("{} {restarts}", pod.uid()?),
        endpoint: Endpoint { base_url: format!("http://{host}:{}", replica::PORT), token },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{default_pool, pod};
    use super::*;

    fn ready(pods: &[Pod]) -> Vec<ReadyPod> {
        pods.iter().filter_map(|pod| ready_pod(pod, "secret")).collect()
    }

    #[test]
    fn pods_that_are_not_ready_or_end_or_are_of_no_set_take_no_work() {
        let mut ending = pod("ending", &default_pool(), "True", 0);
        ending.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let both = json!({"emulsion.dev/pool": "default", "emulsion.dev/model-id": "demo"});
        let refused = [ending, pod("late", &default_pool(), "False", 0), pod("both", &both, "True", 0), pod("none", &json!({}), "True", 0)];
        assert_eq!(ready(&refused).len(), 0);
        let taken = ready(&[pod("good", &default_pool(), "True", 0)]);
        assert_eq!(taken[0].place, ("emulsion".to_owned(), SetKey::Pool("default".to_owned())));
        assert_eq!(taken[0].endpoint.base_url, "http://10.0.0.1:8080");
        assert_eq!(taken[0].endpoint.token, replica::replica_token("secret", "emulsion", &Set::Pool("default".to_owned())));
    }

    #[test]
    fn a_list_after_a_break_tells_which_pods_went_meanwhile() {
        let mut known = Known::default();
        let mut told = |event: Event<Pod>| {
            let changes = known.take_in(event, "secret");
            changes.into_iter().map(|(uid, pod)| (uid, pod.is_some())).collect::<Vec<_>>()
        };
        let (a, b) = (pod("a", &default_pool(), "True", 0), pod("b", &default_pool(), "True", 0));
        let of = |name: &str, is_ready: bool| vec![(name.to_owned(), is_ready)];
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::InitApply(a.clone())), of("a", true));
        assert_eq!(told(Event::InitDone), []);
        assert_eq!(told(Event::Apply(b.clone())), of("b", true));
        // The watch broke; only b is in the next list.
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::InitApply(b.clone())), of("b", true));
        assert_eq!(told(Event::InitDone), of("a", false));
        assert_eq!(told(Event::Delete(b)), of("b", false));
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::InitDone), [], "nothing is forgotten twice");
    }
}
