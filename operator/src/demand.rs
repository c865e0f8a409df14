//! What all routers hold, gathered by long-poll: one loop for each router's pod, and a board with the newest report of each.
//!
//! ```text
//!   watch routers' pods ─► loop: GET demand, held by the router until it changes ─► Board ─► who is concerned is reconciled
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crds::{
    DemandReport,
    demand::{LONGEST_WAIT, ModelDemand, PATH, WarmModelReport, Work},
    model_deployment::Family,
    replica,
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, reflector, watcher},
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{autoscaler::Load, deletion_cost::PodLoad};

/// A router that was not heard of for so long is not known.
const FRESH: Duration = Duration::from_secs(30);
/// Between two questions, so that a busy router is not asked for each request.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);
/// After a question that was not answered.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// To reach a router at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For the answer, beyond what the router may hold the question.
const ANSWER_ALLOWANCE: Duration = Duration::from_secs(5);
/// Bytes of a report: ten thousand models fit.
const REPORT_LIMIT_BYTES: usize = 8 << 20;
/// Changes that wait to be reconciled.
pub const CHANGES_LIMIT: usize = 1024;

/// Whom a change concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concerned {
    /// A pool, by name.
    Pool(String),
    /// A model, by its id.
    Model(String),
}

/// The newest report of each router.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Routers that take calls, by the pod's uid.
    expected: BTreeSet<String>,
    heard: HashMap<String, Heard>,
}

/// What routers saw of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// When it was called last, in milliseconds since 1970.
    pub last_used_ms: Option<u64>,
    /// What replicas found in its files.
    pub family: Option<Family>,
}

#[derive(Debug)]
struct Heard {
    report: DemandReport,
    at: Instant,
}

impl Board {
    /// Demand for a pool.
    pub fn load_of_pool(&self, pool: &str, now: Instant) -> Load {
        self.load(now, |demand| demand.pool.as_deref() == Some(pool))
    }

    /// Demand for a model's own replicas.
    pub fn load_of_model(&self, model_id: &str, now: Instant) -> Load {
        self.load(now, |demand| demand.pool.is_none() && demand.model_id == model_id)
    }

    /// What routers saw of a model.
    pub fn seen(&self, model_id: &str) -> Seen {
        let inner = self.lock();
        let demands = || inner.heard.values().flat_map(|heard| &heard.report.models).filter(|demand| demand.model_id == model_id);
        // A newer router may know families that this operator does not.
        let family = |demand: &ModelDemand| serde_json::from_value(demand.family.as_deref()?.into()).ok();
        Seen { last_used_ms: demands().map(|demand| demand.last_used_at_ms).max(), family: demands().find_map(family) }
    }

    /// What would be lost with the pod of this uid: the work of all routers there, and models in memory.
    pub fn load_of_pod(&self, uid: &str) -> PodLoad {
        let inner = self.lock();
        let told = inner.heard.values().flat_map(|heard| &heard.report.replicas).filter(|load| load.pod_uid == uid);
        told.fold(PodLoad::default(), |sum, load| PodLoad {
            in_flight: sum.in_flight.saturating_add(load.in_flight),
            // Each router tells all of them.
            resident_models: sum.resident_models.max(load.resident_models),
        })
    }

    /// How the warm models of a pool stand: all that routers told.
    pub fn warm_models(&self, pool: &str) -> Vec<WarmModelReport> {
        let inner = self.lock();
        let told = inner.heard.values().flat_map(|heard| &heard.report.warm_models);
        told.filter(|model| model.pool == pool).cloned().collect()
    }

    fn load(&self, now: Instant, wanted: impl Fn(&ModelDemand) -> bool) -> Load {
        let inner = self.lock();
        let is_fresh = |heard: &Heard| now.saturating_duration_since(heard.at) < FRESH;
        let is_complete = !inner.expected.is_empty() && inner.expected.iter().all(|uid| inner.heard.get(uid).is_some_and(is_fresh));
        let mut work = Work::default();
        for heard in inner.heard.values() {
            // What waits has waited longer since it was told.
            let age_ms = u64::try_from(now.saturating_duration_since(heard.at).as_millis()).unwrap_or(u64::MAX);
            for demand in heard.report.models.iter().filter(|demand| wanted(demand)) {
                let waits = demand.work.queued_requests > 0;
                let oldest_wait_ms = if waits { demand.work.oldest_wait_ms.saturating_add(age_ms) } else { 0 };
                work = work.and(Work { oldest_wait_ms, ..demand.work });
            }
        }
        Load { work, is_complete }
    }

    /// Takes in which routers there are. What was heard of others is forgotten: another router takes up their work.
    fn expect(&self, uids: BTreeSet<String>) {
        let mut inner = self.lock();
        inner.heard.retain(|uid, _| uids.contains(uid));
        inner.expected = uids;
    }

    /// Takes in a report; tells whom it concerns.
    fn hear(&self, uid: &str, report: DemandReport, now: Instant) -> BTreeSet<Concerned> {
        let mut inner = self.lock();
        let before = inner.heard.get(uid).map(|heard| by_key(&heard.report)).unwrap_or_default();
        let after = by_key(&report);
        let changed = before.iter().filter(|(key, demand)| after.get(*key) != Some(demand)).map(|(key, _)| key);
        let new = after.iter().filter(|(key, demand)| before.get(*key) != Some(demand)).map(|(key, _)| key);
        let mut concerned = BTreeSet::new();
        for (model_id, pool) in changed.chain(new) {
            concerned.insert(Concerned::Model(model_id.clone()));
            concerned.extend(pool.clone().map(Concerned::Pool));
        }
        let warm_before = inner.heard.get(uid).map(|heard| heard.report.warm_models.as_slice()).unwrap_or_default();
        let turned = |these: &[WarmModelReport], those: &[WarmModelReport]| {
            these.iter().filter(|model| !those.contains(model)).map(|model| Concerned::Pool(model.pool.clone())).collect::<Vec<_>>()
        };
        concerned.extend(turned(warm_before, &report.warm_models));
        concerned.extend(turned(&report.warm_models, warm_before));
        // Of one that went meanwhile nothing is kept.
        if inner.expected.contains(uid) {
            inner.heard.insert(uid.to_owned(), Heard { report, at: now });
        }
        concerned
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_key(report: &DemandReport) -> BTreeMap<(String, Option<String>), ModelDemand> {
    report.models.iter().map(|demand| ((demand.model_id.clone(), demand.pool.clone()), demand.clone())).collect()
}

/// Asks every router in `namespace` again and again, for as long as the future is polled.
pub async fn follow(client: Client, namespace: &str, installation_token: &str, board: Arc<Board>, changes: mpsc::Sender<Concerned>) {
    let Ok(http) = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).build() else {
        // Without TLS and proxies there is nothing that could fail.
        return tracing::error!("no client for routers can be made");
    };
    let token = replica::demand_token(installation_token);
    let selected = watcher::Config::default().labels(&replica::selector(replica::ROUTER));
    let (store, writer) = reflector::store::<Pod>();
    let pods = reflector::reflector(writer, watcher(Api::namespaced(client, namespace), selected).default_backoff());
    let mut pods = std::pin::pin!(pods);
    let mut loops: BTreeMap<String, Asking> = BTreeMap::new();
    while let Some(event) = pods.next().await {
        if let Err(error) = event {
            tracing::warn!("watching routers: {error}");
            continue;
        }
        let routers: BTreeMap<String, String> = store.state().iter().filter_map(|pod| router(pod)).collect();
        loops.retain(|uid, _| routers.contains_key(uid));
        board.expect(routers.keys().cloned().collect());
        for (uid, url) in routers {
            loops.entry(uid.clone()).or_insert_with(|| {
                let router = Router { uid, url, http: http.clone(), token: token.clone() };
                Asking(tokio::spawn(router.ask(Arc::clone(&board), changes.clone())))
            });
        }
    }
}

/// A loop; dropping it ends it.
struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The pod's uid and the address of its demand, if it takes calls.
fn router(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let is_ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    // One that ends still works on what it has.
    if !is_ready && pod.metadata.deletion_timestamp.is_none() {
        return None;
    }
    let address = status.pod_ip.as_deref()?;
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    Some((pod.uid()?, format!("http://{host}:{}{PATH}", replica::ROUTER_INTERNAL_PORT)))
}

struct Router {
    uid: String,
    url: String,
    http: reqwest::Client,
    token: String,
}

impl Router {
    async fn ask(self, board: Arc<Board>, changes: mpsc::Sender<Concerned>) {
        let mut version = None;
        loop {
            match self.ask_once(version).await {
                Ok(report) => {
                    version = Some(report.version);
                    for concerned in board.hear(&self.uid, report, Instant::now()) {
                        if changes.send(concerned).await.is_err() {
                            return;
                        }
                    }
                    tokio::time::sleep(LEAST_INTERVAL).await;
                }
                Err(error) => {
                    tracing::warn!("the router at {} does not tell its demand: {error:#}", self.url);
                    version = None;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn ask_once(&self, after: Option<u64>) -> anyhow::Result<DemandReport> {
        let url = match after {
            Some(version) => format!("{}?after={version}", self.url),
            None => self.url.clone(),
        };
        let request = self.http.get(url).bearer_auth(&self.token).timeout(LONGEST_WAIT + ANSWER_ALLOWANCE);
        let mut answer = request.send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            anyhow::ensure!(body.len() + chunk.len() <= REPORT_LIMIT_BYTES, "its report is larger than {REPORT_LIMIT_BYTES} bytes");
            body.extend_from_slice(&chunk);
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(model_id: &str, pool: Option<&str>, queued: u64) -> ModelDemand {
        ModelDemand {
            model_id: model_id.to_owned(),
            pool: pool.map(str::to_owned),
            work: Work { queued_requests: queued, queued_images: queued, ..Work::default() },
            last_used_at_ms: queued,
            family: Some("sdxl".to_owned()),
        }
    }

    fn board(routers: &[&str]) -> Board {
        let board = Board::default();
        board.expect(routers.iter().map(|uid| (*uid).to_owned()).collect());
        board
    }

    fn report(models: Vec<ModelDemand>) -> DemandReport {
        DemandReport { version: 1, models, ..DemandReport::default() }
    }

    #[test]
    fn demand_of_all_routers_adds_up_and_is_complete_when_all_were_heard() {
        let (board, now) = (board(&["a", "b"]), Instant::now());
        board.hear("a", report(vec![demand("x", Some("p"), 1), demand("own", None, 5)]), now);
        let part = board.load_of_pool("p", now);
        assert_eq!((part.work.queued_images, part.is_complete), (1, false));
        board.hear("b", report(vec![demand("x", Some("p"), 2), demand("y", Some("p"), 3)]), now);
        let all = board.load_of_pool("p", now);
        assert_eq!((all.work.queued_images, all.is_complete), (6, true));
        assert_eq!(board.load_of_model("own", now).work.queued_images, 5);
        assert_eq!(board.load_of_model("x", now).work.queued_images, 0, "it is served by the pool");
        assert_eq!(board.seen("x"), Seen { last_used_ms: Some(2), family: Some(Family::Sdxl) });
        assert_eq!(board.seen("unknown"), Seen::default());
        assert!(!board.load_of_pool("p", now + FRESH).is_complete);
    }

    #[test]
    fn without_routers_nothing_is_known() {
        assert!(!board(&[]).load_of_pool("p", Instant::now()).is_complete);
    }

    #[test]
    fn what_waits_grows_older_between_reports() {
        let (board, now) = (board(&["a"]), Instant::now());
        board.hear("a", report(vec![demand("x", Some("p"), 1)]), now);
        assert_eq!(board.load_of_pool("p", now + Duration::from_secs(7)).work.oldest_wait_ms, 7000);
    }

    #[test]
    fn only_whom_a_change_concerns_is_told() {
        let (board, now) = (board(&["a"]), Instant::now());
        let told = |models| board.hear("a", report(models), now).into_iter().collect::<Vec<_>>();
        let (pool, model) = (|name: &str| Concerned::Pool(name.to_owned()), |id: &str| Concerned::Model(id.to_owned()));
        assert_eq!(told(vec![demand("x", Some("p"), 1), demand("own", None, 1)]), [pool("p"), model("own"), model("x")]);
        assert_eq!(told(vec![demand("x", Some("p"), 2), demand("own", None, 1)]), [pool("p"), model("x")]);
        assert_eq!(told(vec![demand("x", Some("p"), 2)]), [model("own")]);
    }

    #[test]
    fn a_warm_model_that_turned_concerns_its_pool() {
        let (board, now) = (board(&["a"]), Instant::now());
        let warm = |replicas| WarmModelReport { pool: "p".to_owned(), model_id: "x".to_owned(), replicas, problem: None };
        let told = |models: Vec<WarmModelReport>| {
            board.hear("a", DemandReport { warm_models: models, ..report(vec![]) }, now).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(told(vec![warm(0)]), [Concerned::Pool("p".to_owned())]);
        assert_eq!(told(vec![warm(0)]), []);
        assert_eq!(told(vec![warm(1)]), [Concerned::Pool("p".to_owned())]);
        assert_eq!((board.warm_models("p"), board.warm_models("q")), (vec![warm(1)], vec![]));
        assert_eq!(told(vec![]), [Concerned::Pool("p".to_owned())]);
    }

    #[test]
    fn what_all_routers_sent_to_a_pod_adds_up() {
        let (board, now) = (board(&["a", "b"]), Instant::now());
        let load = |in_flight, resident_models| crds::demand::ReplicaLoad { pod_uid: "x".to_owned(), in_flight, resident_models };
        for (router, replica) in [("a", load(2, 3)), ("b", load(1, 4))] {
            board.hear(router, DemandReport { replicas: vec![replica], ..report(vec![]) }, now);
        }
        assert_eq!(board.load_of_pod("x"), PodLoad { in_flight: 3, resident_models: 4 });
        assert_eq!(board.load_of_pod("y"), PodLoad::default());
    }

    #[test]
    fn a_router_that_is_gone_is_forgotten() {
        let (board, now) = (board(&["a"]), Instant::now());
        board.hear("a", report(vec![demand("x", Some("p"), 1)]), now);
        board.expect(BTreeSet::from(["b".to_owned()]));
        board.hear("a", report(vec![demand("x", Some("p"), 1)]), now);
        let load = board.load_of_pool("p", now);
        assert_eq!((load.work.queued_images, load.is_complete), (0, false));
    }
}
