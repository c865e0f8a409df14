//! Before the queue: finds what a dispatch names, and brings what was imported to this machine's disk first. All of it off the device thread.

use std::sync::Arc;
use std::time::Instant;

use runtime_api::{ContentSource, Dispatch, Event, Failure, FailureReason, ModelSource, WarmModel};

use super::generation::{Arrival, Generation};
use crate::adapters::AdapterSourceError;
use crate::content::{ContentCache, ContentError, ContentLease, digest_of};
use crate::embeddings::{EmbeddingSourceError, Embeddings};
use crate::engine::{AdapterUse, NamedEmbedding, chain};
use crate::residency::ModelKey;
use crate::source::{ModelRoots, file_uri};

/// Opens the adapters that a dispatch names.
pub(super) type OpenAdapters = dyn Fn(&Dispatch, &ModelRoots) -> Result<Vec<AdapterUse>, AdapterSourceError> + Send + Sync;

/// Finds models, adapters and embeddings; cheap to clone.
#[derive(Clone)]
pub(super) struct Opening {
    roots: ModelRoots,
    content: Option<ContentCache>,
    embeddings: Embeddings,
    adapters: Arc<OpenAdapters>,
}

/// A dispatch with all that it names but the model's weights.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) dispatch: Dispatch,
    pub(super) key: ModelKey,
    /// Of the model that goes on where the first leaves off.
    pub(super) refiner: Option<ModelKey>,
    pub(super) embeddings: Vec<NamedEmbedding>,
    pub(super) adapters: Vec<AdapterUse>,
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Opening").field("roots", &self.roots).field("content", &self.content).finish_non_exhaustive()
    }
}

impl Opening {
    pub(super) fn new(roots: ModelRoots, content: Option<ContentCache>, adapters: Arc<OpenAdapters>) -> Self {
        let roots = match &content {
            Some(content) => roots.with(content.folder()),
            None => roots,
        };
        Self { roots, content, embeddings: Embeddings::default(), adapters }
    }

    /// Brings the content that the dispatch names, and then opens it. `None` if the generation ended here.
    pub(super) async fn bring(&self, mut dispatch: Dispatch, mut arrival: Arrival) -> Option<Box<Generation>> {
        let began = Instant::now();
        let progress = arrival.ending.progress();
        let tell = move |bytes_done, bytes_total| {
            if let Some(progress) = &progress {
                // Whoever listens slowly misses some.
                let _ = progress.try_send(Event::Loading { bytes_done, bytes_total });
            }
        };
        let brought = async {
            let Dispatch { model, refiner, adapters, contents, .. } = &mut dispatch;
            let models = std::iter::once(model).chain(refiner).collect();
            let content = self.localise(models, adapters, contents, &tell).await.map_err(|error| failure(error.reason(), chain(&error)))?;
            let took = began.elapsed();
            Ok((self.open(dispatch).await?, content, took))
        };
        let deadline = arrival.deadline;
        let ended = tokio::select! {
            brought = brought => brought,
            () = arrival.ending.gone() => Err(failure(FailureReason::Cancelled, "the router closed the stream".to_owned())),
            () = tokio::time::sleep_until(deadline.into()) => {
                Err(failure(FailureReason::DeadlineExceeded, "the deadline passed before the model's weights were there".to_owned()))
            }
        };
        match ended {
            Ok((opened, content, took)) => {
                let mut generation = arrival.generation(opened);
                generation.fetched = content.iter().any(|content| content.fetched).then_some(took);
                generation.content = content;
                Some(generation)
            }
            Err(Failure { reason, message }) => {
                arrival.ending.failed(reason, message);
                None
            }
        }
    }

    /// Brings the content of a model that nobody waits for, and finds the model.
    pub(super) async fn open_model(&self, model: WarmModel) -> Result<(ModelKey, Vec<ContentLease>), String> {
        let WarmModel { mut source, contents } = model;
        let content = if contents.is_empty() {
            Vec::new()
        } else {
            self.localise(vec![&mut source], &mut [], &contents, &|_, _| {}).await.map_err(|error| chain(&error))?
        };
        let key = self.locate(source).await.map_err(|failure| failure.message)?;
        Ok((key, content))
    }

    /// Puts the files of this machine in place of what was imported, and answers what keeps them here.
    async fn localise(
        &self,
        models: Vec<&mut ModelSource>,
        adapters: &mut [ModelSource],
        contents: &[ContentSource],
        tell: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Vec<ContentLease>, ContentError> {
        let cache = self.content.as_ref().ok_or(ContentError::NoCache)?;
        let models = models.into_iter().flat_map(uris);
        let named = adapters.iter_mut().map(|adapter| (&mut adapter.uri, Some(&mut adapter.config)));
        let mut leases = Vec::new();
        for (uri, config) in models.chain(named) {
            let Some(digest) = digest_of(uri) else { continue };
            let source = contents.iter().find(|source| source.digest == digest);
            let source = source.ok_or_else(|| ContentError::Missing { digest: digest.to_owned() })?;
            let lease = cache.lease(source, tell).await?;
            *uri = file_uri(&lease.model);
            if let Some(config) = config {
                *config = lease.config.as_deref().map(file_uri);
            }
            leases.push(lease);
        }
        Ok(leases)
    }

    /// Finds everything that the dispatch names, and reads it but for the model's weights.
    ///
    /// # Errors
    /// A [`Failure`] that says what cannot be had.
    pub(super) async fn open(&self, dispatch: Dispatch) -> Result<Opened, Failure> {
        let key = self.locate(dispatch.model.clone()).await?;
        let refiner = match dispatch.refiner.clone() {
            Some(refiner) => Some(self.locate(refiner).await?),
            None => None,
        };
        let (dispatch, embeddings) = self.open_embeddings(dispatch).await?;
        let (dispatch, adapters) = self.open_adapters(dispatch).await?;
        Ok(Opened { dispatch, key, refiner, embeddings, adapters })
    }

    async fn locate(&self, source: ModelSource) -> Result<ModelKey, Failure> {
        let roots = self.roots.clone();
        match tokio::task::spawn_blocking(move || roots.locate(&source)).await {
            Ok(located) => located.map_err(|error| failure(FailureReason::InvalidModel, error.to_string())),
            Err(_) => Err(failure(FailureReason::Internal, "looking for the model panicked".to_owned())),
        }
    }

    /// Hands `dispatch` back with the embeddings that it names.
    async fn open_embeddings(&self, dispatch: Dispatch) -> Result<(Dispatch, Vec<NamedEmbedding>), Failure> {
        if dispatch.request.embeddings.is_empty() {
            return Ok((dispatch, Vec::new()));
        }
        let (embeddings, roots) = (self.embeddings.clone(), self.roots.clone());
        let open = move || {
            let opened = embeddings.open(&dispatch, &roots);
            (dispatch, opened)
        };
        match tokio::task::spawn_blocking(open).await {
            Ok((dispatch, Ok(opened))) => Ok((dispatch, opened)),
            Ok((_, Err(error @ EmbeddingSourceError::Missing { .. }))) => Err(failure(FailureReason::InvalidRequest, error.to_string())),
            Ok((_, Err(error))) => Err(failure(FailureReason::InvalidModel, error.to_string())),
            Err(_) => {
                Err(failure(FailureReason::InvalidModel, "reading the embeddings panicked; their files are not what they claim".to_owned()))
            }
        }
    }

    /// Hands `dispatch` back with the adapters that it names.
    async fn open_adapters(&self, dispatch: Dispatch) -> Result<(Dispatch, Vec<AdapterUse>), Failure> {
        if dispatch.request.adapters.is_empty() {
            return Ok((dispatch, Vec::new()));
        }
        let (open, roots) = (Arc::clone(&self.adapters), self.roots.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let opened = open(&dispatch, &roots);
            (dispatch, opened)
        });
        let Ok((dispatch, opened)) = opened.await else {
            let message = "reading the adapters panicked; their files are not what they claim";
            return Err(failure(FailureReason::InvalidRequest, message.to_owned()));
        };
        let adapters = opened.map_err(|error| {
            let reason = match error {
                AdapterSourceError::Missing { .. } | AdapterSourceError::Refused { .. } => FailureReason::InvalidRequest,
                AdapterSourceError::Busy { .. } => FailureReason::Busy,
                AdapterSourceError::Engine { .. } => FailureReason::Internal,
            };
            failure(reason, error.to_string())
        })?;
        Ok((dispatch, adapters))
    }
}

/// Everything that a model is made of, each with its configuration where it may have one.
fn uris(model: &mut ModelSource) -> impl Iterator<Item = (&mut String, Option<&mut Option<String>>)> {
    let ModelSource { uri, config, vae, adapters, .. } = model;
    let own = std::iter::once((uri, Some(config)));
    let replaced = vae.iter_mut().map(|vae| (&mut vae.uri, None));
    own.chain(replaced).chain(adapters.iter_mut().map(|adapter| (&mut adapter.uri, None)))
}

pub(super) fn failure(reason: FailureReason, message: String) -> Failure {
    Failure { reason, message }
}
