//! The command line, and nothing it leads to.

use std::net::SocketAddr;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use kube::Client;

use crate::{controller, metrics::Metrics, serve};

/// Reconciles Emulsion's custom resources.
///
/// Today it checks every ModelDeployment and reports in its conditions what is invalid, in conflict or missing. It does
/// not yet import weights, start replicas or scale them: a valid model stays "Ready: False, NotImported".
#[derive(Parser, Debug)]
#[command(name = "emulsion-operator", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Watch the cluster and keep the status of every ModelDeployment current.
    Run(RunArguments),
    /// Print the custom resource definitions as YAML, ready for `kubectl apply --server-side -f -`.
    Crds,
}

/// What `run` needs.
#[derive(Args, Debug)]
pub struct RunArguments {
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "EMULSION_OPERATOR_LISTEN", default_value = "0.0.0.0:8081")]
    pub listen: SocketAddr,
    /// Watch this namespace only; all namespaces if absent.
    #[arg(long, env = "EMULSION_OPERATOR_NAMESPACE")]
    pub namespace: Option<String>,
}

/// Runs what the command line asks for until it ends or a signal comes.
///
/// # Errors
/// If the cluster cannot be reached, the address cannot be listened on, or standard output is gone.
pub async fn execute(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Run(arguments) => run(arguments).await,
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
    // The controller ends on a signal, after its running reconciliations; the listener has nothing to finish.
    tokio::select! {
        () = controller::run(client, arguments.namespace.as_deref(), metrics.clone()) => Ok(()),
        served = serve::serve(listener, metrics) => served.context("the listener for health and metrics failed"),
    }
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
