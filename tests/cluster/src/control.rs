//! What the supervisor of our own cluster can be asked for: it ends hosts and programs, cuts and slows links, opens ports.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use crate::Forward;

/// The cluster, as its supervisor describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct State {
    /// Its name.
    pub name: String,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The supervisor's socket.
    pub control: PathBuf,
    /// The cluster's registry, HOST:PORT as image names begin with it.
    pub registry: String,
    /// All hosts; the first is the control plane, the others are nodes.
    pub hosts: Vec<HostState>,
}

/// One host.
#[derive(Clone, Debug, Deserialize)]
pub struct HostState {
    /// `control-plane`, `node-1`, …
    pub name: String,
    /// Its address among the hosts.
    pub address: String,
    /// Its PID 1, as the machine counts; 0 if it is dead.
    pub process: u32,
}

/// A request names what its method is about; the others stay at their defaults.
#[derive(Debug, Default, Serialize)]
struct Request<'a> {
    host: &'a str,
    other: &'a str,
    component: &'a str,
    address: &'a str,
    port: u16,
    file: &'a str,
    command: &'a [&'a str],
    bits_per_second: u64,
}

/// The way to the supervisor.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    async fn call(&self, method: &str, request: Request<'_>) -> anyhow::Result<Value> {
        let asked = format!("{method} {}", serde_json::to_string(&request)?);
        let answer = self.exchange(method, request).await.with_context(|| asked.clone())?;
        match &answer["error"] {
            Value::Null => Ok(answer["result"].clone()),
            error => anyhow::bail!("{asked}: {}", error.as_str().unwrap_or_default()),
        }
    }

    async fn exchange(&self, method: &str, request: Request<'_>) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(&self.socket).await.context("the cluster's supervisor is gone")?;
        let line = json!({"id": 1, "method": format!("Control.{method}"), "params": [request]}).to_string() + "\n";
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        serde_json::from_str(&answer).context("the supervisor's answer is no JSON")
    }

    /// Where everything is now.
    pub async fn state(&self) -> anyhow::Result<State> {
        Ok(serde_json::from_value(self.call("State", Request::default()).await?)?)
    }

    /// Ends all of a host at once, as a power cut does. Its disk stays.
    pub async fn kill_host(&self, host: &str) -> anyhow::Result<()> {
        self.call("KillHost", Request { host, ..Request::default() }).await.map(drop)
    }

    /// Starts a host that was killed.
    pub async fn start_host(&self, host: &str) -> anyhow::Result<()> {
        self.call("StartHost", Request { host, ..Request::default() }).await.map(drop)
    }

    /// Ends a program of a host with SIGKILL; it is started again, as a service manager would.
    pub async fn kill_component(&self, host: &str, component: &str) -> anyhow::Result<()> {
        self.call("KillComponent", Request { host, component, ..Request::default() }).await.map(drop)
    }

    /// Ends a program of a host and leaves it so.
    pub async fn stop_component(&self, host: &str, component: &str) -> anyhow::Result<()> {
        self.call("StopComponent", Request { host, component, ..Request::default() }).await.map(drop)
    }

    /// Starts a program that was stopped.
    pub async fn start_component(&self, host: &str, component: &str) -> anyhow::Result<()> {
        self.call("StartComponent", Request { host, component, ..Request::default() }).await.map(drop)
    }

    /// Cuts two hosts, and their pods, off from each other; all others still reach both. Packets are lost without an answer.
    pub async fn partition(&self, host: &str, other: &str) -> anyhow::Result<()> {
        self.call("Partition", Request { host, other, ..Request::default() }).await.map(drop)
    }

    /// Undoes [`Control::partition`].
    pub async fn heal(&self, host: &str, other: &str) -> anyhow::Result<()> {
        self.call("Heal", Request { host, other, ..Request::default() }).await.map(drop)
    }

    /// Pulls a host's cable.
    pub async fn disconnect(&self, host: &str) -> anyhow::Result<()> {
        self.call("Disconnect", Request { host, ..Request::default() }).await.map(drop)
    }

    /// Plugs it in again.
    pub async fn connect(&self, host: &str) -> anyhow::Result<()> {
        self.call("Connect", Request { host, ..Request::default() }).await.map(drop)
    }

    /// Slows a host's link down to so many bits per second, in both directions; 0 lifts the limit.
    pub async fn limit_rate(&self, host: &str, bits_per_second: u64) -> anyhow::Result<()> {
        self.call("LimitRate", Request { host, bits_per_second, ..Request::default() }).await.map(drop)
    }

    /// Opens a port on this machine's loopback that leads to an address (IP:PORT) as the host sees it: a pod's, a Service's, its own.
    pub async fn forward(&self, host: &str, address: &str) -> anyhow::Result<Forward> {
        let port = self.call("Forward", Request { host, address, ..Request::default() }).await?;
        Ok(Forward::of_supervisor(serde_json::from_value(port)?, self.clone()))
    }

    pub(crate) async fn unforward(&self, port: u16) -> anyhow::Result<()> {
        self.call("Unforward", Request { port, ..Request::default() }).await.map(drop)
    }

    /// Runs a program of this machine inside a host, as root there; returns what it printed.
    pub async fn run(&self, host: &str, command: &[&str]) -> anyhow::Result<String> {
        Ok(serde_json::from_value(self.call("Run", Request { host, command, ..Request::default() }).await?)?)
    }

    /// Adds the metrics API; returns when every node has metrics.
    pub async fn start_metrics(&self) -> anyhow::Result<()> {
        self.call("StartMetrics", Request::default()).await.map(drop)
    }
}
