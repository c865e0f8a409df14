//! Replicas that are pods of a cluster. The operator starts and stops them, from the demand that routers tell; here they are watched, and
//! the work is given to those that are ready. Nothing in the cluster is written.
//!
//! ```text
//! watch pods ─► State::set ─► a ready pod with room ─► Lease
//! ask them  ─► State::hear ──────▲ changes    │ none: wait, which is the demand that the operator reads
//!                                └────────────┘
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crds::demand::ReplicaLoad;
use futures::StreamExt;
use kube::Client;
use runtime_api::ReplicaState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Endpoint, Lease, LeaseGuard, ReplicaCounts, ReplicaError, ReplicaSet, Replicas, SetKey, Work};
use crate::catalog::ClusterNamespaces;
use crate::placement::{Candidate, Choice, Estimates, place, preference};

mod asking;
mod watching;

use watching::{ReadyPod, changes};

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
    /// Where the pod of this uid stands.
    places: HashMap<String, Place>,
    last_id: u64,
}

/// A pod that takes work.
#[derive(Debug)]
struct Slot {
    id: u64,
    uid: String,
    /// The pod's, with the number of its restarts: what runs in it after one is another replica.
    incarnation: String,
    endpoint: Endpoint,
    /// What this router sent.
    in_flight: u32,
    /// What others sent, as the replica told last.
    of_others: u32,
    avoided_until: Option<Instant>,
    resident: Vec<String>,
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
    /// Watches, and asks the replicas how they stand, from now on.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn watch(client: Client, settings: &PodSettings) -> Result<Self, reqwest::Error> {
        let inner = Arc::new(Inner::default());
        let watching = Arc::clone(&inner);
        tokio::spawn(changes(client, settings).for_each(move |changes| {
            watching.take_in(changes);
            std::future::ready(())
        }));
        tokio::spawn(asking::ask_all(Arc::clone(&inner), asking::client()?));
        Ok(Self { inner })
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

    fn ready(&self, set: &ReplicaSet) -> Vec<Endpoint> {
        let state = self.inner.lock();
        let slots = state.sets.get(&(set.namespace.clone(), set.key.clone())).into_iter().flatten();
        slots.map(|slot| slot.endpoint.clone()).collect()
    }

    /// The operator keeps minimums.
    fn warm(&self, _: &ReplicaSet) {}

    fn counts(&self) -> ReplicaCounts {
        ReplicaCounts { starting: 0, ready: self.inner.lock().sets.values().map(Vec::len).sum() }
    }

    fn loads(&self) -> Vec<ReplicaLoad> {
        let state = self.inner.lock();
        let slots = state.sets.values().flatten().filter(|slot| slot.in_flight > 0 || !slot.resident.is_empty());
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let load =
            |slot: &Slot| ReplicaLoad { pod_uid: slot.uid.clone(), in_flight: slot.in_flight, resident_models: count(slot.resident.len()) };
        slots.map(load).collect()
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

    /// Takes in what became of pods: each by its uid, ready or not. Nobody is woken for what changes nothing.
    fn take_in(&self, changes: Vec<(String, Option<ReadyPod>)>) {
        let mut state = self.lock();
        let changed = changes.into_iter().fold(false, |changed, (uid, pod)| state.set(uid, pod) || changed);
        drop(state);
        if changed {
            self.changed();
        }
    }

    /// All that take work: where they are asked how they stand.
    fn endpoints(&self) -> Vec<(Place, u64, Endpoint)> {
        let state = self.lock();
        let of_set = |(place, slots): (&Place, &Vec<Slot>)| {
            let place = place.clone();
            slots.iter().map(|slot| (place.clone(), slot.id, slot.endpoint.clone())).collect::<Vec<_>>()
        };
        state.sets.iter().flat_map(of_set).collect()
    }

    /// Takes in how a replica stands by its own word. It makes no room: nobody is woken.
    fn hear(&self, place: &Place, id: u64, told: &ReplicaState) {
        if let Some(slot) = self.lock().sets.get_mut(place).and_then(|slots| slots.iter_mut().find(|slot| slot.id == id)) {
            slot.of_others = told.queued.saturating_add(told.running).saturating_sub(slot.in_flight);
            slot.resident = told.resident.iter().take(RESIDENT_LIMIT).map(|model| model.id.clone()).collect();
        }
    }

    fn with_slot(&self, place: &Place, id: u64, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.lock().sets.get_mut(place).and_then(|slots| slots.iter_mut().find(|slot| slot.id == id)) {
            change(slot);
        }
        self.changed();
    }
}

impl State {
    /// Takes in one pod; tells whether that changes who takes work. What is known of one that goes on as it was is kept.
    fn set(&mut self, uid: String, pod: Option<ReadyPod>) -> bool {
        let known =
            self.places.get(&uid).and_then(|place| self.sets.get(place)?.iter().find(|slot| slot.uid == uid).map(|slot| (place, slot)));
        let stays = match (known, &pod) {
            (Some((place, slot)), Some(pod)) => {
                *place == pod.place && slot.incarnation == pod.incarnation && slot.endpoint.base_url == pod.endpoint.base_url
            }
            (None, None) => true,
            _ => false,
        };
        if stays {
            return false;
        }
        self.forget(&uid);
        if let Some(ReadyPod { place, incarnation, endpoint }) = pod {
            self.last_id += 1;
            tracing::info!("replica {} of {} takes work", endpoint.base_url, place.1);
            self.places.insert(uid.clone(), place.clone());
            self.sets.entry(place).or_default().push(Slot {
                id: self.last_id,
                uid,
                incarnation,
                endpoint,
                in_flight: 0,
                of_others: 0,
                avoided_until: None,
                resident: Vec::new(),
            });
        }
        true
    }

    fn forget(&mut self, uid: &str) {
        let Some(place) = self.places.remove(uid) else { return };
        let Some(slots) = self.sets.get_mut(&place) else { return };
        if let Some(position) = slots.iter().position(|slot| slot.uid == uid) {
            let slot = slots.swap_remove(position);
            tracing::info!("replica {} of {} takes no more work", slot.endpoint.base_url, place.1);
        }
        // A set without replicas is none.
        if slots.is_empty() {
            self.sets.remove(&place);
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
                in_flight: slot.in_flight.saturating_add(slot.of_others),
                resident: slot.resident.iter().any(|resident| resident == model_id),
                preference: preference(model_id, &slot.incarnation),
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
mod tests;
