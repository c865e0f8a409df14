//! The door: what is checked before anything is queued, and the handle by which the rest of the process sees the replica.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use runtime_api::{Dispatch, Event, Failure, FailureReason, ReplicaState, ResidentModel, WARM_MODELS_LIMIT, WarmModels, WarmReport};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::device::{DeviceThread, Exit, Message};
use super::feed::{Feed, feed};
use super::finishing::Finisher;
use super::generation::{Arrival, Ending, Generation, Presence};
use super::opening::{Opening, failure};
use super::preparing::Preparation;
use super::warm::Warm;
use super::{Limits, MAX_DEADLINE, loader};
use crate::adapters::Adapters;
use crate::content::ContentCache;
use crate::engine::Engine;
use crate::input::Fetcher;
use crate::metrics::Metrics;
use crate::picture::check_text;
use crate::request;
use crate::safety::SafetyChecker;
use crate::source::ModelRoots;
use crate::upload::Uploader;

/// What the device thread and everybody else share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    has_safety_checker: bool,
    pub(super) metrics: Arc<Metrics>,
    pub(super) heartbeat: Heartbeat,
    pub(super) image_slots: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Generations in the house, waiting, running or being stored.
    house: watch::Sender<u32>,
    residents: Mutex<Vec<ResidentModel>>,
    pub(super) warm: Warm,
    accepting: AtomicBool,
}

impl Shared {
    fn queued(&self) -> u32 {
        self.limits.queue_limit.saturating_sub(u32::try_from(self.queue.available_permits()).unwrap_or(u32::MAX))
    }

    fn running(&self) -> u32 {
        self.house.borrow().saturating_sub(self.queued())
    }

    pub(super) fn publish(&self, residents: impl Iterator<Item = ResidentModel>) {
        let residents: Vec<ResidentModel> = residents.collect();
        self.metrics.resident_bytes.set(residents.iter().map(|resident| resident.bytes).sum::<u64>() as i64);
        *self.residents.lock().unwrap_or_else(PoisonError::into_inner) = residents;
    }
}

/// When the device thread last said that it lives.
#[derive(Debug)]
pub(super) struct Heartbeat {
    origin: Instant,
    last_milliseconds: AtomicU64,
}

impl Heartbeat {
    fn new() -> Self {
        Self { origin: Instant::now(), last_milliseconds: AtomicU64::new(0) }
    }

    pub(super) fn beat(&self) {
        self.last_milliseconds.store(super::running::milliseconds(self.origin.elapsed()), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.origin.elapsed().saturating_sub(Duration::from_millis(self.last_milliseconds.load(Ordering::Relaxed)))
    }
}

/// Why a replica could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("start thread")]
    Thread(#[source] std::io::Error),
    #[error("register metrics")]
    Metrics(#[source] prometheus::Error),
    #[error(transparent)]
    Upload(#[from] crate::upload::UploadError),
    #[error(transparent)]
    Fetch(#[from] crate::input::FetchError),
}

/// The device thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// As it was asked to.
    Asked,
    /// It panics again and again: the process is to be started anew.
    Broken,
}

/// The way to the device.
struct Queue {
    preparation: Preparation,
    submit: Arc<dyn Fn(Box<Generation>) -> bool + Send + Sync>,
}

impl Queue {
    /// A generation that cannot be delivered is dropped, and says so through its feed.
    fn prepare(self, generation: Box<Generation>) {
        let Self { preparation, submit } = self;
        if generation.dispatch.inputs.is_empty() {
            submit(generation);
        } else {
            tokio::spawn(async move { preparation.prepare(generation).await.map(|generation| submit(generation)) });
        }
    }
}

/// A running replica. Stops its threads when dropped.
pub struct Replica {
    shared: Arc<Shared>,
    opening: Opening,
    preparation: Preparation,
    submit: Arc<dyn Fn(Box<Generation>) -> bool + Send + Sync>,
    /// Has the device thread look around.
    wake: Arc<dyn Fn() + Send + Sync>,
    stop: Box<dyn Fn() + Send + Sync>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Replica").field("shared", &self.shared).field("opening", &self.opening).finish_non_exhaustive()
    }
}

impl Replica {
    /// Starts the threads. The receiver hears when the device thread ends. Without a `safety_checker`, requests that ask for one are refused,
    /// without `content` those for imported models.
    ///
    /// # Errors
    /// [`StartError`] if the system refuses a thread.
    pub fn start<E: Engine>(
        engine: E,
        roots: ModelRoots,
        content: Option<ContentCache>,
        safety_checker: Option<SafetyChecker>,
        limits: Limits,
        runtime: &Handle,
    ) -> Result<(Self, oneshot::Receiver<Stopped>), StartError> {
        let engine = Arc::new(engine);
        let shared = Arc::new(Shared {
            limits,
            has_safety_checker: safety_checker.is_some(),
            metrics: Arc::new(Metrics::new().map_err(StartError::Metrics)?),
            heartbeat: Heartbeat::new(),
            image_slots: Arc::new(Semaphore::new(limits.max_images as usize)),
            queue: Arc::new(Semaphore::new(limits.queue_limit as usize)),
            house: watch::Sender::new(0),
            residents: Mutex::default(),
            warm: Warm::default(),
            accepting: AtomicBool::new(true),
        });
        let (post, mail) = mpsc::channel::<Message<E>>();
        let (orders, orders_receiver) = mpsc::channel();
        let (ended, stopped) = oneshot::channel();

        let wake = post.clone();
        // A device thread that is gone needs no waking.
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(move || drop(wake.send(Message::Wake)));
        let finisher = Finisher { uploader: Uploader::default(), safety_checker: safety_checker.map(Arc::new), wake: Arc::clone(&wake) };
        let adapters = Adapters::new(Arc::clone(&engine), limits.adapter_bytes);
        let device = DeviceThread::new(Arc::clone(&engine), Arc::clone(&shared), mail, orders, finisher, runtime.clone());
        let device = spawn("device", move || {
            let exit = device.run();
            // Nobody may want to know.
            let _ = ended.send(if exit == Exit::Broken { Stopped::Broken } else { Stopped::Asked });
        })?;
        let reports = post.clone();
        let loader = spawn("loader", move || {
            loader::run::<E>(&engine, &orders_receiver, &|message| drop(reports.send(message)));
        })?;
        let stop = post.clone();
        let replica = Self {
            shared,
            opening: Opening::new(roots, content, Arc::new(move |dispatch, roots| adapters.open(dispatch, roots))),
            preparation: Preparation::new(Fetcher::default(), limits.request),
            submit: Arc::new(move |generation| post.send(Message::Submitted(generation)).is_ok()),
            wake,
            stop: Box::new(move || drop(stop.send(Message::Stop))),
            threads: Mutex::new(vec![device, loader]),
        };
        Ok((replica, stopped))
    }

    /// Takes a generation if it can be served at all and there is a place for it.
    ///
    /// # Errors
    /// A [`Failure`] that says what to do: `Busy` when the queue is full or the replica drains, `InvalidRequest`, or `InvalidModel` for a
    /// source that this replica may not read.
    pub async fn submit(&self, dispatch: Dispatch) -> Result<Feed, Failure> {
        let (metrics, id, model) = (&self.shared.metrics, dispatch.id, dispatch.model.id.clone());
        self.accept(dispatch).await.inspect_err(|failure| {
            metrics.count_outcome(Some(failure.reason));
            tracing::warn!(%id, model, reason = ?failure.reason, "refused: {}", failure.message);
        })
    }

    async fn accept(&self, dispatch: Dispatch) -> Result<Feed, Failure> {
        // Present before the door is looked at: who slips through while it closes is waited for.
        let presence = Presence::enter(&self.shared.house);
        let place = self.enter()?;
        check(&dispatch, &self.shared).map_err(|message| failure(FailureReason::InvalidRequest, message))?;
        let accepted = Instant::now();
        let deadline = accepted + Duration::from_millis(dispatch.deadline_ms).min(MAX_DEADLINE);
        let (teller, feed) = feed();
        // Told here, as the device thread may be within a long evaluation. Its own place is not ahead of it.
        let ahead = self.shared.queued().saturating_sub(1);
        let ending = Ending::new(teller, Arc::clone(&self.shared.metrics), presence);
        let arrival = Arrival { seed: rand::random(), accepted, deadline, ending, place };
        if dispatch.contents.is_empty() {
            let opened = match self.opening.open(dispatch).await {
                Ok(opened) => opened,
                Err(refusal) => {
                    // Answered at the door, where it is counted.
                    arrival.ending.dismiss();
                    return Err(refusal);
                }
            };
            arrival.ending.tell(Event::Queued { ahead });
            self.queue().prepare(arrival.generation(opened));
        } else {
            arrival.ending.tell(Event::Queued { ahead });
            let (opening, queue) = (self.opening.clone(), self.queue());
            tokio::spawn(async move { opening.bring(dispatch, arrival).await.map(|generation| queue.prepare(generation)) });
        }
        Ok(feed)
    }

    /// Keeps these models in memory from now on, so far as calls leave room for them, and answers how they stand.
    ///
    /// # Errors
    /// A [`Failure`] if there are too many of them.
    pub fn keep_warm(&self, wanted: WarmModels) -> Result<WarmReport, Failure> {
        let count = wanted.models.len();
        if count > WARM_MODELS_LIMIT {
            let message = format!("{count} models shall be warm; at most {WARM_MODELS_LIMIT} can be");
            return Err(failure(FailureReason::InvalidRequest, message));
        }
        let unopened = if self.is_accepting() { self.shared.warm.want(wanted.models, Instant::now()) } else { Vec::new() };
        for model in unopened {
            let (opening, shared, wake) = (self.opening.clone(), Arc::clone(&self.shared), Arc::clone(&self.wake));
            tokio::spawn(async move {
                let source = model.source.clone();
                let opened = opening.open_model(model).await;
                shared.warm.opened(&source, opened, Instant::now());
                wake();
            });
        }
        Ok(WarmReport { models: self.shared.warm.states() })
    }

    fn queue(&self) -> Queue {
        Queue { preparation: self.preparation.clone(), submit: Arc::clone(&self.submit) }
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit, Failure> {
        if !self.is_accepting() {
            return Err(failure(FailureReason::Busy, "the replica drains; send it to another".to_owned()));
        }
        Arc::clone(&self.shared.queue).try_acquire_owned().map_err(|_| {
            let limit = self.shared.limits.queue_limit;
            failure(FailureReason::Busy, format!("the queue is full with {limit} generations; send it to another replica or later"))
        })
    }

    pub fn state(&self) -> ReplicaState {
        let shared = &self.shared;
        let resident = shared.residents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ReplicaState {
            resident_bytes: resident.iter().map(|resident| resident.bytes).sum(),
            resident,
            resident_bytes_limit: shared.limits.resident_bytes,
            queued: shared.queued(),
            queue_limit: shared.limits.queue_limit,
            running: shared.running(),
            accepting: self.is_accepting(),
        }
    }

    /// The counters, with what is counted elsewhere brought up to date.
    pub fn metrics(&self) -> &Metrics {
        self.shared.metrics.queued.set(i64::from(self.shared.queued()));
        self.shared.metrics.running.set(i64::from(self.shared.running()));
        &self.shared.metrics
    }

    pub fn is_accepting(&self) -> bool {
        self.shared.accepting.load(Ordering::SeqCst)
    }

    /// Whether the device thread has shown life lately.
    pub fn is_alive(&self) -> bool {
        self.shared.heartbeat.silence() < self.shared.limits.stall
    }

    /// Takes no more work, and waits until all that was taken has ended.
    pub async fn drain(&self) {
        self.shared.accepting.store(false, Ordering::SeqCst);
        // The sender lives in `self`, so this ends only when the house is empty.
        let _ = self.shared.house.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Ends the threads after the evaluation that is under way. What is not finished fails.
    pub fn stop(&self) {
        (self.stop)();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop();
    }
}

fn check(dispatch: &Dispatch, shared: &Shared) -> Result<(), String> {
    let limits = &shared.limits;
    if dispatch.request.safety_checker.is_some() && !shared.has_safety_checker {
        return Err("this replica has no safety checker; start it with --safety-checker, or ask for images that are not checked".to_owned());
    }
    if dispatch.request.refiner.is_some() != dispatch.refiner.is_some() {
        return Err("the dispatch does not say where the refiner that the request names is, or says it of none".to_owned());
    }
    request::check(&dispatch.request, &limits.request).map_err(|error| error.to_string())?;
    check_inputs(dispatch)?;
    if dispatch.outputs.len() != dispatch.request.samples as usize {
        return Err(format!("{} outputs for {} samples; each sample has one", dispatch.outputs.len(), dispatch.request.samples));
    }
    if dispatch.request.samples > limits.max_images {
        return Err(format!("samples {} is more than this replica makes at once: at most {}", dispatch.request.samples, limits.max_images));
    }
    if dispatch.partial_images > super::MAX_PARTIAL_IMAGES {
        return Err(format!("partial_images {} is too many; ask for at most {}", dispatch.partial_images, super::MAX_PARTIAL_IMAGES));
    }
    dispatch.outputs.iter().try_for_each(Uploader::check).map_err(|error| error.to_string())?;
    check_text(&dispatch.metadata).map_err(|error| error.to_string())
}

fn check_inputs(dispatch: &Dispatch) -> Result<(), String> {
    let named = request::inputs(&dispatch.request).map_err(|error| error.to_string())?;
    for (name, digest) in &named {
        if !dispatch.inputs.iter().any(|source| source.sha256 == *digest) {
            return Err(format!("the dispatch does not say where the {name} is: no input has its sha256"));
        }
    }
    if dispatch.inputs.len() > named.len() {
        return Err(format!("{} inputs for a request that names {}", dispatch.inputs.len(), named.len()));
    }
    dispatch.inputs.iter().try_for_each(Fetcher::check).map_err(|error| error.to_string())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(StartError::Thread)
}
