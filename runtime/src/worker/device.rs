//! The one thread that owns the device. Between evaluations it takes mail, lets go of what nobody wants any more, starts what can start, and
//! runs one evaluation of everything that runs, in as few calls as shapes allow.
//!
//! A panic inside the engine costs the generations that were in that call, and the thread goes on: all state of an image is in the image, a
//! batch owns nothing and weights are never written, so what is left is whole. Only when one panic follows another with no success between,
//! the fault is in the device or the process; then the thread ends and the process exits, to be started anew.

mod models;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use runtime_api::FailureReason;
use tokio::runtime::Handle;

use super::admission::{Applicant, Weights, admit};
use super::finishing::{Finisher, send_preview};
use super::generation::Generation;
use super::loader::{Order, Report};
use super::refining::Begun;
use super::replica::Shared;
use super::running::Running;
use crate::engine::{CallLimits, Candidate, Engine, EngineError, ModelFacts, Request, Weighed, before};
use crate::infotext::{Names, infotext, refined};
use crate::request::complete;
use crate::residency::Residency;
use models::Pending;

/// Panics in a row after which the process is given up.
const MAX_CONSECUTIVE_PANICS: u32 = 3;
/// How soon cancellations and deadlines are noticed while everything waits for weights.
const WAITING_TICK: Duration = Duration::from_millis(20);
/// How often an idle thread says that it lives.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// Mail of the device thread. Bounded by what is behind it: a generation holds a queue permit, the loader has one order at a time.
#[derive(Debug)]
pub(super) enum Message<E: Engine> {
    Submitted(Box<Generation>),
    Loader(Report<E::Folder, E::Model>),
    /// Places became free.
    Wake,
    Stop,
}

/// Why the thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Stopped,
    Broken,
}

/// Everything the thread owns.
pub(super) struct DeviceThread<E: Engine> {
    pub(super) engine: Arc<E>,
    pub(super) shared: Arc<Shared>,
    pub(super) mail: Receiver<Message<E>>,
    pub(super) loader: Sender<Order<E::Folder>>,
    pub(super) finisher: Finisher,
    pub(super) runtime: Handle,
    pub(super) waiting: VecDeque<Generation>,
    running: Vec<Running<E>>,
    residency: Residency<E::Model>,
    pending: Option<Pending<E::Folder>>,
    consecutive_panics: u32,
}

impl<E: Engine> DeviceThread<E> {
    pub(super) fn new(
        engine: Arc<E>,
        shared: Arc<Shared>,
        mail: Receiver<Message<E>>,
        loader: Sender<Order<E::Folder>>,
        finisher: Finisher,
        runtime: Handle,
    ) -> Self {
        let residency = Residency::new(shared.limits.resident_bytes);
        Self {
            engine,
            shared,
            mail,
            loader,
            finisher,
            runtime,
            waiting: VecDeque::new(),
            running: Vec::new(),
            residency,
            pending: None,
            consecutive_panics: 0,
        }
    }

    /// Works until told to stop. What still waits or runs then ends as failed when it is dropped.
    pub(super) fn run(mut self) -> Exit {
        loop {
            self.shared.heartbeat.beat();
            if !self.take_mail() {
                return Exit::Stopped;
            }
            self.drop_unwanted();
            self.arrange_models();
            self.start();
            self.evaluate();
            self.hand_over();
            self.publish();
            if self.consecutive_panics >= MAX_CONSECUTIVE_PANICS {
                tracing::error!(panics = self.consecutive_panics, "the engine panics again and again; giving the process up");
                return Exit::Broken;
            }
        }
    }

    /// Takes all mail there is; waits for some only when there is nothing to compute. False when it is time to stop.
    fn take_mail(&mut self) -> bool {
        if self.running.is_empty() {
            let tick = if self.waiting.is_empty() { IDLE_TICK } else { WAITING_TICK };
            match self.mail.recv_timeout(tick) {
                Ok(message) => {
                    if !self.take(message) {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while let Ok(message) = self.mail.try_recv() {
            if !self.take(message) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, message: Message<E>) -> bool {
        match message {
            Message::Submitted(generation) => self.waiting.push_back(*generation),
            Message::Loader(report) => self.take_report(report),
            Message::Wake => {}
            Message::Stop => return false,
        }
        true
    }

    /// Cancelled and expired work goes before it costs anything more.
    fn drop_unwanted(&mut self) {
        let now = Instant::now();
        for _ in 0..self.waiting.len() {
            let Some(generation) = self.waiting.pop_front() else { break };
            match generation.reason_to_stop(now) {
                Some(reason) => generation.stop(reason),
                None => self.waiting.push_back(generation),
            }
        }
        for running in std::mem::take(&mut self.running) {
            match running.generation.reason_to_stop(now) {
                Some(reason) => running.generation.stop(reason),
                None => self.running.push(running),
            }
        }
    }

    /// Starts all that [`admit`] lets start.
    fn start(&mut self) {
        let applicants: Vec<Applicant> = self.waiting.iter().map(|generation| self.applicant(generation)).collect();
        let free_images = u32::try_from(self.shared.image_slots.available_permits()).unwrap_or(u32::MAX);
        let admitted = admit(&applicants, free_images);
        let Some(&last) = admitted.last() else { return };
        for (generation, applicant) in self.waiting.iter_mut().zip(&applicants).take(last) {
            if applicant.weights == Weights::NeedRoom {
                generation.passed_over += 1;
            }
        }
        // From the back, so that the positions of those before stay true.
        let mut starting: Vec<Generation> = admitted.iter().rev().filter_map(|&index| self.waiting.remove(index)).collect();
        while let Some(generation) = starting.pop() {
            self.prepare(generation);
        }
    }

    fn applicant(&self, generation: &Generation) -> Applicant {
        let weights = if self.residency.contains(&generation.key) {
            Weights::Resident
        } else if self.pending.as_ref().is_some_and(|pending| pending.needs_room(&generation.key)) {
            Weights::NeedRoom
        } else {
            Weights::Coming
        };
        // Between two models it has its places.
        let images = if generation.begun.is_some() { 0 } else { generation.dispatch.request.samples };
        Applicant { weights, images, passed_over: generation.passed_over }
    }

    fn prepare(&mut self, mut generation: Generation) {
        let started = Instant::now();
        let Some(model) = self.residency.lease(&generation.key) else {
            return self.waiting.push_front(generation);
        };
        let facts = self.engine.facts(&model);
        let (request, slots, since) = match generation.begun.take() {
            Some(Begun { request, slots, since }) => {
                for text in &mut generation.infotexts {
                    *text = refined(text, &facts, generation.dispatch.request.refiner.as_ref());
                }
                (request, slots, Some(since))
            }
            None => {
                let samples = generation.dispatch.request.samples;
                let Ok(slots) = Arc::clone(&self.shared.image_slots).try_acquire_many_owned(samples) else {
                    return self.waiting.push_front(generation);
                };
                match self.request(&mut generation, &facts) {
                    Ok(request) => (request, slots, None),
                    Err(message) => return generation.ending.failed(FailureReason::InvalidRequest, message),
                }
            }
        };
        if let Some(message) = self.too_large(Weighed::Read(&model), &request) {
            return generation.ending.failed(FailureReason::InvalidRequest, message);
        }
        let engine = Arc::clone(&self.engine);
        match self.guarded(|| engine.prepare(&model, &request)) {
            Ok(images) => {
                let images = images.into_iter().map(|image| (engine.progress(&image), image)).map(|(progress, image)| (image, progress));
                self.running.push(Running::new(generation, request, images.collect(), model, (slots, started), since));
            }
            Err(error) => generation.ending.failed_in_engine(error),
        }
    }

    /// What its first model is asked for, or what is wrong with it.
    fn request(&self, generation: &mut Generation, facts: &ModelFacts) -> Result<Request, String> {
        drop(generation.place.take());
        generation.family = facts.family;
        let (asked, canvas) = (&generation.dispatch.request, generation.canvas.take());
        let request = complete(asked, canvas.as_ref(), &facts.defaults, &self.shared.limits.request, generation.seed);
        let request = Request {
            embeddings: std::mem::take(&mut generation.embeddings),
            adapters: std::mem::take(&mut generation.adapters),
            ..request.map_err(|error| error.to_string())?
        };
        let names = Names { model: &generation.dispatch.model.id, adapters: &generation.dispatch.request.adapters };
        generation.infotexts = (0..request.samples).map(|sample| infotext(&request, facts, names, sample)).collect();
        Ok(match &generation.refiner {
            Some(refiner) => before(request, refiner.start),
            None => request,
        })
    }

    /// One evaluation of every image that runs.
    fn evaluate(&mut self) {
        let mut places = Vec::new();
        let mut candidates = Vec::new();
        for (at, running) in self.running.iter().enumerate() {
            for (sample_at, sample) in running.samples.iter().enumerate() {
                if let Some(image) = &sample.image {
                    places.push((at, sample_at));
                    candidates.push(Candidate { image, passed_over: sample.passed_over });
                }
            }
        }
        if candidates.is_empty() {
            return;
        }
        let limits = CallLimits { rows: self.shared.limits.max_rows as usize, bytes: self.shared.limits.computing_bytes };
        let groups = self.engine.groups(&candidates, limits);
        drop(candidates);
        let mut failures: Vec<(usize, EngineError)> = Vec::new();
        for group in groups {
            let group: Vec<(usize, usize)> = group.iter().filter_map(|&index| places.get(index).copied()).collect();
            self.evaluate_group(&group, &mut failures);
            self.shared.heartbeat.beat();
        }
        self.fail(failures);
    }

    /// One call for the images at `group`. Each is taken out of its place for the call and put back after it.
    fn evaluate_group(&mut self, group: &[(usize, usize)], failures: &mut Vec<(usize, EngineError)>) {
        let mut images: Vec<E::Image> = Vec::with_capacity(group.len());
        for &(at, sample) in group {
            images.extend(self.running[at].samples[sample].image.take());
        }
        let engine = Arc::clone(&self.engine);
        let stepped = self.guarded(|| {
            let mut borrowed: Vec<&mut E::Image> = images.iter_mut().collect();
            Ok(engine.step(&mut borrowed))
        });
        let stepped = match stepped {
            Ok(stepped) => stepped,
            // The images may be half changed: they are dropped with their generations.
            Err(error) => return failures.extend(group.iter().map(|&(at, _)| (at, error.clone()))),
        };
        self.consecutive_panics = 0;
        self.shared.metrics.denoiser_calls.inc_by(stepped.denoiser_calls as u64);
        self.shared.metrics.denoiser_rows.inc_by(stepped.rows as u64);
        for running in &mut self.running {
            running.samples.iter_mut().for_each(|sample| sample.passed_over += 1);
        }
        let mut outcomes = stepped.outcomes.into_iter();
        for (&(at, sample), image) in group.iter().zip(images) {
            let outcome = match outcomes.next() {
                Some(Ok(())) => self.advance(at, sample, image),
                Some(Err(error)) => Err(error),
                None => Err(EngineError::Internal("the engine told no outcome for an image".to_owned())),
            };
            failures.extend(outcome.err().map(|error| (at, error)));
        }
    }

    /// What follows an evaluation: progress, a preview if one is due, pixels if it was the last.
    fn advance(&mut self, at: usize, sample: usize, image: E::Image) -> Result<(), EngineError> {
        let engine = Arc::clone(&self.engine);
        let progress = engine.progress(&image);
        self.shared.metrics.steps.inc();
        let running = &self.running[at];
        running.generation.ending.tell(running.step(sample, progress.done));
        let began = Instant::now();
        if progress.is_finished() && running.generation.refiner.is_some() {
            self.running[at].samples[sample].left = Some(image);
            return Ok(());
        }
        if progress.is_finished() {
            let pixels = self.guarded(|| engine.decode(&image))?;
            self.shared.metrics.images.inc();
            self.running[at].samples[sample].pixels = Some(pixels);
        } else if let Some(index) = self.running[at].samples[sample].preview_due(progress.done) {
            let pixels = self.guarded(|| engine.preview(&image))?;
            if let Some(teller) = self.running[at].generation.ending.progress() {
                send_preview(&self.runtime, teller, sample as u32, index, pixels);
            }
        }
        let running = &mut self.running[at];
        running.decode += began.elapsed();
        running.samples[sample].passed_over = 0;
        if !progress.is_finished() {
            running.samples[sample].image = Some(image);
        }
        Ok(())
    }

    /// Ends the generations at these places, each with its first error.
    fn fail(&mut self, mut failures: Vec<(usize, EngineError)>) {
        failures.sort_by_key(|(at, _)| *at);
        failures.dedup_by_key(|(at, _)| *at);
        for (at, error) in failures.into_iter().rev() {
            self.running.remove(at).generation.ending.failed_in_engine(error);
        }
    }

    /// Gives finished generations to the asynchronous side, which stores them.
    fn hand_over(&mut self) {
        let now = Instant::now();
        for mut running in std::mem::take(&mut self.running) {
            if !running.is_finished() {
                self.running.push(running);
                continue;
            }
            if let Some(refiner) = running.generation.refiner.take() {
                self.pass_on(running, refiner, now);
                continue;
            }
            let timings = running.timings(now);
            let pixels = running.samples.iter_mut().filter_map(|sample| sample.pixels.take()).collect();
            self.finisher.finish(&self.runtime, running.generation, pixels, timings, running.slots);
        }
    }

    fn publish(&self) {
        self.shared.warm.note_resident(|key| self.residency.contains(key));
        let residents = self.residency.residents();
        self.shared.publish(residents.iter().map(|resident| runtime_api::ResidentModel {
            id: resident.id.clone(),
            digest: resident.digest.clone(),
            bytes: resident.bytes,
            in_use: resident.in_use(),
        }));
    }

    /// Runs a piece of the engine; a panic becomes an error of that piece.
    pub(super) fn guarded<T>(&mut self, work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => result,
            Err(_) => {
                self.consecutive_panics += 1;
                self.shared.metrics.panics.inc();
                Err(EngineError::Internal("the engine panicked; the replica's log says where".to_owned()))
            }
        }
    }
}
