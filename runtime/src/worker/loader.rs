//! The thread that opens and reads models, so that images of resident ones go on meanwhile. It decides nothing: it does one order after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::device::Message;
use crate::engine::{Engine, EngineError};
use crate::residency::ModelKey;

/// A report of progress for each so many bytes is enough for people, and keeps the device thread's mail small.
const PROGRESS_EVERY_BYTES: u64 = 4 << 20;

/// What the device thread asks for. One order at a time is under way, so that the answer is to the last one asked.
#[derive(Debug)]
pub(super) enum Order<F> {
    Open { key: ModelKey },
    Load { key: ModelKey, folder: F },
}

/// What it is answered.
#[derive(Debug)]
pub(super) enum Report<F, M> {
    Opened { result: Result<(F, u64), EngineError> },
    Progress { bytes_done: u64, bytes_total: u64 },
    Loaded { result: Result<Arc<M>, EngineError>, took: Duration },
}

/// Serves orders until the device thread hangs up. `post` delivers a report.
pub(super) fn run<E: Engine>(engine: &E, orders: &Receiver<Order<E::Folder>>, post: &dyn Fn(Message<E>)) {
    while let Ok(order) = orders.recv() {
        let report = match order {
            Order::Open { key } => Report::Opened { result: guarded(|| open(engine, &key)) },
            Order::Load { key, folder } => {
                let started = Instant::now();
                let result = guarded(|| load(engine, &key, &folder, post));
                Report::Loaded { result, took: started.elapsed() }
            }
        };
        post(Message::Loader(report));
    }
}

fn open<E: Engine>(engine: &E, key: &ModelKey) -> Result<(E::Folder, u64), EngineError> {
    let folder = engine.open(key)?;
    let bytes = engine.footprint(&folder);
    Ok((folder, bytes))
}

fn load<E: Engine>(engine: &E, key: &ModelKey, folder: &E::Folder, post: &dyn Fn(Message<E>)) -> Result<Arc<E::Model>, EngineError> {
    let mut told = None;
    let mut progress = |bytes_done: u64, bytes_total: u64| {
        let is_worth_telling =
            told.is_none_or(|last: u64| bytes_done >= last.saturating_add(PROGRESS_EVERY_BYTES) || bytes_done == bytes_total);
        if is_worth_telling {
            told = Some(bytes_done);
            post(Message::Loader(Report::Progress { bytes_done, bytes_total }));
        }
    };
    engine.load(folder, key.sha256.as_deref(), &mut progress).map(Arc::new)
}

/// Weights are hostile: a parser's panic is a bad model, not the end of the replica.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(EngineError::InvalidModel("reading the model ended in a panic; its files are not what they claim".to_owned()))
    })
}
