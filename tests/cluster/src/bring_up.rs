//! One cluster for all tests of a binary. It is tied to this process: when the process ends, however it ends, the supervisor's
//! standard input ends, and it takes the cluster down.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::{OnceCell, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{Control, Image, Needs, State};

/// The program that is the cluster, its clients and its driver.
const PROGRAM: &str = "EMULSION_CLUSTER";
/// What our own cluster is called, for who wants to bring it down.
const NAME: &str = "EMULSION_CLUSTER_NAME";
/// Another's cluster, to be used instead of our own.
const KUBECONFIG: &str = "EMULSION_TEST_KUBECONFIG";
/// How that cluster takes an image archive: a command, to which the archive's path is added.
const IMAGE_IMPORT: &str = "EMULSION_TEST_IMAGE_IMPORT";
/// What the cluster's own program waits at most, and as much again.
const BRING_UP_TIMEOUT: Duration = Duration::from_secs(360);

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) image_import: Option<OsString>,
    own: Option<Own>,
    turns: std::sync::Arc<RwLock<()>>,
}

#[derive(Debug)]
struct Own {
    state: State,
    control: Control,
    // Both live as long as the process: the end of the pipe is what ends the cluster.
    _supervisor: Child,
    _leash: ChildStdin,
}

/// Held while a test runs.
#[derive(Debug)]
pub(crate) enum Turn {
    #[expect(dead_code, reason = "a guard is held, not read")]
    BesideOthers(OwnedRwLockReadGuard<()>),
    #[expect(dead_code, reason = "a guard is held, not read")]
    Alone(OwnedRwLockWriteGuard<()>),
}

/// The cluster of this process; none where nothing says how to get one. A failure is told to every test that asks.
pub(crate) async fn shared() -> anyhow::Result<Option<&'static Cluster>> {
    static SHARED: OnceCell<Result<Option<Cluster>, String>> = OnceCell::const_new();
    let brought = SHARED.get_or_init(async || bring_up().await.map_err(|error| format!("{error:#}"))).await;
    brought.as_ref().map(Option::as_ref).map_err(|error| anyhow::anyhow!("{error}"))
}

async fn bring_up() -> anyhow::Result<Option<Cluster>> {
    let Some(program) = std::env::var_os(PROGRAM).map(PathBuf::from) else { return Ok(None) };
    let image_import = std::env::var_os(IMAGE_IMPORT);
    let turns = std::sync::Arc::default();
    if let Some(kubeconfig) = std::env::var_os(KUBECONFIG).map(PathBuf::from) {
        let cluster = Cluster { program, kubeconfig, image_import, own: None, turns };
        if cluster.lacks(Needs::Pods).is_none() {
            cluster.import_first_image().await?;
        }
        return Ok(Some(cluster));
    }
    let starting = tokio::task::spawn_blocking({
        let program = program.clone();
        move || Own::start(&program)
    });
    let own = tokio::time::timeout(BRING_UP_TIMEOUT, starting).await.context("the cluster takes too long")???;
    Ok(Some(Cluster { kubeconfig: own.state.kubeconfig.clone(), program, image_import: None, own: Some(own), turns }))
}

impl Own {
    fn start(program: &Path) -> anyhow::Result<Self> {
        let name = std::env::var(NAME).unwrap_or_else(|_| format!("test-{}", std::process::id()));
        let mut supervisor = Command::new(program)
            .args(["supervise", "--name", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        let leash = supervisor.stdin.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(supervisor.stdout.take().expect("it is piped")).read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the cluster did not come up: its messages are above");
        let state: State = serde_json::from_str(&line).with_context(|| format!("the supervisor said {line:?}"))?;
        Ok(Self { control: Control::new(state.control.clone()), state, _supervisor: supervisor, _leash: leash })
    }
}

impl Cluster {
    /// The names of its nodes, where it is our own.
    pub fn nodes(&self) -> Vec<String> {
        let hosts = self.own.iter().flat_map(|own| own.state.hosts.iter().skip(1));
        hosts.map(|host| host.name.clone()).collect()
    }

    /// The way to its supervisor.
    ///
    /// # Errors
    /// If it is another's cluster: a test that breaks hosts asks for [`Needs::Hosts`].
    pub fn control(&self) -> anyhow::Result<&Control> {
        self.own.as_ref().map(|own| &own.control).context("another's cluster has no hosts for us to break")
    }

    /// The registry that its nodes pull from, HOST:PORT.
    ///
    /// # Errors
    /// If it is another's cluster.
    pub fn registry(&self) -> anyhow::Result<&str> {
        self.own.as_ref().map(|own| own.state.registry.as_str()).context("another's cluster has a registry of its own")
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.own.as_ref().map(|own| own.state.name.as_str())
    }

    /// What keeps a test from running here, as a sentence.
    pub(crate) fn lacks(&self, needs: Needs) -> Option<String> {
        if self.own.is_some() || needs == Needs::Api || (needs == Needs::Pods && self.image_import.is_some()) {
            return None;
        }
        Some(match needs {
            Needs::Hosts => format!("{KUBECONFIG} names another's cluster, whose hosts are not ours to break"),
            _ => format!("set {IMAGE_IMPORT} to the command that gives an image archive to the nodes of {KUBECONFIG}"),
        })
    }

    pub(crate) async fn take_turn(&self, needs: Needs) -> Turn {
        let turns = self.turns.clone();
        match needs {
            Needs::Hosts => Turn::Alone(turns.write_owned().await),
            _ => Turn::BesideOthers(turns.read_owned().await),
        }
    }

    /// The program of `cmd/cluster-pod`, for images with files.
    pub fn pod_program(&self) -> PathBuf {
        self.program.with_file_name("cluster-pod")
    }

    async fn import_first_image(&self) -> anyhow::Result<()> {
        self.import(&Image { name: crate::space::POD_IMAGE.to_owned(), program: self.pod_program(), files: Vec::new() }).await
    }
}
