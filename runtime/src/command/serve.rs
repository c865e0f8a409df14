//! `serve`: the replica behind HTTP, until it is asked to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use diffusion::gpu;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::compute::ComputeArguments;
use super::{logging, parent};
use crate::content::ContentCache;
use crate::http::{Token, app};
use crate::machine;
use crate::request;
use crate::safety::SafetyChecker;
use crate::source::ModelRoots;
use crate::worker::{Limits, Replica, Stopped};

/// Serve generations to a router over HTTP.
///
/// The first line on standard output is `emulsion-runtime listening on ADDRESS`. SIGTERM and SIGINT drain: nothing new is taken, what was
/// taken is finished, within --drain-seconds.
#[derive(Args)]
pub struct Serve {
    /// Address to listen on; port 0 lets the system choose one.
    #[arg(long, env = "EMULSION_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Folder below which models may lie; may be given more than once.
    #[arg(long = "model-root", env = "EMULSION_MODEL_ROOTS", value_delimiter = ',', required_unless_present = "content_cache")]
    model_roots: Vec<PathBuf>,
    /// Folder for imported models, which several replicas of a machine may share; without it, requests for them are refused.
    #[arg(long, env = "EMULSION_CONTENT_CACHE", value_name = "FOLDER")]
    content_cache: Option<PathBuf>,
    /// Bytes of imported models that may be in it; the least recently used go first.
    #[arg(long, env = "EMULSION_CONTENT_CACHE_BYTES", default_value_t = 64 << 30, value_name = "BYTES")]
    content_cache_bytes: u64,
    /// File with the safety checker's weights, as `make safety-checker` makes it; without it, requests for checked images are refused.
    #[arg(long, env = "EMULSION_SAFETY_CHECKER")]
    safety_checker: Option<PathBuf>,
    /// Token that routers send as `Authorization: Bearer`.
    #[arg(long, env = runtime_api::TOKEN_VARIABLE, hide_env_values = true)]
    token: Option<String>,
    /// Let everybody in without a token; only on a loopback address.
    #[arg(long, env = "EMULSION_INSECURE")]
    insecure: bool,
    /// End at once when standard input ends: whoever started the process holds the other end of it and is gone then.
    #[arg(long, env = "EMULSION_EXIT_WITH_PARENT")]
    exit_with_parent: bool,
    #[command(flatten)]
    compute: ComputeArguments,
    /// Generations that may wait; more are refused as busy.
    #[arg(long, env = "EMULSION_QUEUE_LIMIT", default_value_t = Limits::default().queue_limit)]
    queue_limit: u32,
    /// Bytes of weights that may be in memory; the least recently used models go first. Where nothing is said: 60 % of the memory there is, a GPU's or
    /// this process's, and on a processor no more than 16 GiB.
    #[arg(long, env = "EMULSION_RESIDENT_BYTES_LIMIT")]
    resident_bytes_limit: Option<u64>,
    /// Bytes of memory that what is computed may take besides the weights; an image that would take more is refused. Where nothing is said: 30 % of
    /// the memory there is.
    #[arg(long, env = "EMULSION_COMPUTING_BYTES_LIMIT")]
    computing_bytes_limit: Option<u64>,
    /// Bytes of adapters that may be in memory besides the weights; the least recently used go first.
    #[arg(long, env = "EMULSION_ADAPTER_BYTES_LIMIT", default_value_t = Limits::default().adapter_bytes)]
    adapter_bytes_limit: u64,
    /// Images that are made at the same time.
    #[arg(long, env = "EMULSION_MAX_IMAGES", default_value_t = Limits::default().max_images)]
    max_images: u32,
    /// Rows of one denoiser call; an image brings one, or two with guidance.
    #[arg(long, env = "EMULSION_MAX_ROWS", default_value_t = Limits::default().max_rows)]
    max_rows: u32,
    /// Width × height of the largest image.
    #[arg(long, env = "EMULSION_MAX_PIXELS", default_value_t = Limits::default().request.max_pixels)]
    max_pixels: u32,
    /// Most images of one request.
    #[arg(long, env = "EMULSION_MAX_SAMPLES", default_value_t = Limits::default().request.max_samples)]
    max_samples: u32,
    /// Most steps of one image.
    #[arg(long, env = "EMULSION_MAX_STEPS", default_value_t = Limits::default().request.max_steps)]
    max_steps: u32,
    /// Seconds that draining may take before what is left is given up.
    #[arg(long, env = "EMULSION_DRAIN_SECONDS", default_value_t = 120)]
    drain_seconds: u64,
}

impl std::fmt::Debug for Serve {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // All but the token.
        formatter.debug_struct("Serve").field("listen", &self.listen).field("model_roots", &self.model_roots).finish_non_exhaustive()
    }
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        logging::start("info");
        if self.exit_with_parent {
            parent::exit_with_it().context("start the thread that watches standard input")?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start tokio")?;
        let code = runtime.block_on(self.serve());
        // What was given up at the drain's end, a slow upload or a hanging disk, must not keep the process.
        runtime.shutdown_background();
        code
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let token = self.checked_token()?;
        let roots = ModelRoots::resolve(&self.model_roots)?;
        let engine = self.compute.engine()?;
        let of_gpu = gpu::memory_bytes(engine.device());
        tracing::info!(device = ?engine.device().location(), gpu_memory_bytes = of_gpu, "computing");
        let safety_checker = self.safety_checker.as_deref().map(SafetyChecker::open).transpose()?;
        let content = self.content_cache.as_deref().map(|folder| ContentCache::open(folder, self.content_cache_bytes)).transpose()?;
        let (replica, stopped) =
            Replica::start(engine, roots, content, safety_checker, self.limits(of_gpu)?, &tokio::runtime::Handle::current())?;
        let replica = Arc::new(replica);
        let listener = TcpListener::bind(self.listen).await.with_context(|| format!("listen on {}", self.listen))?;
        let address = listener.local_addr().context("read the address")?;
        let (close, closing) = oneshot::channel::<()>();
        let server = axum::serve(listener, app(Arc::clone(&replica), token)).with_graceful_shutdown(async move {
            // A sender that is gone closes as well.
            let _ = closing.await;
        });
        let server = tokio::spawn(server.into_future());
        // Whoever reads the address may ask to stop at once.
        let asked_to_stop = asked_to_stop()?;
        announce(address)?;

        let code = tokio::select! {
            () = asked_to_stop => {
                drain(&replica, Duration::from_secs(self.drain_seconds), close, server).await;
                ExitCode::SUCCESS
            }
            reason = stopped => {
                bail!("the device thread ended ({:?}); start the replica anew", reason.unwrap_or(Stopped::Broken));
            }
        };
        Ok(code)
    }

    fn checked_token(&self) -> anyhow::Result<Option<Token>> {
        match self.token.as_deref() {
            Some("") => bail!("the token is empty; set {} to one of high entropy", runtime_api::TOKEN_VARIABLE),
            Some(token) => Ok(Some(Token::new(token))),
            None if self.insecure && self.listen.ip().is_loopback() => Ok(None),
            None if self.insecure => bail!("--insecure works only on a loopback address; set {}", runtime_api::TOKEN_VARIABLE),
            None => bail!("no token; set {} (or --insecure on a loopback address)", runtime_api::TOKEN_VARIABLE),
        }
    }

    fn limits(&self, gpu_memory_bytes: Option<u64>) -> anyhow::Result<Limits> {
        for (flag, value) in [("--queue-limit", self.queue_limit), ("--max-images", self.max_images), ("--max-rows", self.max_rows)] {
            if value == 0 || value > MAX_COUNT {
                bail!("{flag} is {value}; it must be from 1 to {MAX_COUNT}");
            }
        }
        let (resident_bytes, computing_bytes) = shares(gpu_memory_bytes, machine::memory_bytes());
        Ok(Limits {
            queue_limit: self.queue_limit,
            resident_bytes: self.resident_bytes_limit.unwrap_or(resident_bytes),
            computing_bytes: self.computing_bytes_limit.unwrap_or(computing_bytes),
            adapter_bytes: self.adapter_bytes_limit,
            max_images: self.max_images,
            max_rows: self.max_rows,
            request: request::Limits { max_pixels: self.max_pixels, max_samples: self.max_samples, max_steps: self.max_steps },
            ..Limits::default()
        })
    }
}

/// Hundredths of the memory there is that weights may take, and what is computed. The rest is for adapters, pictures and the program.
const PERCENT_OF_WEIGHTS: u64 = 60;
const PERCENT_OF_COMPUTING: u64 = 30;

/// Bytes of weights and of what is computed where nobody says, from the memory of the GPU, if one computes, and of the machine.
fn shares(gpu: Option<u64>, machine: Option<u64>) -> (u64, u64) {
    let usual = Limits::default();
    let percent = |bytes: u64, share: u64| bytes / 100 * share;
    match (gpu, machine) {
        (Some(gpu), _) => (percent(gpu, PERCENT_OF_WEIGHTS), percent(gpu, PERCENT_OF_COMPUTING)),
        (None, Some(machine)) => (percent(machine, PERCENT_OF_WEIGHTS).min(usual.resident_bytes), percent(machine, PERCENT_OF_COMPUTING)),
        (None, None) => (usual.resident_bytes, usual.computing_bytes),
    }
}

/// The largest count that any flag may set; far more than any device serves.
const MAX_COUNT: u32 = 1 << 16;

fn announce(address: SocketAddr) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}{address}", runtime_api::LISTENING_PREFIX)
        .and_then(|()| stdout.flush())
        .context("say the address on standard output")
}

/// Ends when the process is asked to stop. The signals are caught from the call on, not from the first poll.
fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Finishes what was taken, then closes the streams; gives up after `bound`.
async fn drain(replica: &Replica, bound: Duration, close: oneshot::Sender<()>, server: tokio::task::JoinHandle<std::io::Result<()>>) {
    tracing::info!(seconds = bound.as_secs(), "draining");
    let finished = async {
        replica.drain().await;
        drop(close);
        // The last events are on their way to those who listen.
        let _ = server.await;
    };
    match tokio::time::timeout(bound, finished).await {
        Ok(()) => tracing::info!("drained"),
        Err(_) => tracing::warn!("draining took too long; what is left is given up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_what_is_computed_share_the_memory_there_is() {
        let gibibyte = 1 << 30;
        let in_gibibytes = |(weights, computing): (u64, u64)| (weights as f64 / gibibyte as f64, computing as f64 / gibibyte as f64);
        for (gpu, machine, expected) in [
            (Some(80 * gibibyte), Some(gibibyte), (48.0, 24.0)),
            (None, Some(10 * gibibyte), (6.0, 3.0)),
            (None, Some(100 * gibibyte), (16.0, 30.0)),
            (None, None, (16.0, 8.0)),
        ] {
            let (weights, computing) = in_gibibytes(shares(gpu, machine));
            assert!((weights - expected.0).abs() < 1e-6 && (computing - expected.1).abs() < 1e-6, "{weights} {computing}");
        }
    }
}
