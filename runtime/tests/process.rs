//! The real executable: how it starts, stops and refuses.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than any start or stop takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn executable() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emulsion-runtime"));
    // Nothing of the surroundings may decide a test.
    command.env_clear();
    command
}

/// A running `serve`, ended with the test.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(models: &Path, arguments: &[&str]) -> Self {
        let mut command = executable();
        command.args(["serve", "--insecure", "--model-root"]).arg(models).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix(runtime_api::LISTENING_PREFIX).unwrap_or_else(|| panic!("it says {line:?}")).trim().to_owned();
        Self { child, address }
    }

    fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str]) -> Output {
    executable().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn terminated_replica_drains_and_succeeds() {
    let models = tempfile::tempdir().unwrap();
    let mut served = Served::start(models.path(), &[]);
    std::net::TcpStream::connect(&served.address).unwrap();
    let killed = Command::new("kill").args(["-TERM", &served.child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert!(served.ends().success());
    assert!(std::net::TcpStream::connect(&served.address).is_err());
}

#[test]
fn replica_ends_with_its_parents_pipe_only_when_told_to() {
    let models = tempfile::tempdir().unwrap();
    let mut independent = Served::start(models.path(), &[]);
    drop(independent.child.stdin.take());
    let mut dependent = Served::start(models.path(), &["--exit-with-parent"]);
    std::net::TcpStream::connect(&dependent.address).unwrap();
    drop(dependent.child.stdin.take());
    dependent.ends();
    assert!(independent.child.try_wait().unwrap().is_none());
}

#[test]
fn replica_without_a_token_does_not_start() {
    let models = tempfile::tempdir().unwrap();
    let root = models.path().to_str().unwrap();
    let none = run(&["serve", "--model-root", root]);
    assert!(!none.status.success() && said(&none).contains(runtime_api::TOKEN_VARIABLE), "{none:?}");
    let open = run(&["serve", "--model-root", root, "--insecure", "--listen", "0.0.0.0:0"]);
    assert!(!open.status.success() && said(&open).contains("loopback"), "{open:?}");
}

#[test]
fn token_is_read_from_the_environment_and_never_shown() {
    let models = tempfile::tempdir().unwrap();
    let mut command = executable();
    command.env(runtime_api::TOKEN_VARIABLE, "hidden-token").args(["serve", "--help"]);
    let help = command.output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("hidden-token"));

    let mut command = executable();
    command.env(runtime_api::TOKEN_VARIABLE, "hidden-token").args(["serve", "--exit-with-parent", "--model-root"]).arg(models.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(line.starts_with(runtime_api::LISTENING_PREFIX) && !log.contains("hidden-token"), "{line} {log}");
}

#[test]
fn model_root_that_is_not_there_is_named() {
    let output = run(&["serve", "--insecure", "--model-root", "/nowhere/at/all"]);
    assert!(!output.status.success() && said(&output).contains("/nowhere/at/all"), "{output:?}");
}

#[test]
fn folder_that_is_no_model_does_not_pass_inspection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let text = run(&["inspect", "--model", path]);
    assert_eq!(text.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&text.stdout).contains("would not load"));
    let json = run(&["inspect", "--json", "--model", path]);
    assert_eq!(json.status.code(), Some(1));
    let inspection: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(inspection["problems"].as_array().is_some_and(|problems| !problems.is_empty()), "{inspection}");
}

#[test]
fn command_line_errors_end_with_a_message_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let generate = run(&["generate", "--model", &path(""), "--prompt", "x", "--output", &path("x.png")]);
    std::fs::write(path("request.json"), r#"{"prompt": "x", "task": "image_to_image"}"#).unwrap();
    let trace = run(&["trace", "--model", &path(""), "--request", &path("request.json"), "--output", &path("x.safetensors")]);
    for output in [generate, trace] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said(&output).starts_with("emulsion-runtime: "), "{output:?}");
    }
    assert!(!Path::new(&path("x.png")).exists() && !Path::new(&path("x.safetensors")).exists());
}
