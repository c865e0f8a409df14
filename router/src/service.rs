//! What the house does for a caller, in no dialect: know them, take a request, tell how it stands, cancel it. It knows neither HTTP
//! statuses nor bodies; the edge and the dialects are its only users.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::accounts::ApiKey;
use crate::admission::RateLimiter;
use crate::catalog::Snapshot;
use crate::demand::Demand;
use crate::dispatch::{Dispatcher, now_ms};
use crate::generation::{Generation, Mode, ModelListing, Progress, Submission};
use crate::inputs::{Fetcher, Intake};
use crate::metrics::OutcomeLabel;
use crate::outputs::OutputStore;
use crate::refusal::Refusal;
use crate::store::{Admission, Caller, Rate, Store, StoreError, Usage};
use crate::validation;

pub(crate) mod generations;
mod pictures;
mod plan;
mod retention;
mod takeover;
#[cfg(test)]
mod tests;
mod ticket;
pub(crate) mod tracked;

pub use ticket::Ticket;
use tracked::{Tracked, from_entry};

/// Requests that this router holds at once, waiting or running; one more is refused. Each is a few kilobytes.
const REQUESTS_LIMIT: usize = 2_000;
/// How long a request takes, until one was seen.
const USUAL_DURATION: Duration = Duration::from_secs(10);
/// How often the journal is asked about a request that another router works on.
const FOREIGN_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Bodies with pictures that are read at once: each may be as large as [`Settings::picture_body_limit_bytes`].
const PICTURE_BODIES_LIMIT: usize = 12;
/// How long a call to cancel waits until the replica has let go.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// What an administrator may set about answering.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address callers reach, without a trailing slash. `None`: taken from each call's Host header.
    pub public_url: Option<String>,
    /// How long a synchronous call waits for its images before it is answered with an id.
    pub sync_wait: Duration,
    /// How long a fetch waits for its images.
    pub fetch_wait: Duration,
    /// The largest body a call may have that takes no picture.
    pub body_limit_bytes: usize,
    /// The largest body of a call that takes pictures.
    pub picture_body_limit_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// Whether replicas can check images; otherwise calls that ask for it are refused.
    pub has_safety_checker: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            public_url: None,
            sync_wait: Duration::from_secs(60),
            fetch_wait: Duration::from_secs(25),
            body_limit_bytes: 1024 * 1024,
            // Two of the largest pictures, one of them as base64, and some text.
            picture_body_limit_bytes: 40 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            has_safety_checker: false,
        }
    }
}

/// The whole house behind one handle; clones share it.
#[derive(Clone, Debug)]
pub struct Service {
    house: Arc<House>,
}

#[derive(Debug)]
struct House {
    settings: Settings,
    dispatcher: Dispatcher,
    intake: Intake,
    picture_bodies: Arc<Semaphore>,
    limiter: RateLimiter,
    /// This router among those that share the store.
    router: Uuid,
    room: Arc<Semaphore>,
    drives: TaskTracker,
    /// Leaves what is not finished to the journal.
    abandon: CancellationToken,
    /// Whether the store took the last heartbeat.
    beats: AtomicBool,
    leaving: AtomicBool,
}

impl Service {
    pub fn new(settings: Settings, dispatcher: Dispatcher, fetcher: Fetcher) -> Self {
        let intake = Intake::new(Arc::clone(&dispatcher.inputs), fetcher);
        Self {
            house: Arc::new(House {
                settings,
                dispatcher,
                intake,
                picture_bodies: Arc::new(Semaphore::new(PICTURE_BODIES_LIMIT)),
                limiter: RateLimiter::default(),
                router: Uuid::now_v7(),
                room: Arc::new(Semaphore::new(REQUESTS_LIMIT)),
                drives: TaskTracker::new(),
                abandon: CancellationToken::new(),
                beats: AtomicBool::new(false),
                leaving: AtomicBool::new(false),
            }),
        }
    }

    /// Whose key this is. Refuses with `KeyMissing` or `KeyInvalid`.
    pub async fn authenticate(&self, key: Option<&ApiKey>) -> Result<Caller, Refusal> {
        let key = key.ok_or(Refusal::KeyMissing)?;
        let found = self.store().find_caller(key.hash()).await.map_err(|error| internal(&error))?;
        found.ok_or(Refusal::KeyInvalid)
    }

    /// The models this caller may name, by name: checkpoints, and what is used together with them.
    pub fn models(&self, caller: &Caller) -> Vec<ModelListing> {
        let catalog = self.catalog();
        let family = |model: &crate::catalog::Model| model.family.or_else(|| self.demand().family(&model.model_id));
        let listing = |model: &Arc<crate::catalog::Model>| ModelListing {
            model_id: model.model_id.clone(),
            kind: model.kind,
            family: family(model).map(|family| family.name().to_owned()),
            created_at: model.created_at,
            ready: model.weights.is_ok(),
        };
        catalog.visible_to(&caller.tenant_name).map(listing).collect()
    }

    /// Takes a request: validates it, fills in what it leaves open, admits it under the caller's plan, journals it and starts on it.
    pub async fn submit(&self, caller: &Caller, submission: Submission) -> Result<Ticket, Refusal> {
        let dialect = submission.dialect;
        // A task of its own: a caller that leaves in the middle must not leave an entry in the journal that nobody works on.
        let (service, caller) = (self.clone(), caller.clone());
        let accepted = tokio::spawn(async move { service.accept(&caller, submission).await }).await;
        let accepted = accepted.unwrap_or_else(|error| {
            tracing::error!("taking a request failed: {error}");
            Err(Refusal::Internal)
        });
        if accepted.is_err() {
            self.house.dispatcher.metrics.request_ended(dialect, OutcomeLabel::Refused);
        }
        accepted
    }

    /// How the caller's request stands: at once when it has finished, else when it finishes or `at_most` has passed.
    pub async fn wait(&self, caller: &Caller, public_id: i32, at_most: Duration) -> Result<Generation, Refusal> {
        if let Some(tracked) = self.find(caller, public_id) {
            // Time that is up is an answer, too.
            let _ = tokio::time::timeout(at_most, tracked.finished()).await;
            return Ok(self.generation(&tracked));
        }
        let until = Instant::now() + at_most;
        loop {
            let entry = self.store().find_entry(caller.tenant, public_id).await.map_err(|error| internal(&error))?;
            let entry = entry.ok_or_else(|| Refusal::GenerationUnknown { id: public_id.to_string() })?;
            let left = until.saturating_duration_since(Instant::now());
            if entry.outcome.is_some() || left.is_zero() {
                return Ok(from_entry(entry, self.outputs().as_ref(), now_ms()));
            }
            tokio::time::sleep(left.min(FOREIGN_POLL_INTERVAL)).await;
        }
    }

    /// Everything that happens to a request from its submission on; ends after `Changed` with a finished state.
    pub fn watch(&self, ticket: &Ticket) -> impl Stream<Item = Progress> + Send + 'static {
        ticket.watch()
    }

    /// Stops the caller's request at its next step, unbilled. One that has finished stays as it is.
    pub async fn cancel(&self, caller: &Caller, public_id: i32) -> Result<Generation, Refusal> {
        if let Some(tracked) = self.find(caller, public_id) {
            tracked.cancel.cancel();
        }
        self.wait(caller, public_id, CANCEL_WAIT).await
    }

    pub async fn usage(&self, caller: &Caller) -> Result<Usage, Refusal> {
        self.store().usage(caller.tenant).await.map_err(|error| internal(&error))
    }

    /// Room for a body with pictures; waits for it as long as a body may take.
    pub async fn picture_body_room(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let room = tokio::time::timeout(self.settings().body_timeout, Arc::clone(&self.house.picture_bodies).acquire_owned()).await;
        room.ok().and_then(Result::ok).ok_or(Refusal::NoCapacity { retry_after: self.settings().body_timeout })
    }

    pub fn settings(&self) -> &Settings {
        &self.house.settings
    }

    /// Whether calls can be served; no replica needs to run for that.
    pub fn is_ready(&self) -> bool {
        self.house.beats.load(Ordering::Relaxed) && !self.is_leaving() && !self.house.drives.is_closed()
    }

    /// From now on calls should go to another router. Those that come are served as ever.
    pub fn leave(&self) {
        self.house.leaving.store(true, Ordering::Relaxed);
    }

    pub fn is_leaving(&self) -> bool {
        self.house.leaving.load(Ordering::Relaxed)
    }

    /// Prometheus' text format.
    pub fn render_metrics(&self) -> String {
        let dispatcher = &self.house.dispatcher;
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let replicas = dispatcher.replicas.counts();
        dispatcher.metrics.queued.set(gauge(dispatcher.waiting()));
        dispatcher.metrics.replicas_ready.set(gauge(replicas.ready));
        dispatcher.metrics.replicas_starting.set(gauge(replicas.starting));
        dispatcher.metrics.render()
    }

    pub fn outputs(&self) -> &Arc<dyn OutputStore> {
        &self.house.dispatcher.outputs
    }

    /// What waits and runs here, for the operator.
    pub fn demand(&self) -> &Arc<Demand> {
        &self.house.dispatcher.demand
    }

    /// Has replicas keep the warm models of their pools in memory, until the router stops.
    pub async fn keep_models_warm(self) {
        tokio::select! {
            () = self.house.abandon.cancelled() => {}
            () = self.house.dispatcher.keep_models_warm() => {}
        }
    }

    /// Requests that have not finished.
    pub fn unfinished(&self) -> usize {
        self.house.dispatcher.generations.unfinished()
    }

    /// Waits until everything accepted has ended or `within` has passed; what is left then stays in the journal for the next router.
    pub async fn shut_down(&self, within: Duration) {
        self.house.drives.close();
        if tokio::time::timeout(within, self.house.drives.wait()).await.is_err() {
            tracing::info!("leaving {} unfinished requests to the journal", self.unfinished());
        }
        self.house.abandon.cancel();
        self.house.drives.wait().await;
    }

    async fn accept(&self, caller: &Caller, submission: Submission) -> Result<Ticket, Refusal> {
        let catalog = self.catalog();
        let plan = plan::of_caller(&catalog, caller)?;
        let model = plan::callable_model(&catalog, caller, plan, &submission.request.model)?;
        if submission.request.safety_checker.is_some() && !self.house.settings.has_safety_checker {
            return Err(Refusal::NotSupported { feature: "safety_checker, whose weights are not installed here,".to_owned() });
        }
        // Before anything is fetched.
        validation::check(&submission.request, model)?;
        plan::check_adapters(&catalog, caller, model, &submission.request)?;
        plan::check_refiner(&catalog, caller, plan, model, &submission.request)?;
        let place = self.take_place()?;
        let (per_minute, burst) = (plan.requests_per_minute.unsigned_abs(), plan.burst.unsigned_abs());
        let counted = self.house.limiter.check(self.store().as_ref(), caller.tenant, Rate::new(per_minute, burst)).await;
        counted.map_err(|retry_after| Refusal::RateLimited { plan: caller.plan.clone(), per_minute, burst, retry_after })?;
        // Durable before the journal names them.
        let (request, size) = self.take_pictures(submission.request, submission.pictures).await?;
        let request = validation::normalise(request, model, size, rand::random)?;
        let admission = Admission {
            id: Uuid::now_v7(),
            tenant: caller.tenant,
            router: self.house.router,
            allowance: plan::allowance(plan),
            request,
            mode: submission.mode,
            dialect: submission.dialect,
            track_id: submission.track_id,
        };
        let usual = self.house.dispatcher.generations.usual();
        let entry = self.store().admit(&admission).await.map_err(|error| plan::refusal(error, &caller.plan, usual))?;
        let tracked = Tracked::new(entry, submission.dialect, submission.partial_images, Duration::ZERO, self.outputs().as_ref());
        let ticket =
            Ticket::new(self.generation(&tracked), Arc::clone(&tracked), Arc::clone(self.store()), submission.mode == Mode::Attached);
        self.start(tracked, Some(place));
        Ok(ticket)
    }

    /// The work goes on in a task of its own. `place` is given back when it has ended.
    fn start(&self, tracked: Arc<Tracked>, place: Option<OwnedSemaphorePermit>) {
        self.house.dispatcher.generations.insert(&tracked);
        let house = Arc::clone(&self.house);
        self.house.drives.spawn(async move {
            let _place = place;
            tokio::select! {
                biased;
                () = house.abandon.cancelled() => {}
                () = house.dispatcher.drive(tracked) => {}
            }
        });
    }

    fn take_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let full = || Refusal::NoCapacity { retry_after: self.house.dispatcher.generations.usual() };
        if self.house.drives.is_closed() {
            return Err(full());
        }
        Arc::clone(&self.house.room).try_acquire_owned().map_err(|_| full())
    }

    fn find(&self, caller: &Caller, public_id: i32) -> Option<Arc<Tracked>> {
        self.house.dispatcher.generations.find(caller.tenant, public_id)
    }

    fn generation(&self, tracked: &Tracked) -> Generation {
        tracked.generation(self.house.dispatcher.generations.usual())
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.house.dispatcher.store
    }

    fn catalog(&self) -> Arc<Snapshot> {
        self.house.dispatcher.catalog.current()
    }
}

/// A failing store is logged here, once, and the caller learns no more than that.
fn internal(error: &StoreError) -> Refusal {
    tracing::error!("{error}");
    Refusal::Internal
}
