//! Ports of this machine's loopback that lead into the cluster.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::Control;

/// How long one HTTP call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is read of an answer, in bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// An open port; it closes when this is dropped.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    kept_by: KeptBy,
}

#[derive(Debug)]
enum KeptBy {
    Supervisor(Control),
    Task(JoinHandle<()>),
}

impl Forward {
    pub(crate) fn of_supervisor(port: u16, control: Control) -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)), kept_by: KeptBy::Supervisor(control) }
    }

    /// Through the API server and the kubelet, as `kubectl port-forward` does.
    pub(crate) async fn to_pod(pods: Api<Pod>, pod: String, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((mut outside, _)) = listener.accept().await {
                let (pods, pod) = (pods.clone(), pod.clone());
                tokio::spawn(async move {
                    // A connection that cannot be made is closed: the caller sees what a real one would show.
                    let Ok(mut forwarder) = pods.portforward(&pod, &[port]).await else { return };
                    let Some(mut inside) = forwarder.take_stream(port) else { return };
                    let _ = copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Ok(Self { address, kept_by: KeptBy::Task(task) })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One HTTP call without a body. Returns the status and the body of the answer.
    pub async fn call(&self, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: cluster\r\n\r\n").as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, exchange).await.with_context(|| format!("{method} {path}: no answer"))??;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{method} {path}: no HTTP in {answer:?}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(|| format!("no status in {head:?}"))?;
        Ok((status, body.to_owned()))
    }

    /// The body of an answer with status 200.
    pub async fn get(&self, path: &str) -> anyhow::Result<String> {
        let (status, body) = self.call("GET", path).await?;
        anyhow::ensure!(status == 200, "GET {path}: {status} {body}");
        Ok(body)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        match &self.kept_by {
            KeptBy::Task(task) => task.abort(),
            KeptBy::Supervisor(control) => {
                let (control, port) = (control.clone(), self.address.port());
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    // If the supervisor is gone, so is the port.
                    runtime.spawn(async move { control.unforward(port).await.ok() });
                }
            }
        }
    }
}
