//! Adapters that dispatches name: read at the door, off the device thread, and kept for the next request that names them. A cold one delays
//! only requests for adapters that are cold themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diffusion::adapter::{Adapter, AdapterFile, AdapterUse};
use runtime_api::{Dispatch, ModelSource};

use crate::engine::{Engine, EngineError, chain};
use crate::residency::{ModelKey, Residency, Room};
use crate::source::ModelRoots;

/// Why an adapter cannot be used. The text is for the caller.
#[derive(Debug, thiserror::Error)]
pub enum AdapterSourceError {
    #[error("adapter `{id}` has no source in this dispatch")]
    Missing { id: String },
    #[error("adapter `{id}`: {reason}")]
    Refused { id: String, reason: String },
    #[error("adapter `{id}`: adapters in use take all the memory there is for them; send it to another replica or later")]
    Busy { id: String },
    #[error("adapter `{id}`: {reason}")]
    Engine { id: String, reason: String },
}

/// Adapters in memory, under one bound of bytes; the least recently used go first, and none that is in use.
#[derive(Debug)]
pub struct Adapters<E> {
    engine: Arc<E>,
    resident: Mutex<Residency<Adapter>>,
    /// One file at a time is read, so that none is read twice and no room is promised twice.
    reading: Mutex<()>,
    limit_bytes: u64,
}

impl<E: Engine> Adapters<E> {
    pub fn new(engine: Arc<E>, limit_bytes: u64) -> Self {
        Self { engine, resident: Mutex::new(Residency::new(limit_bytes)), reading: Mutex::default(), limit_bytes }
    }

    /// What `dispatch.request` names, in its order. Reads files. Whoever holds the answer keeps the adapters from being evicted.
    ///
    /// # Errors
    /// [`AdapterSourceError`] for the first that has no source, lies outside of `roots`, is no adapter, or finds no room.
    pub fn open(&self, dispatch: &Dispatch, roots: &ModelRoots) -> Result<Vec<AdapterUse>, AdapterSourceError> {
        let asked = dispatch.request.adapters.iter().map(|asked| {
            let source = dispatch.adapters.iter().find(|source| source.id == asked.model);
            let source = source.ok_or_else(|| AdapterSourceError::Missing { id: asked.model.clone() })?;
            Ok(AdapterUse { adapter: self.open_one(source, roots)?, scale: asked.scale })
        });
        asked.collect()
    }

    fn open_one(&self, source: &ModelSource, roots: &ModelRoots) -> Result<Arc<Adapter>, AdapterSourceError> {
        let id = || source.id.clone();
        let refused = |reason: String| AdapterSourceError::Refused { id: id(), reason };
        let key = roots.locate(source).map_err(|error| refused(chain(&error)))?;
        if let Some(resident) = lock(&self.resident).lease(&key) {
            return Ok(resident);
        }
        let _reading = lock(&self.reading);
        // Whoever read before may have read this one.
        if let Some(resident) = lock(&self.resident).lease(&key) {
            return Ok(resident);
        }
        let file = AdapterFile::open(&key.folder).map_err(|error| refused(chain(&error)))?;
        let bytes = self.engine.adapter_footprint(&file);
        match lock(&self.resident).evict_for(bytes, &[]) {
            Room::After(_) => {}
            Room::Wait => return Err(AdapterSourceError::Busy { id: id() }),
            Room::Never => {
                let limit = self.limit_bytes;
                return Err(refused(format!("it takes {bytes} bytes of memory and this replica may hold {limit} of adapters")));
            }
        }
        let adapter = self.engine.load_adapter(&file, key.sha256.as_deref()).map_err(|error| match error {
            EngineError::Internal(reason) => AdapterSourceError::Engine { id: id(), reason },
            EngineError::InvalidRequest(reason) | EngineError::InvalidModel(reason) => refused(reason),
        })?;
        Ok(self.keep(key, source, Arc::new(adapter)))
    }

    fn keep(&self, key: ModelKey, source: &ModelSource, adapter: Arc<Adapter>) -> Arc<Adapter> {
        let (digest, bytes) = (adapter.digest().to_owned(), adapter.bytes());
        tracing::info!(adapter = source.id, bytes, "adapter is in memory");
        lock(&self.resident).insert(key, source.id.clone(), digest, bytes, Arc::clone(&adapter));
        adapter
    }
}

/// What these guard is changed as a whole or not at all.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
