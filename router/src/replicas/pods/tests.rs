use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use runtime_api::ResidentModel;
use serde_json::{Value, json};

use super::watching::ready_pod;
use super::*;

pub(super) fn pod(name: &str, annotations: &Value, ready: &str, restarts: i32) -> Pod {
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

pub(super) fn default_pool() -> Value {
    json!({"emulsion.dev/pool": "default"})
}

fn take_in(replicas: &PodReplicas, pods: &[Pod]) {
    replicas.inner.take_in(pods.iter().map(|pod| (pod.uid().unwrap(), ready_pod(pod, "secret"))).collect());
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
    take_in(&replicas, pods);
    replicas
}

async fn lease(replicas: &PodReplicas) -> Lease {
    tokio::time::timeout(Duration::from_secs(20), replicas.acquire(&set(), &work())).await.expect("a lease in time").unwrap()
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
    take_in(&replicas, &[pod("a", &default_pool(), "True", 0)]);
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
    take_in(&replicas, &[pod("a", &default_pool(), "True", 0), pod("b", &default_pool(), "True", 0)]);
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
    take_in(&replicas, &[pod("a", &default_pool(), "True", 1)]);
    assert!(matches!(replicas.inner.lock().next_step(&place, "demo", now), Step::Lease(2, _)));
}

#[tokio::test]
async fn a_pod_with_the_model_goes_before_the_one_that_the_model_prefers() {
    let replicas = replicas(&[pod("a", &default_pool(), "True", 0), pod("b", &default_pool(), "True", 0)]);
    let place = (set().namespace, set().key);
    let next = || match replicas.inner.lock().next_step(&place, "demo", Instant::now()) {
        Step::Lease(id, _) => id,
        step => panic!("{step:?}"),
    };
    let (preferred, other) = (next(), next());
    assert_ne!(preferred, other, "while one begins to work, the other is sooner");
    for id in [preferred, other] {
        replicas.inner.with_slot(&place, id, |slot| slot.in_flight = 0);
    }
    assert_eq!(next(), preferred);
    replicas.inner.with_slot(&place, preferred, |slot| slot.in_flight = 0);
    replicas.inner.with_slot(&place, other, |slot| slot.resident.push("demo".to_owned()));
    assert_eq!(next(), other);
}

#[tokio::test]
async fn stopping_ends_the_waits() {
    let replicas = replicas(&[]);
    replicas.stop_all().await;
    assert!(matches!(replicas.acquire(&set(), &work()).await, Err(ReplicaError::Stopping)));
}

#[tokio::test]
async fn only_what_changes_who_takes_work_wakes_those_who_wait() {
    let replicas = replicas(&[pod("a", &default_pool(), "True", 0)]);
    let kept = lease(&replicas).await;
    let version = || *replicas.inner.changes.borrow();
    let before = version();
    take_in(&replicas, &[pod("a", &default_pool(), "True", 0), pod("b", &default_pool(), "False", 0)]);
    assert_eq!(version(), before, "a is as it was, and b takes no work yet");
    take_in(&replicas, &[pod("b", &default_pool(), "True", 0)]);
    assert!(version() > before);
    take_in(&replicas, &[pod("a", &default_pool(), "False", 0)]);
    let loads = replicas.loads();
    assert_eq!(loads, [], "nothing is known of b, and a is gone");
    drop(kept);
    take_in(&replicas, &[pod("b", &default_pool(), "False", 0)]);
    assert!(replicas.inner.lock().sets.is_empty() && replicas.inner.lock().places.is_empty());
}

#[tokio::test]
async fn what_replicas_say_of_themselves_decides_where_work_goes_and_is_told() {
    let replicas = replicas(&[pod("a", &default_pool(), "True", 0), pod("b", &default_pool(), "True", 0)]);
    let place = (set().namespace, set().key);
    let resident = |id: &str| ResidentModel { id: id.to_owned(), digest: String::new(), bytes: 1, in_use: false };
    // Another router has given b the model, and a much to do.
    replicas.inner.hear(&place, 2, &ReplicaState { resident: vec![resident("demo")], ..ReplicaState::default() });
    assert!(matches!(replicas.inner.lock().next_step(&place, "demo", Instant::now()), Step::Lease(2, _)));
    replicas.inner.hear(&place, 1, &ReplicaState { running: 5, ..ReplicaState::default() });
    assert!(matches!(replicas.inner.lock().next_step(&place, "other", Instant::now()), Step::Lease(2, _)));
    // What this router sent is not counted twice.
    replicas.inner.hear(&place, 2, &ReplicaState { resident: vec![resident("demo")], running: 2, ..ReplicaState::default() });
    assert_eq!(replicas.inner.lock().sets[&place][1].of_others, 0);
    assert_eq!(replicas.loads(), [ReplicaLoad { pod_uid: "b".to_owned(), in_flight: 2, resident_models: 1 }]);
}
