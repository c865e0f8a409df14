//! What this router holds and works on, for the operator, which decides from it how many replicas run. It is kept in claims that give
//! themselves back, so that no end of a request can leave demand behind.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use crds::demand::{LONGEST_WAIT, ModelDemand, PATH, WarmModelReport};
use crds::model_deployment::Family;
use crds::{DemandReport, replica};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::dispatch::now_ms;
use crate::replicas::{Replicas, SetKey};

/// A model without work is still in the report for so long after its last call, so that the call is seen.
const REMEMBERED: Duration = Duration::from_secs(180);

/// Models whose families are remembered. Who is forgotten is learned again with its next image.
const FAMILIES_LIMIT: usize = 50_000;

/// All demand of this router.
#[derive(Debug, Default)]
pub struct Demand {
    inner: Mutex<Inner>,
    /// Grows with every change.
    version: watch::Sender<u64>,
}

/// A model, as one set of replicas has it.
type Key = (String, SetKey);

#[derive(Debug, Default)]
struct Inner {
    claims: HashMap<u64, Claimed>,
    last_claim: u64,
    last_used: BTreeMap<Key, (Instant, u64)>,
    /// What replicas found, by the model's id.
    families: BTreeMap<String, Family>,
    warm_models: Vec<WarmModelReport>,
}

#[derive(Debug)]
struct Claimed {
    key: Key,
    images: u64,
    /// `None` while a replica works on it.
    waiting_since: Option<Instant>,
}

/// One request's demand. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Claim {
    demand: Arc<Demand>,
    id: u64,
}

impl Demand {
    /// A request for a model waits from now on.
    pub(crate) fn claim(self: &Arc<Self>, model_id: &str, set: &SetKey, images: u32) -> Claim {
        let key = (model_id.to_owned(), set.clone());
        let now = Instant::now();
        let id = self.change(|inner| {
            inner.last_used.insert(key.clone(), (now, u64::try_from(now_ms()).unwrap_or_default()));
            inner.last_claim += 1;
            inner.claims.insert(inner.last_claim, Claimed { key, images: u64::from(images), waiting_since: Some(now) });
            inner.last_claim
        });
        Claim { demand: Arc::clone(self), id }
    }

    /// A replica has read the model's files: they are of this family.
    pub(crate) fn learn(&self, model_id: &str, family: Family) {
        if self.family(model_id) == Some(family) {
            return;
        }
        self.change(|inner| {
            if inner.families.len() >= FAMILIES_LIMIT {
                inner.families.clear();
            }
            inner.families.insert(model_id.to_owned(), family);
        });
    }

    /// What a replica found in the model's files.
    pub fn family(&self, model_id: &str) -> Option<Family> {
        self.lock().families.get(model_id).copied()
    }

    /// How the warm models of all pools stand from now on.
    pub(crate) fn set_warm_models(&self, reports: Vec<WarmModelReport>) {
        self.change(|inner| inner.warm_models = reports);
    }

    /// How it stands.
    pub fn report(&self, now: Instant) -> DemandReport {
        let version = *self.version.borrow();
        let mut inner = self.lock();
        let is_recent = |used: Instant| now.saturating_duration_since(used) < REMEMBERED;
        let with_work: std::collections::HashSet<&Key> = inner.claims.values().map(|claimed| &claimed.key).collect();
        let forgotten: Vec<Key> = inner
            .last_used
            .iter()
            .filter(|(key, (used, _))| !is_recent(*used) && !with_work.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in forgotten {
            inner.last_used.remove(&key);
        }
        let mut models: BTreeMap<&Key, ModelDemand> = BTreeMap::new();
        for (key, (_, last_used_at_ms)) in &inner.last_used {
            let pool = match &key.1 {
                SetKey::Pool(pool) => Some(pool.clone()),
                SetKey::Dedicated(_) => None,
            };
            let family = inner.families.get(&key.0).map(|family| family.name().to_owned());
            let demand = ModelDemand { model_id: key.0.clone(), pool, last_used_at_ms: *last_used_at_ms, family, ..ModelDemand::default() };
            models.insert(key, demand);
        }
        for claimed in inner.claims.values() {
            let Some(model) = models.get_mut(&claimed.key) else { continue };
            let work = &mut model.work;
            match claimed.waiting_since {
                Some(since) => {
                    work.queued_requests += 1;
                    work.queued_images += claimed.images;
                    let waited_ms = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
                    work.oldest_wait_ms = work.oldest_wait_ms.max(waited_ms);
                }
                None => {
                    work.in_flight_requests += 1;
                    work.in_flight_images += claimed.images;
                }
            }
        }
        let models = models.into_values().collect();
        DemandReport { version, models, warm_models: inner.warm_models.clone(), ..DemandReport::default() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let changed = change(&mut self.lock());
        self.version.send_modify(|version| *version += 1);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// A replica works on it.
    pub(crate) fn works(&self) {
        self.set_waiting(None);
    }

    /// It waits again.
    pub(crate) fn waits(&self) {
        self.set_waiting(Some(Instant::now()));
    }

    fn set_waiting(&self, since: Option<Instant>) {
        self.demand.change(|inner| {
            if let Some(claimed) = inner.claims.get_mut(&self.id) {
                claimed.waiting_since = since;
            }
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.demand.change(|inner| inner.claims.remove(&self.id));
    }
}

#[derive(Clone)]
struct Route {
    demand: Arc<Demand>,
    replicas: Arc<dyn Replicas>,
    /// Digests are compared: the time that takes tells nothing of the token.
    token_digest: [u8; 32],
}

#[derive(Deserialize)]
struct Asked {
    after: Option<u64>,
}

/// Serves the report to who has the operator's token.
pub fn routes(demand: Arc<Demand>, replicas: Arc<dyn Replicas>, installation_token: &str) -> Router {
    let token_digest = Sha256::digest(replica::demand_token(installation_token).as_bytes()).into();
    Router::new().route(PATH, get(answer)).with_state(Route { demand, replicas, token_digest })
}

async fn answer(State(route): State<Route>, headers: HeaderMap, Query(asked): Query<Asked>) -> Response {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    let is_operator = given.is_some_and(|given| <[u8; 32]>::from(Sha256::digest(given.as_bytes())) == route.token_digest);
    if !is_operator {
        return (StatusCode::UNAUTHORIZED, "the operator's token is missing or wrong\n").into_response();
    }
    if let Some(after) = asked.after {
        let mut version = route.demand.version.subscribe();
        // Time that is up is an answer, too.
        let _ = tokio::time::timeout(LONGEST_WAIT, version.wait_for(|version| *version != after)).await;
    }
    Json(DemandReport { replicas: route.replicas.loads(), ..route.demand.report(Instant::now()) }).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use crds::demand::ReplicaLoad;
    use tower::ServiceExt;

    use super::*;
    use crate::replicas::{Lease, ReplicaCounts, ReplicaError, ReplicaSet, Work};

    fn pool() -> SetKey {
        SetKey::Pool("default".to_owned())
    }

    #[test]
    fn a_request_waits_then_runs_then_is_gone() {
        let demand = Arc::new(Demand::default());
        let claim = demand.claim("demo", &pool(), 3);
        let later = Instant::now() + Duration::from_secs(2);
        let report = demand.report(later);
        assert_eq!(report.models[0].pool.as_deref(), Some("default"));
        assert_eq!((report.models[0].work.queued_requests, report.models[0].work.queued_images), (1, 3));
        assert!(report.models[0].work.oldest_wait_ms >= 2000);
        claim.works();
        let running = demand.report(later);
        assert_eq!((running.models[0].work.queued_images, running.models[0].work.in_flight_images), (0, 3));
        assert!(running.version > report.version);
        demand.learn("demo", Family::Sdxl);
        let learned = demand.report(later);
        assert_eq!(learned.models[0].family.as_deref(), Some("sdxl"));
        demand.learn("demo", Family::Sdxl);
        assert_eq!(demand.report(later), learned, "what is known is no news");
        drop(claim);
        let idle = demand.report(later);
        assert_eq!((idle.models[0].work.images(), idle.models[0].last_used_at_ms > 0), (0, true));
        assert!(demand.report(later + REMEMBERED).models.is_empty());
    }

    #[test]
    fn long_work_is_not_forgotten() {
        let demand = Arc::new(Demand::default());
        let claim = demand.claim("demo", &SetKey::Dedicated("demo".to_owned()), 1);
        claim.works();
        let report = demand.report(Instant::now() + REMEMBERED * 2);
        assert_eq!((report.models[0].work.in_flight_requests, report.models[0].pool.clone()), (1, None));
    }

    /// A replica of a cluster, with work.
    #[derive(Debug)]
    struct OneBusy;

    #[async_trait::async_trait]
    impl Replicas for OneBusy {
        async fn acquire(&self, _: &ReplicaSet, _: &Work) -> Result<Lease, ReplicaError> {
            Err(ReplicaError::Stopping)
        }
        fn warm(&self, _: &ReplicaSet) {}
        fn counts(&self) -> ReplicaCounts {
            ReplicaCounts::default()
        }
        fn loads(&self) -> Vec<ReplicaLoad> {
            vec![ReplicaLoad { pod_uid: "a".to_owned(), in_flight: 2, resident_models: 1 }]
        }
        async fn stop_all(&self) {}
    }

    async fn get(demand: &Arc<Demand>, query: &str, token: &str) -> (StatusCode, Vec<u8>) {
        let request =
            Request::get(format!("{PATH}{query}")).header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap();
        let response = routes(Arc::clone(demand), Arc::new(OneBusy), "secret").oneshot(request).await.unwrap();
        (response.status(), to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
    }

    #[tokio::test]
    async fn only_the_operator_is_answered_and_a_change_ends_its_wait() {
        let demand = Arc::new(Demand::default());
        assert_eq!(get(&demand, "", "secret").await.0, StatusCode::UNAUTHORIZED);
        let token = replica::demand_token("secret");
        let (_, body) = get(&demand, "", &token).await;
        let first: DemandReport = serde_json::from_slice(&body).unwrap();
        assert_eq!(first.replicas, OneBusy.loads());
        let asking = {
            let (demand, token) = (Arc::clone(&demand), token.clone());
            tokio::spawn(async move { get(&demand, &format!("?after={}", first.version), &token).await })
        };
        while demand.version.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        let _claim = demand.claim("demo", &pool(), 1);
        let report: DemandReport = serde_json::from_slice(&asking.await.unwrap().1).unwrap();
        assert_eq!(report.models[0].work.queued_requests, 1);
    }
}
