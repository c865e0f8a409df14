//! The command line: what each subcommand takes, and how it is run.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use crds::Timespan;
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use crate::accounts::ApiKey;
use crate::inputs::AddressRules;
use crate::s3::S3Options;
use crate::store::postgres::DatabaseUrl;
use crate::{check, cluster, local};

/// Serves image requests to tenants and dispatches them to replicas that it starts on demand.
#[derive(Debug, Parser)]
#[command(name = "emulsion-router", version, about)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Local(Box<Local>),
    Serve(Box<Serve>),
    /// Ask a router whether it is ready; the exit status is the answer.
    Check {
        /// Its address, such as http://emulsion-router.emulsion.svc.
        #[arg(long, value_parser = public_url)]
        url: String,
    },
    /// Make and manage API keys.
    #[command(subcommand)]
    Key(Key),
}

/// Serve the models declared in a folder of manifests, without a cluster.
///
/// Replicas are processes that start with the first request for their models and end when idle. Everything it keeps lies in one folder.
#[derive(Debug, Args)]
pub struct Local {
    /// Address to listen on; port 0 lets the system choose one.
    #[arg(long, env = "EMULSION_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub folders: Folders,
    #[command(flatten)]
    pub s3: S3Options,
    #[command(flatten)]
    pub calls: Calls,
    /// How long a replica may be without work before it ends; absent, each pool and model says so itself.
    #[arg(long, env = "EMULSION_REPLICA_IDLE_AFTER", value_parser = duration)]
    pub replica_idle_after: Option<Duration>,
    /// The emulsion-runtime to start as replicas; absent, the one beside this executable.
    #[arg(long, env = "EMULSION_RUNTIME")]
    pub runtime: Option<PathBuf>,
    /// File with the safety checker's weights, as `make safety-checker` makes it; without it, calls for checked images are refused.
    #[arg(long, env = "EMULSION_SAFETY_CHECKER")]
    pub safety_checker: Option<PathBuf>,
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub imports: Imports,
    #[command(flatten)]
    pub content: ContentOptions,
}

/// How imported weights are kept.
#[derive(Clone, Debug, Args)]
pub struct ContentOptions {
    /// How long imported weights are kept that no model names any more: one that comes back until then needs no import.
    #[arg(long, env = "EMULSION_CONTENT_RETENTION", default_value = "168h", value_parser = duration)]
    pub content_retention: Duration,
}

/// How weights that are elsewhere come in.
#[derive(Clone, Debug, Args)]
pub struct Imports {
    /// Network from which weights are imported though it is not public, with any port, such as 10.1.0.0/16; may be repeated.
    #[arg(long, env = "EMULSION_IMPORT_ALLOW_NETWORK", value_delimiter = ',', value_name = "CIDR")]
    pub import_allow_network: Vec<IpNet>,
    /// Host from which weights are imported whatever its addresses and ports are; may be repeated.
    #[arg(long, env = "EMULSION_IMPORT_ALLOW_HOST", value_delimiter = ',', value_name = "NAME")]
    pub import_allow_host: Vec<String>,
    /// Folder of the Secrets that sources name: in it a folder for each, with a file for each key; absent, `secrets` in the data folder.
    #[arg(long, env = "EMULSION_SECRETS", value_name = "FOLDER")]
    pub secrets: Option<PathBuf>,
    /// Bytes of imported weights that replicas keep ready on disk beside the content store; the least recently used go first.
    #[arg(long, env = "EMULSION_CONTENT_CACHE_BYTES", default_value_t = 64 << 30, value_name = "BYTES")]
    pub content_cache_bytes: u64,
}

/// Serve the models that a cluster declares, by the replicas that run in it.
///
/// It runs in a pod. The operator starts and stops replicas by the demand that it asks this router for; the cluster is read and never written.
#[derive(Args)]
pub struct Serve {
    /// Address to listen on for calls.
    #[arg(long, env = "EMULSION_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Address to listen on for the operator.
    #[arg(long, env = "EMULSION_INTERNAL_LISTEN", default_value_t = SocketAddr::from(([0, 0, 0, 0], crds::replica::ROUTER_INTERNAL_PORT)))]
    pub internal_listen: SocketAddr,
    #[command(flatten)]
    pub storage: Storage,
    #[command(flatten)]
    pub s3: S3Options,
    /// Namespace of the installation: its RuntimePools are there.
    #[arg(long, env = "EMULSION_NAMESPACE")]
    pub namespace: String,
    /// The only namespace whose ModelDeployments are served; absent, those of all namespaces are.
    #[arg(long, env = "EMULSION_WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Address at which replicas reach this router to bring images, such as http://emulsion-router.emulsion.svc.
    #[arg(long, env = "EMULSION_STORE_URL", value_parser = public_url)]
    pub store_url: String,
    /// The installation's token, from which those for replicas and for the operator are made.
    #[arg(long, env = "EMULSION_INSTALLATION_TOKEN", hide_env_values = true, value_parser = installation_token)]
    pub installation_token: String,
    /// Replicas have the safety checker's weights; without it, calls for checked images are refused.
    #[arg(long, env = "EMULSION_HAS_SAFETY_CHECKER")]
    pub has_safety_checker: bool,
    #[command(flatten)]
    pub calls: Calls,
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub content: ContentOptions,
}

impl std::fmt::Debug for Serve {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // All but the token.
        formatter.debug_struct("Serve").field("listen", &self.listen).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// How calls are answered.
#[derive(Clone, Debug, Args)]
pub struct Calls {
    /// Address that callers reach, such as https://images.example.com; absent, it is taken from each call's Host header.
    #[arg(long, env = "EMULSION_PUBLIC_URL", value_parser = public_url)]
    pub public_url: Option<String>,
    /// How long a synchronous call waits for its images before it is answered "processing".
    #[arg(long, env = "EMULSION_SYNC_WAIT", default_value = "60s", value_parser = duration)]
    pub sync_wait: Duration,
    /// How long a fetch waits for its images before it is answered "processing".
    #[arg(long, env = "EMULSION_FETCH_WAIT", default_value = "25s", value_parser = duration)]
    pub fetch_wait: Duration,
    /// How long a call's body may take to arrive.
    #[arg(long, env = "EMULSION_BODY_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub body_timeout: Duration,
    /// How long a request may wait for its turn and its replica.
    #[arg(long, env = "EMULSION_HOLD_DEADLINE", default_value = "5m", value_parser = duration)]
    pub hold_deadline: Duration,
    /// How long calls are still taken after being asked to stop, so that load balancers have time to learn that this router goes.
    #[arg(long, env = "EMULSION_SHUTDOWN_DELAY", default_value = "0s", value_parser = duration)]
    pub shutdown_delay: Duration,
    /// How long stopping waits for requests that are being worked on; those that remain are kept for the next start.
    #[arg(long, env = "EMULSION_DRAIN", default_value = "10s", value_parser = duration)]
    pub drain: Duration,
}

/// Where pictures of calls may come from, and how long they are kept.
#[derive(Clone, Debug, Args)]
pub struct Inputs {
    /// Network from which pictures are fetched though it is not public, with any port, such as 10.1.0.0/16; may be repeated.
    #[arg(long, env = "EMULSION_INPUT_ALLOW_NETWORK", value_delimiter = ',', value_name = "CIDR")]
    pub input_allow_network: Vec<IpNet>,
    /// Host from which pictures are fetched whatever its addresses and ports are; may be repeated.
    #[arg(long, env = "EMULSION_INPUT_ALLOW_HOST", value_delimiter = ',', value_name = "NAME")]
    pub input_allow_host: Vec<String>,
    /// Ports of public addresses from which pictures are fetched.
    #[arg(long, env = "EMULSION_INPUT_ALLOW_PORT", value_delimiter = ',', default_value = "80,443", value_name = "PORT")]
    pub input_allow_port: Vec<u16>,
    /// How long a picture is kept after the last request that uses it has ended.
    #[arg(long, env = "EMULSION_INPUT_RETENTION", default_value = "1h", value_parser = duration)]
    pub input_retention: Duration,
}

impl Inputs {
    pub fn address_rules(&self) -> AddressRules {
        AddressRules {
            networks: self.input_allow_network.clone(),
            hosts: self.input_allow_host.clone(),
            ports: self.input_allow_port.clone(),
        }
    }
}

/// Where accounts, journal and images are kept.
#[derive(Clone, Debug, Args)]
pub struct Storage {
    /// Folder for accounts, journal and images; made if missing.
    #[arg(long, env = "EMULSION_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// PostgreSQL for accounts and journal, postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, which several routers may share;
    /// absent, they are in a SQLite file in the data folder.
    #[arg(long, env = "EMULSION_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<DatabaseUrl>,
}

/// Where things lie.
#[derive(Clone, Debug, Args)]
pub struct Folders {
    #[command(flatten)]
    pub storage: Storage,
    /// Folder of manifests: every .yaml and .yml file below it.
    #[arg(long, env = "EMULSION_MANIFESTS", default_value = "models")]
    pub manifests: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Key {
    Create(KeyCreate),
}

/// Make an API key and print it, alone, on standard output. It is valid at once and shown only now.
///
/// The tenant is made if there is none of that name; otherwise it gets the plan named here.
#[derive(Debug, Args)]
pub struct KeyCreate {
    /// Name of the tenant.
    #[arg(long, value_parser = tenant_name)]
    pub tenant: String,
    /// Name of a TenantPlan.
    #[arg(long)]
    pub plan: String,
    /// Look for the plan in the cluster that this runs in, not among manifests; set in the pods of routers.
    #[arg(long, env = "EMULSION_FROM_CLUSTER")]
    pub from_cluster: bool,
    #[command(flatten)]
    pub folders: Folders,
}

impl CommandLine {
    /// Runs what was asked for.
    pub fn run(self) -> anyhow::Result<()> {
        log_to_standard_error();
        let runtime = tokio::runtime::Runtime::new()?;
        let print = |key: ApiKey| println!("{}", key.expose());
        let result: anyhow::Result<()> = match self.command {
            Command::Local(options) => runtime.block_on(local::serve(*options)).map_err(Into::into),
            Command::Serve(options) => runtime.block_on(cluster::serve(*options)).map_err(Into::into),
            Command::Check { url } => runtime.block_on(check::check(&url)).map_err(Into::into),
            Command::Key(Key::Create(options)) if options.from_cluster => {
                runtime.block_on(cluster::create_key(&options)).map(print).map_err(Into::into)
            }
            Command::Key(Key::Create(options)) => runtime.block_on(local::create_key(&options)).map(print).map_err(Into::into),
        };
        // A call that hangs in a blocking read must not keep the process.
        runtime.shutdown_background();
        result
    }
}

/// Standard output belongs to what a command prints for its caller.
fn log_to_standard_error() {
    let filter = EnvFilter::try_from_env("EMULSION_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second subscriber, as in tests, is no reason to fail.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// As manifests spell spans of time; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let spelled = if text.bytes().all(|byte| byte.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() };
    spelled.parse::<Timespan>().map(Timespan::as_duration).map_err(|error| error.to_string())
}

fn public_url(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let has_host = ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|host| !host.is_empty()));
    if has_host && url.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(url.to_owned())
    } else {
        Err("an address such as https://images.example.com is needed".to_owned())
    }
}

fn installation_token(text: &str) -> Result<String, String> {
    const LEAST_CHARACTERS: usize = 32;
    if text.trim().len() >= LEAST_CHARACTERS {
        Ok(text.trim().to_owned())
    } else {
        Err(format!("a random text of at least {LEAST_CHARACTERS} characters is needed"))
    }
}

fn tenant_name(text: &str) -> Result<String, String> {
    const LIMIT_CHARACTERS: usize = 128;
    let is_named = !text.trim().is_empty() && text.chars().count() <= LIMIT_CHARACTERS && !text.chars().any(char::is_control);
    if is_named { Ok(text.to_owned()) } else { Err(format!("a name of 1 to {LIMIT_CHARACTERS} characters is needed")) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_option_has_a_variable() {
        let mut command = CommandLine::command();
        command.build();
        command.clone().debug_assert();
        for name in ["local", "serve"] {
            let serving = command.find_subcommand(name).unwrap();
            for argument in serving.get_arguments().filter(|argument| argument.get_id() != "help") {
                let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
                assert!(variable.is_some_and(|name| name.starts_with("EMULSION_")), "{argument}");
            }
        }
    }

    #[test]
    fn spans_of_time_are_read_with_and_without_unit() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err());
        assert!(duration("").is_err());
    }

    #[test]
    fn public_addresses_lose_their_trailing_slash() {
        assert_eq!(public_url("https://example.com/"), Ok("https://example.com".to_owned()));
        assert!(public_url("example.com").is_err());
        assert!(public_url("http://").is_err());
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused() {
        assert!(installation_token("secret").is_err());
        assert_eq!(installation_token(&format!("{}\n", "x".repeat(32))), Ok("x".repeat(32)));
    }

    #[test]
    fn tenants_have_printable_names() {
        assert!(tenant_name("acme").is_ok());
        assert!(tenant_name(" ").is_err() && tenant_name("a\nb").is_err() && tenant_name(&"x".repeat(129)).is_err());
    }
}
