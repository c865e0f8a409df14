//! `import`: weights from where they are published into the content store.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use egress::{AddressRules, Credentials, IpNet, Url};
use runtime_api::{IMPORT_CONFIG_VARIABLE, IMPORT_SOURCE_VARIABLE, IMPORT_TOKEN_VARIABLE, ImportResult, PROGRESS_PREFIX};
use rusty_s3::Credentials as S3Credentials;

use super::{logging, parent};
use crate::engine::chain;
use crate::import::{ImportError, Kind, Order, Places, RouterAddress, S3Place, SourceUri, import};

/// Characters of a message that a result repeats: a container's last message has 4 kB.
const MESSAGE_LIMIT: usize = 3000;

/// Says that another attempt leads to the same end; the Job of an import is not tried again then.
const PERMANENT_EXIT_CODE: u8 = 3;

/// Bring weights into the content store: fetched from where they are published, checked, and stored through a router.
///
/// Credentials are variables: HF_TOKEN, CIVITAI_TOKEN, for https:// sources SOURCE_TOKEN (sent as bearer token), for s3:// sources
/// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. They go to the source's own host alone.
#[derive(Args)]
pub(super) struct Import {
    /// hf://OWNER/NAME[@REVISION][/FILE], https://…, s3://BUCKET/KEY, s3://BUCKET/FOLDER/, or civitai:VERSION.
    #[arg(long, env = IMPORT_SOURCE_VARIABLE, hide_env_values = true)]
    source: String,
    /// What the weights are.
    #[arg(long, env = "EMULSION_IMPORT_KIND", value_enum, default_value = "checkpoint")]
    kind: Kind,
    /// The digest that they must have.
    #[arg(long, env = "EMULSION_IMPORT_SHA256")]
    sha256: Option<String>,
    /// For a single file: a repository with diffusers' configurations, in place of the built-in ones.
    #[arg(long, env = IMPORT_CONFIG_VARIABLE, hide_env_values = true)]
    config: Option<String>,
    /// Where the router takes this import.
    #[arg(long, env = "EMULSION_IMPORT_ROUTER")]
    router: Url,
    /// Token of this import.
    #[arg(long, env = IMPORT_TOKEN_VARIABLE, hide_env_values = true)]
    token: String,
    /// File for the result, as JSON.
    #[arg(long, env = "EMULSION_IMPORT_RESULT")]
    result: Option<PathBuf>,
    /// Network in which sources may be though it is not public, with any port; may be repeated.
    #[arg(long, env = "EMULSION_IMPORT_ALLOW_NETWORK", value_delimiter = ',', value_name = "CIDR")]
    allow_network: Vec<IpNet>,
    /// Host at which sources may be whatever its addresses and ports are; may be repeated.
    #[arg(long, env = "EMULSION_IMPORT_ALLOW_HOST", value_delimiter = ',', value_name = "NAME")]
    allow_host: Vec<String>,
    /// The hub that hf:// sources are on.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    hf_endpoint: Url,
    /// The site that civitai: sources are on.
    #[arg(long, env = "CIVITAI_ENDPOINT", default_value = "https://civitai.com")]
    civitai_endpoint: Url,
    /// The store that s3:// sources are in, where it is not Amazon's; it has the bucket in the path.
    #[arg(long, env = "AWS_ENDPOINT_URL")]
    aws_endpoint_url: Option<Url>,
    /// The region of the bucket that an s3:// source names.
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1")]
    aws_region: String,
    /// Bytes of all files together.
    #[arg(long, env = "EMULSION_IMPORT_MAX_BYTES", default_value_t = 128 << 30)]
    max_bytes: u64,
    /// Seconds that it may take.
    #[arg(long, env = "EMULSION_IMPORT_DEADLINE_SECONDS", default_value_t = 6 * 3600)]
    deadline_seconds: u64,
    /// End at once when standard input ends.
    #[arg(long, env = "EMULSION_EXIT_WITH_PARENT")]
    exit_with_parent: bool,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // All but the token, and what a URL may hold.
        formatter.debug_struct("Import").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Import {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        logging::start("info");
        if self.exit_with_parent {
            parent::exit_with_it().context("start the thread that watches standard input")?;
        }
        let result = self.result.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start tokio")?;
        let ended = runtime.block_on(async {
            match self.order() {
                Ok(order) => import(&order, &tell).await.map_err(|error| (error.is_permanent(), chain(&error))),
                Err(message) => Err((true, message)),
            }
        });
        let (told, code) = match ended {
            Ok(imported) => (ImportResult::Imported(imported), ExitCode::SUCCESS),
            Err((permanent, message)) => {
                let message: String = message.chars().take(MESSAGE_LIMIT).collect();
                eprintln!("emulsion-runtime: the import failed: {message}");
                let code = if permanent { ExitCode::from(PERMANENT_EXIT_CODE) } else { ExitCode::FAILURE };
                (ImportResult::Failed { message, permanent }, code)
            }
        };
        tell(&serde_json::to_string(&told).context("write the result")?);
        if let Some(path) = result {
            write(&path, &told)?;
        }
        // What still waits for a network must not keep the process.
        runtime.shutdown_background();
        Ok(code)
    }

    fn order(self) -> Result<Order, String> {
        let source = |uri: &str| uri.parse::<SourceUri>().map_err(|error: ImportError| error.to_string());
        let variable = |name: &str| std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let credentials = |name: &str| match variable(name) {
            Some(token) => Credentials::bearer(&token).map(Some).ok_or_else(|| format!("{name} holds what no header can hold")),
            None => Ok(None),
        };
        let credentials_of_bucket =
            || match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"), variable("AWS_SESSION_TOKEN")) {
                (Some(id), Some(secret), Some(token)) => Ok(Some(S3Credentials::new_with_token(id, secret, token))),
                (Some(id), Some(secret), None) => Ok(Some(S3Credentials::new(id, secret))),
                (None, None, None) => Ok(None),
                _ => Err("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together".to_owned()),
            };
        let is_digest = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(wrong) = self.sha256.as_ref().filter(|text| !is_digest(text)) {
            return Err(format!("the sha256 {wrong:?} is not 64 hexadecimal digits"));
        }
        Ok(Order {
            source: source(&self.source)?,
            kind: self.kind,
            sha256: self.sha256.map(|text| text.to_ascii_lowercase()),
            config: self.config.as_deref().map(source).transpose()?,
            max_bytes: self.max_bytes,
            deadline: Duration::from_secs(self.deadline_seconds),
            places: Places {
                hub: self.hf_endpoint,
                hub_credentials: credentials("HF_TOKEN")?,
                civitai: self.civitai_endpoint,
                civitai_credentials: credentials("CIVITAI_TOKEN")?,
                https_credentials: credentials("SOURCE_TOKEN")?,
                s3: S3Place {
                    endpoint: self.aws_endpoint_url,
                    region: self.aws_region,
                    credentials: credentials_of_bucket()?,
                    lifetime: Duration::from_secs(self.deadline_seconds),
                },
            },
            rules: AddressRules { networks: self.allow_network, hosts: self.allow_host, ..AddressRules::default() },
            router: RouterAddress::new(self.router, &self.token).ok_or("the token holds what no header can hold")?,
        })
    }
}

fn tell(progress: &str) {
    let mut stdout = std::io::stdout();
    // Nobody may read it.
    let _ = writeln!(stdout, "{PROGRESS_PREFIX}{progress}").and_then(|()| stdout.flush());
}

/// In place: a container's last message is a file that is there already, in a folder that may be read only.
fn write(path: &Path, result: &ImportResult) -> anyhow::Result<()> {
    let text = serde_json::to_vec(result).context("write the result")?;
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
