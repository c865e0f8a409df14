//! Replicas that are pods of a cluster. The operator starts and stops them, from the demand that routers tell; here they are watched, and
//! the work is given to those that are ready. Nothing in the cluster is written.
//!
//! ```text
//! watch pods ─► State::replace ─► a ready pod with room ─► Lease
//!                     ▲ changes                │ none: wait, which is the demand that the operator reads
//!                     └────────────────────────┘
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crds::replica::{self, MODEL_ANNOTATION, POOL_ANNOTATION, Set};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Endpoint, Lease, LeaseGuard, ReplicaCounts, ReplicaError, ReplicaSet, Replicas, SetKey, Work};
use crate::catalog::ClusterNamespaces;
use crate::placement::{Candidate, Choice, Estimates, place};

/// Requests that one replica gets at once; it makes their images together, and the rest waits here, where another replica can take it.
const IN_FLIGHT_LIMIT: u32 = 8;
/// A replica that broke gets no new work for so long, unless it becomes ready anew before.
const AVOIDANCE: Duration = Duration::from_secs(5);
/// Models remembered as resident, per replica; the replica itself decides what it keeps.
const RESIDENT_LIMIT: usize = 32;
/// Until measured otherwise. They only have to be of the right order. A pod's start is the operator's business.
const ESTIMATES: Estimates = Estimates { start: Duration::ZERO, load: Duration::from_secs(2), request: Duration::from_secs(2) };

/// How pods are found and called.
#[derive(Clone)]
pub struct PodSettings {
    pub namespaces: ClusterNamespaces,
    /// The installation's token, of which the replicas' are made.
    pub installation_token: String,
}

impl std::fmt::Debug for PodSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PodSettings").field("namespaces", &self.namespaces).finish_non_exhaustive()
    }
}

/// Gives work to the pods of a cluster.
#[derive(Clone, Debug)]
pub struct PodReplicas {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Grows with every change that may end somebody's wait.
    changes: watch::Sender<u64>,
    stopping: CancellationToken,
}

/// A set is known by the namespace, too: a pod may claim what it likes, but only in its own.
type Place = (String, SetKey);

#[derive(Debug, Default)]
struct State {
    sets: HashMap<Place, Vec<Slot>>,
    last_id: u64,
}

/// A pod that takes work.
#[derive(Debug)]
struct Slot {
    id: u64,
    /// The pod's, with the number of its restarts: what runs in it after one is another replica.
    incarnation: String,
    endpoint: Endpoint,
    in_flight: u32,
    avoided_until: Option<Instant>,
    resident: Vec<String>,
}

/// A pod that takes work, as the cluster tells.
#[derive(Debug)]
struct ReadyPod {
    place: Place,
    incarnation: String,
    endpoint: Endpoint,
}

/// What to do for somebody who wants a lease.
#[derive(Debug)]
enum Step {
    Lease(u64, Endpoint),
    /// All are full, or there is none.
    Wait,
    /// All are avoided until then.
    WaitUntil(Instant),
}

impl PodReplicas {
    /// Watches from now on.
    pub fn watch(client: Client, settings: PodSettings) -> Self {
        let inner = Arc::new(Inner::default());
        let selected = watcher::Config::default().labels(&replica::selector(replica::REPLICA));
        let mut apis = vec![settings.namespaces.of_models::<Pod>(client.clone())];
        // The pools' pods are in the installation's namespace.
        if settings.namespaces.watched.as_ref().is_some_and(|watched| *watched != settings.namespaces.own) {
            apis.push(kube::Api::namespaced(client, &settings.namespaces.own));
        }
        let (stores, streams): (Vec<Store<Pod>>, Vec<_>) = apis
            .into_iter()
            .map(|api| {
                let (store, writer) = reflector::store();
                let pods = watcher(api, selected.clone()).default_backoff().modify(forget_unread);
                (store, reflector::reflector(writer, pods).boxed())
            })
            .unzip();
        let watching = Arc::clone(&inner);
        tokio::spawn(futures::stream::select_all(streams).for_each(move |event| {
            match event {
                Ok(_) => watching.replace(ready_pods(&stores, &settings)),
                Err(error) => tracing::warn!("watching pods: {error}"),
            }
            std::future::ready(())
        }));
        Self { inner }
    }
}

#[async_trait]
impl Replicas for PodReplicas {
    async fn acquire(&self, set: &ReplicaSet, work: &Work) -> Result<Lease, ReplicaError> {
        let inner = &self.inner;
        let place = (set.namespace.clone(), set.key.clone());
        let mut changes = inner.changes.subscribe();
        let mut without_replica_since = None;
        loop {
            if inner.stopping.is_cancelled() {
                return Err(ReplicaError::Stopping);
            }
            changes.mark_unchanged();
            let (step, none_runs) = {
                let mut state = inner.lock();
                (state.next_step(&place, &work.model_id, Instant::now()), !state.sets.contains_key(&place))
            };
            if none_runs {
                without_replica_since.get_or_insert_with(Instant::now);
            }
            let wake_at = match step {
                Step::Lease(id, endpoint) => {
                    let guard = Box::new(Guard { inner: Arc::clone(inner), place, id });
                    let waited_for_start = without_replica_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
                    return Ok(Lease { endpoint, waited_for_start, guard });
                }
                Step::Wait => None,
                Step::WaitUntil(until) => Some(until),
            };
            let wake = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = wake => {}
                () = inner.stopping.cancelled() => {}
            }
        }
    }

    /// The operator keeps minimums.
    fn warm(&self, _: &ReplicaSet) {}

    fn counts(&self) -> ReplicaCounts {
        ReplicaCounts { starting: 0, ready: self.inner.lock().sets.values().map(Vec::len).sum() }
    }

    async fn stop_all(&self) {
        self.inner.stopping.cancel();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn replace(&self, pods: Vec<ReadyPod>) {
        self.lock().replace(pods);
        self.changed();
    }

    fn with_slot(&self, place: &Place, id: u64, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.lock().sets.get_mut(place).and_then(|slots| slots.iter_mut().find(|slot| slot.id == id)) {
            change(slot);
        }
        self.changed();
    }
}

impl State {
    /// Takes in which pods are ready now. What is known of those that stay is kept.
    fn replace(&mut self, pods: Vec<ReadyPod>) {
        let mut before = std::mem::take(&mut self.sets);
        for pod in pods {
            let known = before.get_mut(&pod.place).and_then(|slots| {
                let position = slots.iter().position(|slot| slot.incarnation == pod.incarnation)?;
                Some(slots.swap_remove(position))
            });
            let slot = known.unwrap_or_else(|| {
                self.last_id += 1;
                tracing::info!("replica {} of {} takes work", pod.endpoint.base_url, pod.place.1);
                Slot {
                    id: self.last_id,
                    incarnation: pod.incarnation,
                    endpoint: pod.endpoint,
                    in_flight: 0,
                    avoided_until: None,
                    resident: Vec::new(),
                }
            });
            self.sets.entry(pod.place).or_default().push(slot);
        }
        for (place, slot) in before.iter().flat_map(|(place, slots)| slots.iter().map(move |slot| (place, slot))) {
            tracing::info!("replica {} of {} takes no more work", slot.endpoint.base_url, place.1);
        }
    }

    /// Decides for one request, and counts it in flight where it gets a lease.
    fn next_step(&mut self, place: &Place, model_id: &str, now: Instant) -> Step {
        let Some(slots) = self.sets.get_mut(place) else { return Step::Wait };
        slots.iter_mut().for_each(|slot| slot.avoided_until = slot.avoided_until.filter(|until| *until > now));
        let candidates: Vec<Candidate> = slots
            .iter()
            .filter(|slot| slot.avoided_until.is_none() && slot.in_flight < IN_FLIGHT_LIMIT)
            .map(|slot| Candidate {
                id: slot.id,
                starting_since: None,
                in_flight: slot.in_flight,
                resident: slot.resident.iter().any(|resident| resident == model_id),
            })
            .collect();
        let chosen = match place_among(&candidates, now) {
            Some(id) => slots.iter_mut().find(|slot| slot.id == id),
            None => None,
        };
        match chosen {
            Some(slot) => {
                slot.in_flight += 1;
                Step::Lease(slot.id, slot.endpoint.clone())
            }
            None => slots.iter().filter_map(|slot| slot.avoided_until).min().map_or(Step::Wait, Step::WaitUntil),
        }
    }
}

fn place_among(candidates: &[Candidate], now: Instant) -> Option<u64> {
    match place(candidates, false, &ESTIMATES, now) {
        Choice::Replica(id) => Some(id),
        // Only the operator starts replicas.
        Choice::Start => None,
    }
}

/// Pods that take work.
fn ready_pods(stores: &[Store<Pod>], settings: &PodSettings) -> Vec<ReadyPod> {
    let pods = stores.iter().flat_map(|store| store.state());
    pods.filter_map(|pod| ready_pod(&pod, &settings.installation_token)).collect()
}

fn ready_pod(pod: &Pod, installation_token: &str) -> Option<ReadyPod> {
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

/// Thousands of pods are kept in memory: without what nobody reads here.
fn forget_unread(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.spec = None;
}

#[derive(Debug)]
struct Guard {
    inner: Arc<Inner>,
    place: Place,
    id: u64,
}

impl LeaseGuard for Guard {
    fn condemn(&self) {
        self.inner.with_slot(&self.place, self.id, |slot| slot.avoided_until = Some(Instant::now() + AVOIDANCE));
    }

    fn note_resident(&self, model_id: &str) {
        self.inner.with_slot(&self.place, self.id, |slot| {
            slot.resident.retain(|resident| resident != model_id);
            slot.resident.push(model_id.to_owned());
            if slot.resident.len() > RESIDENT_LIMIT {
                slot.resident.remove(0);
            }
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.inner.with_slot(&self.place, self.id, |slot| slot.in_flight = slot.in_flight.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, annotations: &Value, ready: &str, restarts: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "emulsion", "uid": name, "annotations": annotations},
            "status": {
                "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"name": "runtime", "restartCount": restarts, "image": "", "imageID": "", "ready": true}],
            },
        }))
        .unwrap()
    }

    fn default_pool() -> Value {
        json!({"emulsion.dev/pool": "default"})
    }

    fn ready(pods: &[Pod]) -> Vec<ReadyPod> {
        pods.iter().filter_map(|pod| ready_pod(pod, "secret")).collect()
    }

    fn set() -> ReplicaSet {
        ReplicaSet {
            key: SetKey::Pool("default".to_owned()),
            namespace: "emulsion".to_owned(),
            min_replicas: 0,
            max_replicas: 2,
            idle_after: Duration::ZERO,
            model_roots: Vec::new(),
        }
    }

    fn work() -> Work {
        Work { model_id: "demo".to_owned(), paths: Vec::new() }
    }

    fn replicas(pods: &[Pod]) -> PodReplicas {
        let replicas = PodReplicas { inner: Arc::default() };
        replicas.inner.replace(ready(pods));
        replicas
    }

    async fn lease(replicas: &PodReplicas) -> Lease {
        tokio::time::timeout(Duration::from_secs(20), replicas.acquire(&set(), &work())).await.expect("a lease in time").unwrap()
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

    #[tokio::test]
    async fn a_request_waits_until_a_pod_is_ready() {
        let replicas = replicas(&[]);
        let waiting = tokio::spawn({
            let replicas = replicas.clone();
            async move { lease(&replicas).await }
        });
        while replicas.inner.changes.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        replicas.inner.replace(ready(&[pod("a", &default_pool(), "True", 0)]));
        assert!(waiting.await.unwrap().waited_for_start > Duration::ZERO);
    }

    #[tokio::test]
    async fn a_pod_of_that_name_in_another_namespace_gets_nothing() {
        let mut foreign = pod("a", &default_pool(), "True", 0);
        foreign.metadata.namespace = Some("elsewhere".to_owned());
        let replicas = replicas(&[foreign]);
        let place = (set().namespace, set().key);
        assert!(matches!(replicas.inner.lock().next_step(&place, "demo", Instant::now()), Step::Wait));
    }

    #[tokio::test]
    async fn a_full_pod_is_waited_for_and_a_second_one_takes_the_rest() {
        let replicas = replicas(&[pod("a", &default_pool(), "True", 0)]);
        let mut leases = Vec::new();
        for _ in 0..IN_FLIGHT_LIMIT {
            leases.push(lease(&replicas).await);
        }
        let place = (set().namespace, set().key);
        let next = || replicas.inner.lock().next_step(&place, "demo", Instant::now());
        assert!(matches!(next(), Step::Wait));
        leases.pop();
        assert!(matches!(next(), Step::Lease(1, _)));
        replicas.inner.replace(ready(&[pod("a", &default_pool(), "True", 0), pod("b", &default_pool(), "True", 0)]));
        assert!(matches!(next(), Step::Lease(2, _)), "what is known of the first was kept");
    }

    #[tokio::test]
    async fn a_pod_that_broke_is_avoided_for_a_while_or_until_it_restarted() {
        let replicas = replicas(&[pod("a", &default_pool(), "True", 0)]);
        lease(&replicas).await.guard.condemn();
        let place = (set().namespace, set().key);
        let now = Instant::now();
        assert!(matches!(replicas.inner.lock().next_step(&place, "demo", now), Step::WaitUntil(until) if until > now));
        assert!(matches!(replicas.inner.lock().next_step(&place, "demo", now + AVOIDANCE * 2), Step::Lease(1, _)));
        lease(&replicas).await.guard.condemn();
        replicas.inner.replace(ready(&[pod("a", &default_pool(), "True", 1)]));
        assert!(matches!(replicas.inner.lock().next_step(&place, "demo", now), Step::Lease(2, _)));
    }

    #[tokio::test]
    async fn a_pod_with_the_model_goes_first() {
        let replicas = replicas(&[pod("a", &default_pool(), "True", 0), pod("b", &default_pool(), "True", 0)]);
        let (first, second) = (lease(&replicas).await, lease(&replicas).await);
        second.guard.note_resident("demo");
        drop((first, second));
        let place = (set().namespace, set().key);
        assert!(matches!(replicas.inner.lock().next_step(&place, "demo", Instant::now()), Step::Lease(2, _)));
    }

    #[tokio::test]
    async fn stopping_ends_the_waits() {
        let replicas = replicas(&[]);
        replicas.stop_all().await;
        assert!(matches!(replicas.acquire(&set(), &work()).await, Err(ReplicaError::Stopping)));
    }
}
