//! The command line, and nothing it leads to.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};

use crate::{context::Settings, controller, leader::Leadership, metrics::Metrics, requests, serve, workload::SafetyChecker};

/// Reconciles Emulsion's custom resources: starts, scales and stops replicas of RuntimePools and dedicated ModelDeployments, and tells in
/// the conditions of each object how it stands.
#[derive(Parser, Debug)]
#[command(name = "emulsion-operator", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Watch the cluster and bring it to what its objects ask for. Of several that run, one works and the others stand by.
    Run(Box<RunArguments>),
    /// Print the custom resource definitions as YAML, ready for `kubectl apply --server-side -f -`.
    Crds,
}

/// What `run` needs.
#[derive(Args)]
pub struct RunArguments {
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "EMULSION_OPERATOR_LISTEN", default_value = "0.0.0.0:8081")]
    pub listen: SocketAddr,
    /// The installation's namespace: its routers, its RuntimePools and the lease are there.
    #[arg(long, env = "EMULSION_NAMESPACE")]
    pub namespace: String,
    /// Serve the ModelDeployments of this namespace only; of all namespaces if absent.
    #[arg(long, env = "EMULSION_WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// The installation's token, from which those for replicas and routers are made.
    #[arg(long, env = "EMULSION_INSTALLATION_TOKEN", hide_env_values = true)]
    pub installation_token: String,
    /// The runtime's image.
    #[arg(long, env = "EMULSION_RUNTIME_IMAGE")]
    pub runtime_image: String,
    /// The runtime's image for replicas that ask for nvidia.com/gpu; absent, the same.
    #[arg(long, env = "EMULSION_RUNTIME_GPU_IMAGE")]
    pub runtime_gpu_image: Option<String>,
    /// File with the safety checker's weights: a path in the runtime's image, or with --safety-checker-claim in that volume; absent, replicas
    /// check no images.
    #[arg(long, env = "EMULSION_SAFETY_CHECKER", value_name = "FILE")]
    pub safety_checker: Option<String>,
    /// PersistentVolumeClaim that holds that file, in the namespace of each set of replicas.
    #[arg(long, env = "EMULSION_SAFETY_CHECKER_CLAIM", value_name = "NAME", requires = "safety_checker")]
    pub safety_checker_claim: Option<String>,
    /// Namespace of the monitoring that scrapes replicas, which their network policies let in.
    #[arg(long, env = "EMULSION_MONITORING_NAMESPACE", value_name = "NAMESPACE")]
    pub monitoring_namespace: Option<String>,
    /// The routers' internal address, which imports reach, such as http://emulsion-router-internal.emulsion.svc:8081.
    #[arg(long, env = "EMULSION_ROUTER_INTERNAL_URL")]
    pub router_internal_url: String,
    /// Network from which weights are imported though it is not public, with any port, such as 10.1.0.0/16; may be repeated.
    #[arg(long, env = "EMULSION_IMPORT_ALLOW_NETWORK", value_delimiter = ',', value_name = "CIDR")]
    pub import_allow_network: Vec<String>,
    /// Host from which weights are imported whatever its addresses and ports are; may be repeated.
    #[arg(long, env = "EMULSION_IMPORT_ALLOW_HOST", value_delimiter = ',', value_name = "NAME")]
    pub import_allow_host: Vec<String>,
    /// The Lease that tells which operator works.
    #[arg(long, env = "EMULSION_LEASE", default_value = "emulsion-operator")]
    pub lease: String,
    /// This process among those that ask for the lease, such as the pod's name.
    #[arg(long, env = "EMULSION_POD_NAME")]
    pub pod_name: String,
}

impl std::fmt::Debug for RunArguments {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // All but the token.
        formatter.debug_struct("RunArguments").field("listen", &self.listen).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Runs what the command line asks for until it ends or a signal comes.
///
/// # Errors
/// If the cluster cannot be reached, the address cannot be listened on, or standard output is gone.
pub async fn execute(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Run(arguments) => run(*arguments).await,
        Command::Crds => print_definitions(&mut std::io::stdout().lock()),
    }
}

async fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no cluster: neither a service account nor a kubeconfig was found; set KUBECONFIG or run inside a cluster")?;
    let listener = tokio::net::TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}: choose another address with --listen", arguments.listen))?;
    let metrics = Metrics::new()?;
    let client = requests::counted(client, &metrics);
    let mut stop = std::pin::pin!(asked_to_stop()?);
    let mut leadership = Leadership::new(client.clone(), &arguments.namespace, &arguments.lease, arguments.pod_name);
    let settings = Settings {
        namespace: arguments.namespace,
        watched: arguments.watch_namespace,
        installation_token: arguments.installation_token,
        runtime_image: arguments.runtime_image,
        runtime_gpu_image: arguments.runtime_gpu_image,
        monitoring_namespace: arguments.monitoring_namespace,
        safety_checker: arguments.safety_checker.map(|file| SafetyChecker { file, claim: arguments.safety_checker_claim }),
        router_url: arguments.router_internal_url,
        import_allow_networks: arguments.import_allow_network,
        import_allow_hosts: arguments.import_allow_host,
    };
    let mut served = std::pin::pin!(serve::serve(listener, metrics.clone()));
    tokio::select! {
        served = &mut served => return served.context("the listener for health and metrics failed"),
        () = &mut stop => return Ok(()),
        () = leadership.acquire(|| metrics.set_ready()) => metrics.leading.set(1),
    }
    let result = tokio::select! {
        served = &mut served => served.context("the listener for health and metrics failed"),
        () = &mut stop => Ok(()),
        () = controller::run(client, settings, metrics) => bail!("the controllers ended"),
        // What is under way is given up with the process: another works from here on.
        () = leadership.keep() => bail!("the lease is lost"),
    };
    // Every step of a reconciliation may be the last one: the next operator begins it anew.
    leadership.release().await;
    result
}

/// Ends when the process is asked to stop. The signals are caught from the call on.
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

fn print_definitions(output: &mut impl std::io::Write) -> anyhow::Result<()> {
    for definition in crds::definitions() {
        writeln!(output, "---\n{}", serde_yaml::to_string(definition)?.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn printed_definitions_are_three_documents() {
        let mut output = Vec::new();
        print_definitions(&mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        assert_eq!(text.matches("kind: CustomResourceDefinition").count(), 3);
        assert_eq!(text.lines().filter(|line| *line == "---").count(), 3);
    }
}
