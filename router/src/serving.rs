//! What local mode and the cluster share: the house put together of its parts, served, and taken down in order. Where objects and replicas
//! come from is the caller's business.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::catalog::Catalog;
use crate::command::{Calls, ContentOptions, Inputs, Storage};
use crate::content::{Collected, Content};
use crate::dispatch::{DispatchSettings, Dispatcher};
use crate::edge;
use crate::inputs::Fetcher;
use crate::metrics::Metrics;
use crate::object_stores::{ObjectStoreError, ObjectStores};
use crate::outputs::Secret;
use crate::replicas::Replicas;
use crate::s3::S3Options;
use crate::service::{Service, Settings};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};

/// Answers that are being written when the router stops may take this long.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// Between two looks for content that is not in use.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the data folder {path} cannot be made: {source}; --data-dir names another")]
    DataFolder { path: String, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Objects(#[from] ObjectStoreError),
    #[error("{address} cannot be listened on: {source}; {option} names another address")]
    Listen { address: SocketAddr, source: io::Error, option: &'static str },
    #[error("serving failed: {0}")]
    Serve(#[source] io::Error),
    #[error("the client for replicas cannot be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// Everything that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) objects: ObjectStores,
}

impl Kept {
    pub(crate) async fn open(storage: &Storage, s3: &S3Options) -> Result<Self, ServeError> {
        let store = open_store(storage).await?;
        let secret = Secret::from_bytes(store.shared_secret().await?);
        let objects = ObjectStores::open(&storage.data_dir, s3, secret).await?;
        Ok(Self { store, objects })
    }
}

pub(crate) async fn open_store(Storage { data_dir, database_url }: &Storage) -> Result<Arc<dyn Store>, ServeError> {
    std::fs::create_dir_all(data_dir).map_err(|source| ServeError::DataFolder { path: data_dir.display().to_string(), source })?;
    Ok(match database_url {
        Some(url) => Arc::new(PostgresStore::open(url).await?),
        None => Arc::new(SqliteStore::open(&data_dir.join("emulsion.sqlite")).await?),
    })
}

/// The parts of a house.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) kept: Kept,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) replicas: Arc<dyn Replicas>,
    pub(crate) metrics: Arc<Metrics>,
    /// The address at which replicas reach the stores of outputs and inputs.
    pub(crate) store_base: String,
    /// Whether replicas can check images.
    pub(crate) has_safety_checker: bool,
    pub(crate) calls: Calls,
    pub(crate) input_options: Inputs,
    pub(crate) content_options: ContentOptions,
}

/// A house that may serve.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) service: Service,
    kept: Kept,
    replicas: Arc<dyn Replicas>,
    shutdown_delay: Duration,
    drain: Duration,
    input_retention: Duration,
    content_retention: Duration,
    catalog: Arc<dyn Catalog>,
}

/// Gives back the space of content that no model names, for as long as it is polled.
async fn keep_content(content: Content, catalog: Arc<dyn Catalog>, retention: Duration) {
    let mut rounds = tokio::time::interval(COLLECTION_INTERVAL);
    loop {
        rounds.tick().await;
        let Some(used) = catalog.current().used_content() else {
            tracing::warn!("no content is removed while an object cannot be read: nobody knows what it names");
            continue;
        };
        match content.collect(&used, retention, SystemTime::now()).await {
            Ok(collected) if collected == Collected::default() => {}
            Ok(Collected { discarded, restored, removed }) => tracing::info!(discarded, restored, removed, "content was looked through"),
            Err(error) => tracing::error!("content that is not in use was not removed: {error}"),
        }
    }
}

impl House {
    pub(crate) async fn build(parts: Parts) -> Result<Self, ServeError> {
        let Parts { kept, catalog, replicas, metrics, store_base, has_safety_checker, calls, input_options, content_options } = parts;
        let dispatcher = Dispatcher::new(
            DispatchSettings { hold_deadline: calls.hold_deadline, store_base, content: kept.objects.content.links().clone() },
            Arc::clone(&kept.store),
            Arc::clone(&kept.objects.outputs),
            Arc::clone(&kept.objects.inputs),
            Arc::clone(&replicas),
            Arc::clone(&catalog),
            metrics,
        )?;
        let settings = Settings {
            public_url: calls.public_url,
            sync_wait: calls.sync_wait,
            fetch_wait: calls.fetch_wait,
            body_timeout: calls.body_timeout,
            has_safety_checker,
            ..Settings::default()
        };
        let service = Service::new(settings, dispatcher, Fetcher::new(input_options.address_rules()));
        service.announce().await?;
        let Calls { shutdown_delay, drain, .. } = calls;
        let (input_retention, content_retention) = (input_options.input_retention, content_options.content_retention);
        Ok(Self { service, kept, replicas, shutdown_delay, drain, input_retention, content_retention, catalog })
    }

    /// Serves until the signal comes; a second one ends what is not finished.
    pub(crate) async fn serve(self, listener: TcpListener, mut stop: StopSignals) -> Result<(), ServeError> {
        let Self { service, kept, replicas, shutdown_delay, drain, input_retention, content_retention, catalog } = self;
        tokio::spawn(service.clone().keep_alive());
        tokio::spawn(service.clone().keep_inputs(input_retention));
        tokio::spawn(service.clone().keep_retention());
        tokio::spawn(service.clone().keep_models_warm());
        tokio::spawn(keep_content(kept.objects.content.clone(), catalog, content_retention));
        let (close, closing) = oneshot::channel::<()>();
        let app = edge::router(service.clone(), kept.objects.routes);
        let server = axum::serve(listener, app).with_graceful_shutdown(async move {
            // A sender that is gone closes as well.
            let _ = closing.await;
        });
        let mut server = tokio::spawn(server.into_future());
        tokio::select! {
            ended = &mut server => return Err(ServeError::Serve(ended.map_or_else(io::Error::other, |ended| ended.err().unwrap_or_else(|| io::Error::other("it ended"))))),
            () = stop.wait() => {}
        }
        tracing::info!("stopping");
        // The server stays until the work has ended: replicas bring their images here.
        let stopping = async {
            service.leave();
            tokio::time::sleep(shutdown_delay).await;
            service.shut_down(drain).await;
        };
        tokio::select! {
            () = stopping => {}
            () = stop.wait() => service.shut_down(Duration::ZERO).await,
        }
        drop(close);
        replicas.stop_all().await;
        let _ = tokio::time::timeout(CLOSE_LIMIT, server).await;
        Ok(())
    }
}

pub(crate) async fn listen(address: SocketAddr, option: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source, option })
}

/// SIGTERM and SIGINT, caught from the beginning.
#[derive(Debug)]
pub(crate) struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    pub(crate) fn listen() -> Result<Self, ServeError> {
        let listen = |kind| signal(kind).map_err(ServeError::Serve);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
