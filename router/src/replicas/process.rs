//! One replica's process: how it is started, and how it tells that it listens. It knows no sets.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use runtime_api::{LISTENING_PREFIX, TOKEN_VARIABLE};
use tokio::io::BufReader;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::bounded_lines::next_line;
use super::{ChildSettings, ContentCache, Endpoint, ReplicaError};
use crate::s3;

/// What the router's environment may hold and no child may: replicas and imports parse weights that strangers made.
pub(crate) const SECRET_VARIABLES: [&str; 5] =
    ["EMULSION_DATABASE_URL", "EMULSION_INSTALLATION_TOKEN", s3::ACCESS_KEY_ID, s3::SECRET_ACCESS_KEY, s3::SESSION_TOKEN];
/// From the start of the process until it must have said where it listens.
const LISTEN_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process may take to end by itself before it is killed.
const END_GRACE: Duration = Duration::from_secs(5);

/// A running replica. Dropping it kills the process; so does the end of this router, however it ends, because the process watches the
/// other end of `stdin`.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(super) endpoint: Endpoint,
}

impl Process {
    /// Starts `program` and waits until it listens. `name` stands before its lines in the log.
    pub(super) async fn start(
        ChildSettings { program, token, safety_checker, content_cache, .. }: &ChildSettings,
        model_roots: &[PathBuf],
        name: &str,
    ) -> Result<Self, ReplicaError> {
        let mut command = Command::new(program);
        for variable in SECRET_VARIABLES {
            command.env_remove(variable);
        }
        let mut child = command
            .args(arguments(model_roots, safety_checker.as_deref(), content_cache.as_ref()))
            .env(TOKEN_VARIABLE, token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal reaches the router alone, which then ends its replicas in its own order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| start_error(format!("{} cannot be run: {error}; --runtime names another path", program.display())))?;
        let stdin = child.stdin.take();
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(log_lines(stderr, name.to_owned()));
        }
        let Some(stdout) = child.stdout.take() else { return Err(start_error("it has no standard output".to_owned())) };
        let mut stdout = BufReader::new(stdout);
        let address = match timeout(LISTEN_DEADLINE, listening_address(&mut stdout)).await {
            Ok(Ok(address)) => address,
            Ok(Err(reason)) => return Err(start_error(with_exit(&mut child, reason).await)),
            Err(_) => return Err(start_error(format!("it did not listen within {} s", LISTEN_DEADLINE.as_secs()))),
        };
        tokio::spawn(drain(stdout, name.to_owned()));
        let endpoint = Endpoint { base_url: format!("http://{address}"), token: token.clone() };
        Ok(Self { child, stdin, endpoint })
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the process ends by itself, and says how.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Ends the process: first by closing its standard input, then by force.
    pub(super) async fn end(mut self) {
        drop(self.stdin.take());
        if timeout(END_GRACE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn arguments(model_roots: &[PathBuf], safety_checker: Option<&Path>, content_cache: Option<&ContentCache>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["serve", "--listen", "127.0.0.1:0", "--exit-with-parent"].map(OsString::from).into();
    if let Some(ContentCache { folder, limit_bytes }) = content_cache {
        arguments.push("--content-cache".into());
        arguments.push(folder.into());
        arguments.push("--content-cache-bytes".into());
        arguments.push(limit_bytes.to_string().into());
    }
    for root in model_roots {
        arguments.push("--model-root".into());
        arguments.push(root.into());
    }
    if let Some(weights) = safety_checker {
        arguments.push("--safety-checker".into());
        arguments.push(weights.into());
    }
    arguments
}

fn start_error(reason: String) -> ReplicaError {
    ReplicaError::Start { reason }
}

async fn with_exit(child: &mut Child, reason: String) -> String {
    match timeout(Duration::from_secs(1), child.wait()).await {
        Ok(Ok(status)) => format!("{reason} ({status}); its own messages stand above"),
        _ => reason,
    }
}

async fn listening_address(stdout: &mut BufReader<ChildStdout>) -> Result<String, String> {
    let line = next_line(stdout).await.map_err(|error| format!("its output cannot be read: {error}"))?;
    let line = line.ok_or("it ended before it listened")?;
    let address = line.strip_prefix(LISTENING_PREFIX).map(str::trim);
    match address.and_then(|address| address.parse::<std::net::SocketAddr>().ok()) {
        Some(address) => Ok(address.to_string()),
        None => Err(format!("its first line is not \"{LISTENING_PREFIX}ADDRESS\" but {line:?}")),
    }
}

async fn log_lines(stderr: ChildStderr, name: String) {
    let mut stderr = BufReader::new(stderr);
    while let Ok(Some(line)) = next_line(&mut stderr).await {
        tracing::info!(target: "emulsion_runtime", "[{name}] {line}");
    }
}

/// Reads on, so that the process never blocks on a full pipe.
async fn drain(mut stdout: BufReader<ChildStdout>, name: String) {
    while let Ok(Some(line)) = next_line(&mut stdout).await {
        tracing::debug!(target: "emulsion_runtime", "[{name}] {line}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("replica");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn settings(program: PathBuf) -> ChildSettings {
        ChildSettings { program, token: "secret".to_owned(), safety_checker: None, content_cache: None, idle_after: None }
    }

    async fn start(text: &str) -> Result<Process, ReplicaError> {
        let folder = tempfile::tempdir().unwrap();
        Process::start(&settings(script(folder.path(), text)), &[PathBuf::from("/models")], "test").await
    }

    #[tokio::test]
    async fn a_process_is_ready_once_it_says_where_it_listens() {
        // It ends when its standard input does.
        let process = start("echo 'emulsion-runtime listening on 127.0.0.1:4321'; cat >/dev/null").await.unwrap();
        assert_eq!(process.endpoint.base_url, "http://127.0.0.1:4321");
        process.end().await;
    }

    #[tokio::test]
    async fn a_process_that_ends_or_talks_nonsense_is_a_failed_start() {
        let Err(ReplicaError::Start { reason }) = start("exit 3").await else { panic!("started") };
        assert!(reason.contains("ended before") && reason.contains("exit status: 3"), "{reason}");
        let Err(ReplicaError::Start { reason }) = start("echo hello; sleep 60").await else { panic!("started") };
        assert!(reason.contains("hello"), "{reason}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_tells_the_way_out() {
        let started = Process::start(&settings(PathBuf::from("/nowhere")), &[], "test").await;
        let Err(ReplicaError::Start { reason }) = started else { panic!("started") };
        assert!(reason.contains("--runtime"), "{reason}");
    }

    #[tokio::test]
    async fn the_token_comes_by_the_environment_and_the_rest_by_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().join("told");
        let text = format!("echo \"$@ $EMULSION_REPLICA_TOKEN\" > {}; exit 1", told.display());
        let mut settings = settings(script(folder.path(), &text));
        let mut expected = "serve --listen 127.0.0.1:0 --exit-with-parent --model-root /models".to_owned();
        for weights in [None, Some(PathBuf::from("/nsfw.safetensors"))] {
            expected += if weights.is_some() { " --safety-checker /nsfw.safetensors" } else { "" };
            settings.safety_checker = weights;
            let _ = Process::start(&settings, &[PathBuf::from("/models")], "test").await;
            assert_eq!(std::fs::read_to_string(&told).unwrap().trim(), format!("{expected} secret"));
        }
    }
}
