//! Drives one accepted request to its end: its turn, a replica, attempts, and the journal's last word. It knows no callers and no dialects.
//!
//! ```text
//! turn (fair queue) ─► room (images at once, all routers) ─► lease (replica, started from zero) ─► attempt ─► done ─► journal: settled once
//!      ▲                  │ none                                  ▲                                   │ broken, busy
//!      └─── postponed ◄───┘                                       └───────────── retry, bounded ◄─────┘
//! ```

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use runtime_api::{Dispatch, Event, Failure, FailureReason, InputSource, OutputTarget};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::catalog::Catalog;
use crate::content::ContentLinks;
use crate::demand::{Claim, Demand};
use crate::generation::StartReport;
use crate::inputs::InputStore;
use crate::metrics::{Metrics, OutcomeLabel};
use crate::outputs::OutputStore;
use crate::replicas::{Lease, ReplicaError, ReplicaSet, Replicas, Work};
use crate::service::generations::Generations;
use crate::service::tracked::Tracked;
use crate::store::{Entry, ImageClaim, Outcome, ParallelImages, Store};
use crate::validation;

mod attempt;
mod fair_queue;
mod sources;
mod sse;
mod turns;
mod warming;

use attempt::{AttemptEnd, attempt};
use fair_queue::Waiting;
use sources::Sources;
use turns::{Turn, Turns};

/// Attempts at one request. A request that breaks three replicas breaks a fourth.
const ATTEMPTS_LIMIT: u32 = 3;
/// A request that was taken up this often probably is what kills routers.
const TAKEOVERS_LIMIT: u32 = 5;
/// Requests sent to one replica at once; it makes their images together, in shared calls.
const IN_FLIGHT_PER_REPLICA: u32 = 8;
/// What a replica may spend on one request: a large picture on a slow processor takes many minutes.
const WORK_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// A signed URL outlives the replica's deadline by this much, for the upload.
const UPLOAD_ALLOWANCE: Duration = Duration::from_secs(5 * 60);
/// How often the store is asked again whether a tenant's images at other routers leave room.
const ROOM_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long an accepted request waits for the store to count its images. After that this router counts them by itself.
const CLAIM_WAIT: Duration = Duration::from_secs(1);
/// Before a busy replica is asked again: the first time, and at most.
const BUSY_WAIT_FIRST: Duration = Duration::from_millis(100);
const BUSY_WAIT_LIMIT: Duration = Duration::from_secs(2);
/// How often, and how fast, the journal is told an end again while the store does not answer: five minutes in all.
const SETTLE_ATTEMPTS_LIMIT: u32 = 66;
const SETTLE_WAIT_FIRST: Duration = Duration::from_millis(50);
const SETTLE_WAIT_LIMIT: Duration = Duration::from_secs(5);
/// How often the journal is asked about a request that another router took up.
const ADOPT_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What an administrator may set about dispatch.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    /// How long a request may wait for its turn and its replica.
    pub hold_deadline: Duration,
    /// The address at which replicas reach the stores, without a trailing slash.
    pub store_base: String,
    /// Where replicas find out about content.
    pub content: ContentLinks,
}

/// Everything that driving a request needs.
#[derive(Debug)]
pub struct Dispatcher {
    settings: DispatchSettings,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) outputs: Arc<dyn OutputStore>,
    pub(crate) inputs: Arc<dyn InputStore>,
    pub(crate) replicas: Arc<dyn Replicas>,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) generations: Arc<Generations>,
    pub(crate) demand: Arc<Demand>,
    turns: Arc<Turns>,
    client: reqwest::Client,
}

/// What the declarations say about one request.
struct Facts {
    sources: Sources,
    set: ReplicaSet,
    waiting: Waiting,
}

/// What follows from the end of an attempt.
enum Verdict {
    End(Outcome),
    Retry {
        reason: String,
    },
    /// The replica is full, which is nobody's fault: it counts as no attempt.
    WaitForRoom,
}

impl Dispatcher {
    pub fn new(
        settings: DispatchSettings,
        store: Arc<dyn Store>,
        outputs: Arc<dyn OutputStore>,
        inputs: Arc<dyn InputStore>,
        replicas: Arc<dyn Replicas>,
        catalog: Arc<dyn Catalog>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, reqwest::Error> {
        let (generations, demand, turns) = (Arc::default(), Arc::default(), Arc::default());
        Ok(Self { settings, store, outputs, inputs, replicas, catalog, metrics, generations, demand, turns, client: attempt::client()? })
    }

    /// Works on the request until it has ended and the journal knows how.
    pub(crate) async fn drive(&self, tracked: Arc<Tracked>) {
        let outcome = tokio::select! {
            biased;
            () = tracked.cancel.cancelled() => Outcome::Cancelled,
            // A panic must not leave the request unfinished for ever: it holds a place in its tenant's queue.
            outcome = AssertUnwindSafe(self.make(&tracked)).catch_unwind() => {
                outcome.unwrap_or_else(|_| failed(FailureReason::Internal, "the router failed; its log says how"))
            }
        };
        self.settle(&tracked, outcome).await;
    }

    /// Requests that wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.turns.waiting()
    }

    async fn make(&self, tracked: &Tracked) -> Outcome {
        if tracked.entry.takeovers > TAKEOVERS_LIMIT {
            return failed(FailureReason::Internal, "given up: too many routers stopped while they worked on the request");
        }
        let facts = match self.facts(&tracked.entry) {
            Ok(facts) => facts,
            Err(reason) => return failed(FailureReason::InvalidModel, &reason),
        };
        let hold_until = Instant::now() + self.settings.hold_deadline;
        let began = Instant::now();
        let Ok(_turn) = timeout_at(hold_until, self.turn(&tracked.entry, &facts.waiting)).await else { return self.held_too_long() };
        tracked.note_start(|start| start.held_ms = milliseconds(began.elapsed()));
        // From here on only a replica is lacking: a turn that the plan withholds is no reason to start one.
        let claim = self.demand.claim(&facts.sources.model.id, &facts.set.key, tracked.entry.request.samples);
        let _in_flight = GaugeGuard::new(&self.metrics.in_flight);
        self.attempts(tracked, &facts, &claim, hold_until).await
    }

    /// Waits for a turn at this router, and for room among the images that the tenant has made at once through all routers.
    async fn turn(&self, entry: &Entry, waiting: &Waiting) -> Turn {
        let mut turn = self.turns.wait(waiting.clone()).await;
        while !self.has_room(entry, ParallelImages(waiting.parallel_images)).await {
            turn = turn.postpone(ROOM_POLL_INTERVAL).await;
        }
        turn
    }

    async fn has_room(&self, entry: &Entry, limit: ParallelImages) -> bool {
        match timeout(CLAIM_WAIT, self.store.claim_images(entry, limit)).await {
            Ok(Ok(ImageClaim::NoRoom)) => false,
            // How a request ends that another router has is found out at its end.
            Ok(Ok(ImageClaim::Granted | ImageClaim::Lost)) => true,
            Ok(Err(error)) => {
                tracing::warn!(id = %entry.id, "its images are counted by this router alone: {error}");
                true
            }
            Err(_) => {
                tracing::warn!(id = %entry.id, "its images are counted by this router alone: the store did not answer within {CLAIM_WAIT:?}");
                true
            }
        }
    }

    async fn attempts(&self, tracked: &Tracked, facts: &Facts, claim: &Claim, mut hold_until: Instant) -> Outcome {
        let work = Work { model_id: facts.sources.model.id.clone(), paths: facts.sources.paths.clone() };
        let (mut attempts, mut busy_wait) = (0, BUSY_WAIT_FIRST);
        loop {
            let verdict = match timeout_at(hold_until, self.replicas.acquire(&facts.set, &work)).await {
                Err(_) => return self.held_too_long(),
                // The journal keeps it for the next router.
                Ok(Err(ReplicaError::Stopping)) => std::future::pending().await,
                Ok(Err(error @ ReplicaError::Start { .. })) => Verdict::Retry { reason: error.to_string() },
                Ok(Ok(lease)) => {
                    tracked.note_start(|start| note_wait(start, lease.waited_for_start));
                    claim.works();
                    self.attempt(tracked, facts, lease).await
                }
            };
            match verdict {
                Verdict::End(outcome) => return outcome,
                Verdict::Retry { reason } => {
                    attempts += 1;
                    tracing::warn!(id = %tracked.entry.id, "attempt {attempts} of {ATTEMPTS_LIMIT} failed: {reason}");
                    if attempts >= ATTEMPTS_LIMIT {
                        return failed(FailureReason::Internal, "the images could not be made; the router's log says why");
                    }
                    self.metrics.retries.inc();
                    hold_until = Instant::now() + self.settings.hold_deadline;
                }
                Verdict::WaitForRoom => {
                    if timeout_at(hold_until, sleep(busy_wait)).await.is_err() {
                        return self.held_too_long();
                    }
                    busy_wait = (busy_wait * 2).min(BUSY_WAIT_LIMIT);
                }
            }
            tracked.restart();
            claim.waits();
        }
    }

    async fn attempt(&self, tracked: &Tracked, facts: &Facts, lease: Lease) -> Verdict {
        let dispatch = match self.dispatch(tracked, &facts.sources).await {
            Ok(dispatch) => dispatch,
            Err(reason) => return Verdict::Retry { reason },
        };
        let end = attempt(&self.client, &lease.endpoint, &dispatch, |event| self.note(tracked, event)).await;
        match end {
            AttemptEnd::Done if self.all_stored(&tracked.entry).await => {
                lease.guard.note_resident(&facts.sources.model.id);
                Verdict::End(Outcome::Succeeded { nsfw_content_detected: tracked.nsfw_content_detected() })
            }
            AttemptEnd::Done => Verdict::Retry { reason: "the replica said done, but not every image is in the store".to_owned() },
            AttemptEnd::Failed(failure) => judge(failure),
            AttemptEnd::Broken(reason) => {
                lease.guard.condemn();
                Verdict::Retry { reason }
            }
        }
    }

    fn note(&self, tracked: &Tracked, event: Event) {
        match &event {
            Event::Done { family: Some(name), .. } => {
                // A newer replica may know families that this router does not.
                if let Ok(family) = serde_json::from_value(name.as_str().into()) {
                    self.demand.learn(&tracked.entry.request.model, family);
                }
            }
            Event::Loading { bytes_done, bytes_total } if *bytes_total > 0 => {
                tracing::info!(id = %tracked.entry.id, "loading {}: {} %", tracked.entry.request.model, bytes_done.saturating_mul(100) / bytes_total);
            }
            // Four lines an image show that it goes on.
            Event::Step { image, evaluation, evaluations } if is_quarter(*evaluation, *evaluations) => {
                tracing::info!(id = %tracked.entry.id, "image {image}: step {evaluation} of {evaluations}");
            }
            _ => {}
        }
        tracked.note_event(event);
    }

    /// What a success is billed for must be there, whatever a replica says.
    async fn all_stored(&self, entry: &Entry) -> bool {
        for image in 0..entry.request.samples {
            match self.outputs.exists(entry.id, image, entry.request.output_format).await {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    tracing::error!(id = %entry.id, "{error}");
                    return false;
                }
            }
        }
        true
    }

    fn facts(&self, entry: &Entry) -> Result<Facts, String> {
        let catalog = self.catalog.current();
        let model_id = &entry.request.model;
        let model = catalog.models.get(model_id).ok_or_else(|| format!("the model {model_id} is no longer declared"))?;
        let sources = sources::resolve(&catalog, model, &entry.request)?;
        let plan = catalog.plans.get(&entry.plan);
        let set = catalog.replica_set(model, plan.and_then(|plan| plan.pool.as_deref()))?;
        let waiting = Waiting {
            id: entry.id,
            tenant: entry.tenant,
            weight: plan.map_or(1, |plan| plan.weight.unsigned_abs()),
            priority: plan.map_or(0, |plan| plan.priority),
            images: entry.request.samples,
            parallel_images: plan.map_or(1, |plan| plan.parallel_images.unsigned_abs()),
            cost: validation::cost(&entry.request),
            set_capacity: set.max_replicas.max(1).saturating_mul(IN_FLIGHT_PER_REPLICA),
            set: set.key.clone(),
        };
        Ok(Facts { sources, set, waiting })
    }

    async fn dispatch(&self, tracked: &Tracked, sources: &Sources) -> Result<Dispatch, String> {
        let entry = &tracked.entry;
        let expires = SystemTime::now() + WORK_DEADLINE + UPLOAD_ALLOWANCE;
        let base = &self.settings.store_base;
        let format = entry.request.output_format;
        let mut outputs = Vec::new();
        for image in 0..entry.request.samples {
            let put_url = self.outputs.signed_put_url(base, entry.id, image, format, expires).await.map_err(|error| error.to_string())?;
            outputs.push(OutputTarget { put_url });
        }
        let mut inputs = Vec::new();
        for sha256 in [&entry.request.image, &entry.request.mask_image].into_iter().flatten() {
            let get_url = self.inputs.signed_get_url(base, sha256, expires).await.map_err(|error| error.to_string())?;
            inputs.push(InputSource { sha256: sha256.clone(), get_url });
        }
        let contents = sources.contents.iter().map(|digest| self.settings.content.source(base, digest, expires)).collect();
        Ok(Dispatch {
            id: entry.id,
            model: sources.model.clone(),
            inputs,
            refiner: sources.refiner.clone(),
            adapters: sources.adapters.clone(),
            contents,
            outputs,
            deadline_ms: milliseconds(WORK_DEADLINE),
            partial_images: tracked.partial_images,
            metadata: vec![("Software".to_owned(), "Emulsion".to_owned())],
            request: entry.request.clone(),
        })
    }

    fn held_too_long(&self) -> Outcome {
        let seconds = self.settings.hold_deadline.as_secs();
        failed(FailureReason::DeadlineExceeded, &format!("no capacity for the request within {seconds} s; try again later"))
    }

    /// Tells the journal how the request ended, and then everybody else.
    async fn settle(&self, tracked: &Tracked, outcome: Outcome) {
        let entry = &tracked.entry;
        let outcome = match self.journal(entry, &outcome, &tracked.start()).await {
            Journalled::Settled => outcome,
            Journalled::TakenOver => self.adopt(entry).await,
            Journalled::Unreachable => failed(FailureReason::Internal, "how the request ended could not be recorded; it is not billed"),
        };
        self.metrics.request_ended(tracked.dialect, label(&outcome));
        let took = tracked.accepted.elapsed().as_millis();
        match &outcome {
            Outcome::Failed { failure } => tracing::warn!(id = %entry.id, "failed after {took} ms: {}", failure.message),
            _ => tracing::info!(id = %entry.id, "{} after {took} ms", label(&outcome)),
        }
        tracked.finish(&outcome);
        self.generations.retire(tracked);
    }

    async fn journal(&self, entry: &Entry, outcome: &Outcome, start: &StartReport) -> Journalled {
        let mut wait = SETTLE_WAIT_FIRST;
        for _ in 0..SETTLE_ATTEMPTS_LIMIT {
            match self.store.finish(entry.id, entry.fence, outcome, start).await {
                Ok(true) => return Journalled::Settled,
                Ok(false) => return Journalled::TakenOver,
                Err(error) => tracing::error!(id = %entry.id, "the end of the request is not recorded yet: {error}"),
            }
            sleep(wait).await;
            wait = (wait * 2).min(SETTLE_WAIT_LIMIT);
        }
        Journalled::Unreachable
    }

    /// Another router took the request up, believing this one dead: its end counts.
    async fn adopt(&self, entry: &Entry) -> Outcome {
        let until = Instant::now() + self.settings.hold_deadline + WORK_DEADLINE;
        while Instant::now() < until {
            match self.store.find_entry(entry.tenant, entry.public_id).await {
                Ok(Some(Entry { outcome: Some(outcome), .. })) => return outcome,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => tracing::warn!(id = %entry.id, "{error}"),
            }
            sleep(ADOPT_POLL_INTERVAL).await;
        }
        failed(FailureReason::Internal, "another router has taken the request over; fetch it by its id")
    }
}

enum Journalled {
    Settled,
    TakenOver,
    Unreachable,
}

fn judge(failure: Failure) -> Verdict {
    match failure.reason {
        FailureReason::InvalidRequest | FailureReason::InvalidModel | FailureReason::DeadlineExceeded => {
            Verdict::End(Outcome::Failed { failure })
        }
        FailureReason::Busy => Verdict::WaitForRoom,
        // Cancelled: not by this router, so the replica drains.
        FailureReason::Internal | FailureReason::OutputRejected | FailureReason::Cancelled => Verdict::Retry { reason: failure.message },
    }
}

fn is_quarter(evaluation: u32, evaluations: u32) -> bool {
    let quarter = |evaluation: u32| u64::from(evaluation) * 4 / u64::from(evaluations.max(1));
    evaluation > 0 && quarter(evaluation) != quarter(evaluation - 1)
}

fn note_wait(start: &mut StartReport, waited: Duration) {
    start.cold |= !waited.is_zero();
    start.replica_start_ms += milliseconds(waited);
}

fn failed(reason: FailureReason, message: &str) -> Outcome {
    Outcome::Failed { failure: Failure { reason, message: message.to_owned() } }
}

fn label(outcome: &Outcome) -> OutcomeLabel {
    match outcome {
        Outcome::Succeeded { .. } => OutcomeLabel::Succeeded,
        Outcome::Failed { .. } => OutcomeLabel::Failed,
        Outcome::Cancelled => OutcomeLabel::Cancelled,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 by this machine's clock, to compare with the journal's.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

struct GaugeGuard<'a>(&'a prometheus::IntGauge);

impl<'a> GaugeGuard<'a> {
    fn new(gauge: &'a prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
