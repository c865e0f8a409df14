//! One import as a child process: how it is started, and how it tells how far it is and how it ended.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crds::ImportId;
use crds::import::ImportSource;
use crds::model_deployment::ModelKind;
use ipnet::IpNet;
use runtime_api::{IMPORT_CONFIG_VARIABLE, IMPORT_SOURCE_VARIABLE, IMPORT_TOKEN_VARIABLE, ImportResult, PROGRESS_PREFIX};
use tokio::io::{AsyncRead, BufReader};
use tokio::process::Command;

use super::key;
use crate::replicas::{SECRET_VARIABLES, next_line};

/// Bytes of a result that are read.
const RESULT_LIMIT_BYTES: u64 = 64 * 1024;

/// What all imports have in common.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// The `emulsion-runtime` to run.
    pub(super) program: PathBuf,
    /// The router's internal address.
    pub(super) router_url: String,
    pub(super) installation_token: String,
    /// Inside networks and hosts that sources may be in.
    pub(super) allow_networks: Vec<IpNet>,
    pub(super) allow_hosts: Vec<String>,
}

/// Runs one import to its end. `tell` is told how far it is.
pub(super) async fn run(
    surroundings: &Surroundings,
    source: &ImportSource,
    credentials: Vec<(String, String)>,
    result: &Path,
    tell: impl FnMut(String),
) -> ImportResult {
    // What an earlier one left must not be taken for this one's.
    let _ = tokio::fs::remove_file(result).await;
    let ended = match start(surroundings, source, credentials, result) {
        Ok(child) => follow(child, tell).await,
        Err(error) => Err(format!("{} cannot be run: {error}; --runtime names another path", surroundings.program.display())),
    };
    match (read_result(result).await, ended) {
        (Some(result), _) => result,
        (None, Ok(status)) => failed(format!("the import ended without a result ({status}); the router's log has its messages")),
        (None, Err(message)) => failed(message),
    }
}

fn failed(message: String) -> ImportResult {
    ImportResult::Failed { message, permanent: false }
}

fn start(
    surroundings: &Surroundings,
    source: &ImportSource,
    credentials: Vec<(String, String)>,
    result: &Path,
) -> std::io::Result<tokio::process::Child> {
    let import = ImportId { namespace: "local".to_owned(), name: "source".to_owned(), uid: key(source).text(), generation: 0 };
    let mut command = Command::new(&surroundings.program);
    for variable in SECRET_VARIABLES {
        command.env_remove(variable);
    }
    command.args(["import", "--exit-with-parent", "--kind", kind(source.kind)]);
    command.args(["--router", &import.url(&surroundings.router_url)]).arg("--result").arg(result);
    command.args(source.sha256.iter().flat_map(|sha256| ["--sha256", sha256]));
    for network in &surroundings.allow_networks {
        command.args(["--allow-network", &network.to_string()]);
    }
    for host in &surroundings.allow_hosts {
        command.args(["--allow-host", host]);
    }
    command
        .envs(credentials)
        // Everybody on the machine sees command lines, and a URL may hold a secret.
        .env(IMPORT_SOURCE_VARIABLE, &source.uri)
        .envs(source.config.iter().map(|config| (IMPORT_CONFIG_VARIABLE, config)))
        .env(IMPORT_TOKEN_VARIABLE, import.token(&surroundings.installation_token))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// As the runtime's command line spells it.
fn kind(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Checkpoint => "checkpoint",
        ModelKind::Lora => "lora",
        ModelKind::Controlnet => "controlnet",
        ModelKind::Vae => "vae",
        ModelKind::Embedding => "embedding",
        ModelKind::Upscaler => "upscaler",
    }
}

async fn follow(mut child: tokio::process::Child, mut tell: impl FnMut(String)) -> Result<String, String> {
    // Held until the end: the process ends when its standard input does.
    let _stdin = child.stdin.take();
    let pid = child.id().unwrap_or_default();
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(log_lines(stderr, pid));
    }
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        while let Ok(Some(line)) = next_line(&mut lines).await {
            if let Some(progress) = line.strip_prefix(PROGRESS_PREFIX) {
                tracing::debug!(target: "emulsion_runtime", "[import {pid}] {progress}");
                tell(progress.trim().to_owned());
            }
        }
    }
    child.wait().await.map(|status| status.to_string()).map_err(|error| error.to_string())
}

async fn log_lines(stderr: impl AsyncRead + Unpin, pid: u32) {
    let mut stderr = BufReader::new(stderr);
    while let Ok(Some(line)) = next_line(&mut stderr).await {
        tracing::info!(target: "emulsion_runtime", "[import {pid}] {line}");
    }
}

async fn read_result(path: &Path) -> Option<ImportResult> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    if metadata.len() > RESULT_LIMIT_BYTES {
        return None;
    }
    let bytes = tokio::fs::read(path).await.ok()?;
    let _ = tokio::fs::remove_file(path).await;
    serde_json::from_slice(&bytes).ok()
}
