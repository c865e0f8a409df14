//! Replicas as child processes of the router: local mode's. They start from zero, end when idle, and none outlives the router.
//!
//! ```text
//! acquire ─► SetState::next_step ─► Lease │ Wait for a change │ Start ─► supervise: start → ready → (ended │ idle │ condemned) → gone
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::process::Process;
use super::set_state::{SetState, Step};
use super::{Endpoint, Lease, LeaseGuard, ReplicaCounts, ReplicaError, ReplicaSet, Replicas, SetKey, Work};
use crate::metrics::Metrics;

/// How often a replica is looked at for being idle.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How replicas are run.
#[derive(Clone)]
pub struct ChildSettings {
    /// The `emulsion-runtime` to run.
    pub program: PathBuf,
    /// What routers of this installation say to replicas.
    pub token: String,
    /// The weights that images are checked with; without them replicas check none.
    pub safety_checker: Option<PathBuf>,
    /// Where replicas keep content that they have fetched; they share it, and it outlives them.
    pub content_cache: Option<ContentCache>,
    /// Replaces every set's own.
    pub idle_after: Option<Duration>,
}

/// A folder and how much may be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentCache {
    pub folder: PathBuf,
    pub limit_bytes: u64,
}

impl std::fmt::Debug for ChildSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ChildSettings")
            .field("program", &self.program)
            .field("idle_after", &self.idle_after)
            .finish_non_exhaustive()
    }
}

/// Runs `emulsion-runtime serve` as often as the sets need.
#[derive(Clone, Debug)]
pub struct ChildProcesses {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: ChildSettings,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Grows with every change of a replica.
    changes: watch::Sender<u64>,
    stopping: CancellationToken,
    supervisors: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    sets: HashMap<SetKey, SetState>,
    last_id: u64,
}

impl ChildProcesses {
    pub fn new(settings: ChildSettings, metrics: Arc<Metrics>) -> Self {
        Self {
            inner: Arc::new(Inner {
                settings,
                metrics,
                state: Mutex::default(),
                changes: watch::Sender::new(0),
                stopping: CancellationToken::new(),
                supervisors: TaskTracker::new(),
            }),
        }
    }
}

#[async_trait]
impl Replicas for ChildProcesses {
    async fn acquire(&self, set: &ReplicaSet, work: &Work) -> Result<Lease, ReplicaError> {
        let inner = &self.inner;
        let mut changes = inner.changes.subscribe();
        let mut waiting_since = None;
        let mut failures_before = None;
        loop {
            if inner.stopping.is_cancelled() {
                return Err(ReplicaError::Stopping);
            }
            changes.mark_unchanged();
            let wake_at = {
                let now = Instant::now();
                let mut state = inner.lock();
                let set_state = state.set(set);
                if failures_before.is_some_and(|before| before < set_state.failures) {
                    return Err(ReplicaError::Start { reason: set_state.last_failure.clone() });
                }
                failures_before = Some(set_state.failures);
                match set_state.next_step(work, now) {
                    Step::Lease { id, endpoint } => {
                        let guard = Box::new(Guard { inner: Arc::clone(inner), set: set.key.clone(), id });
                        let waited_for_start = waiting_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
                        return Ok(Lease { endpoint, waited_for_start, guard });
                    }
                    Step::Wait => None,
                    Step::WaitUntil(until) => Some(until),
                    Step::Start => {
                        inner.start(&mut state, set, now);
                        None
                    }
                }
            };
            waiting_since.get_or_insert_with(Instant::now);
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
        let slots = state.sets.get(&set.key).into_iter().flat_map(|set| &set.slots);
        slots.filter(|slot| !slot.condemned).filter_map(|slot| slot.endpoint.clone()).collect()
    }

    fn warm(&self, set: &ReplicaSet) {
        let now = Instant::now();
        let mut state = self.inner.lock();
        while !self.inner.stopping.is_cancelled() && state.set(set).lacks_minimum(now) {
            self.inner.start(&mut state, set, now);
        }
    }

    fn counts(&self) -> ReplicaCounts {
        let state = self.inner.lock();
        let slots = || state.sets.values().flat_map(|set| &set.slots);
        let ready = slots().filter(|slot| slot.endpoint.is_some()).count();
        ReplicaCounts { starting: slots().count() - ready, ready }
    }

    async fn stop_all(&self) {
        self.inner.stopping.cancel();
        self.inner.supervisors.close();
        self.inner.supervisors.wait().await;
    }
}

impl State {
    /// The set's state, with its newest declaration.
    fn set(&mut self, set: &ReplicaSet) -> &mut SetState {
        let state = self.sets.entry(set.key.clone()).or_insert_with(|| SetState::new(set.clone()));
        if state.spec != *set {
            state.spec = set.clone();
        }
        state
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Makes a slot and the task that keeps it.
    fn start(self: &Arc<Self>, state: &mut State, set: &ReplicaSet, now: Instant) {
        state.last_id += 1;
        let id = state.last_id;
        state.set(set).add_slot(id, now);
        self.supervisors.spawn(Arc::clone(self).supervise(set.clone(), id));
    }

    async fn supervise(self: Arc<Self>, set: ReplicaSet, id: u64) {
        let name = format!("{}#{id}", set.key);
        let began = Instant::now();
        tracing::info!("starting replica {name}");
        let started = tokio::select! {
            started = Process::start(&self.settings, &set.model_roots, &name) => started,
            () = self.stopping.cancelled() => Err(ReplicaError::Stopping),
        };
        match started {
            Ok(process) => {
                self.metrics.replica_started(began.elapsed());
                tracing::info!(pid = process.id(), "replica {name} is ready after {} ms", began.elapsed().as_millis());
                self.with_set(&set.key, |state| state.ready(id, process.endpoint.clone(), Instant::now()));
                self.keep(process, &set.key, id, &name).await;
            }
            Err(error) => {
                self.metrics.replica_start_failed();
                tracing::warn!("replica {name}: {error}");
                let reason = match error {
                    ReplicaError::Start { reason } => reason,
                    ReplicaError::Stopping => "the router stops".to_owned(),
                };
                self.with_set(&set.key, |state| state.start_failed(id, reason, Instant::now()));
            }
        }
    }

    /// Watches a ready replica until it has ended.
    async fn keep(&self, mut process: Process, set: &SetKey, id: u64, name: &str) {
        let mut looks = tokio::time::interval(IDLE_CHECK_INTERVAL);
        loop {
            tokio::select! {
                how = process.ended() => {
                    tracing::warn!("replica {name} ended by itself: {how}");
                    self.with_set(set, |state| state.remove(id));
                    return;
                }
                _ = looks.tick() => if self.shall_end(set, id) { break },
                () = self.stopping.cancelled() => break,
            }
        }
        tracing::info!("stopping replica {name}");
        process.end().await;
        self.with_set(set, |state| state.remove(id));
        tracing::info!("replica {name} has ended");
    }

    fn shall_end(&self, set: &SetKey, id: u64) -> bool {
        let mut state = self.lock();
        state.sets.get_mut(set).is_none_or(|state| {
            let idle_after = self.settings.idle_after.unwrap_or(state.spec.idle_after);
            state.shall_end(id, idle_after, Instant::now())
        })
    }

    fn with_set(&self, set: &SetKey, change: impl FnOnce(&mut SetState)) {
        if let Some(state) = self.lock().sets.get_mut(set) {
            change(state);
        }
        self.changed();
    }
}

#[derive(Debug)]
struct Guard {
    inner: Arc<Inner>,
    set: SetKey,
    id: u64,
}

impl LeaseGuard for Guard {
    fn condemn(&self) {
        self.inner.with_set(&self.set, |state| {
            if let Some(slot) = state.slot(self.id) {
                slot.condemned = true;
            }
        });
    }

    fn note_resident(&self, model_id: &str) {
        if let Some(slot) = self.inner.lock().sets.get_mut(&self.set).and_then(|state| state.slot(self.id)) {
            slot.note_resident(model_id);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.inner.with_set(&self.set, |state| state.release(self.id, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    struct Fixture {
        folder: tempfile::TempDir,
        children: ChildProcesses,
    }

    /// Replicas that are a shell script: each start writes a line to `starts`.
    fn fixture(script: &str, idle_after: Duration) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("replica");
        let text = format!("#!/bin/sh\ncd {}\necho started >> starts\n{script}\n", folder.path().display());
        let draft = folder.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        // By a process of its own: were the program ever open for writing in this one, a child that another test forks meanwhile would hold
        // it open, too, and the program could not be run ("text file busy").
        assert!(std::process::Command::new("install").args(["-m", "755"]).args([&draft, &program]).status().unwrap().success());
        let settings =
            ChildSettings { program, token: "token".to_owned(), safety_checker: None, content_cache: None, idle_after: Some(idle_after) };
        Fixture { folder, children: ChildProcesses::new(settings, Arc::new(Metrics::default())) }
    }

    impl Fixture {
        fn starts(&self) -> usize {
            std::fs::read_to_string(self.folder.path().join("starts")).map_or(0, |text| text.lines().count())
        }

        async fn until(&self, wanted: ReplicaCounts) {
            let reached = async {
                let mut changes = self.children.inner.changes.subscribe();
                while self.children.counts() != wanted {
                    let _ = changes.changed().await;
                }
            };
            tokio::time::timeout(SOON, reached).await.expect("the replicas did not reach the state in time");
        }
    }

    fn set() -> ReplicaSet {
        ReplicaSet {
            key: SetKey::Pool("default".to_owned()),
            namespace: String::new(),
            min_replicas: 0,
            max_replicas: 1,
            idle_after: SOON,
            model_roots: vec![PathBuf::from("/models")],
        }
    }

    fn work() -> Work {
        Work { model_id: "demo".to_owned(), paths: vec![PathBuf::from("/models/demo")] }
    }

    const SERVE: &str = "echo 'emulsion-runtime listening on 127.0.0.1:4321'; cat >/dev/null";

    #[tokio::test]
    async fn many_requests_share_one_start_and_the_idle_replica_ends() {
        let fixture = fixture(SERVE, Duration::ZERO);
        let (set, work) = (set(), work());
        let leases = futures::future::join_all((0..20).map(|_| fixture.children.acquire(&set, &work))).await;
        assert!(leases.iter().all(Result::is_ok));
        assert_eq!(fixture.starts(), 1);
        assert!(leases[0].as_ref().is_ok_and(|lease| lease.waited_for_start > Duration::ZERO));
        assert_eq!(fixture.children.counts(), ReplicaCounts { starting: 0, ready: 1 });
        drop(leases);
        fixture.until(ReplicaCounts::default()).await;
        let again = fixture.children.acquire(&set, &work).await;
        assert!(again.is_ok());
        assert_eq!(fixture.starts(), 2);
    }

    #[tokio::test]
    async fn a_failed_start_is_told_to_all_that_waited_and_not_repeated_for_each() {
        let fixture = fixture("exit 1", SOON);
        let (set, work) = (set(), work());
        let leases = futures::future::join_all((0..20).map(|_| fixture.children.acquire(&set, &work))).await;
        assert!(leases.iter().all(|lease| matches!(lease, Err(ReplicaError::Start { .. }))));
        assert_eq!(fixture.starts(), 1);
    }

    #[tokio::test]
    async fn a_replica_that_ends_by_itself_is_noticed_and_replaced() {
        let fixture = fixture("echo 'emulsion-runtime listening on 127.0.0.1:4321'; while [ ! -e die ]; do sleep 0.05; done", SOON);
        let (set, work) = (set(), work());
        let lease = fixture.children.acquire(&set, &work).await.unwrap();
        std::fs::write(fixture.folder.path().join("die"), "").unwrap();
        fixture.until(ReplicaCounts::default()).await;
        drop(lease);
        std::fs::remove_file(fixture.folder.path().join("die")).unwrap();
        assert!(fixture.children.acquire(&set, &work).await.is_ok());
        assert_eq!(fixture.starts(), 2);
    }

    #[tokio::test]
    async fn stopping_ends_every_replica_and_starts_no_more() {
        let fixture = fixture(SERVE, SOON);
        let (set, work) = (set(), work());
        let _lease = fixture.children.acquire(&set, &work).await.unwrap();
        tokio::time::timeout(SOON, fixture.children.stop_all()).await.expect("all ended");
        assert_eq!(fixture.children.counts(), ReplicaCounts::default());
        assert!(matches!(fixture.children.acquire(&set, &work).await, Err(ReplicaError::Stopping)));
    }
}
