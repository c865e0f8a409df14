//! The stores that an administrator has already: a PostgreSQL and an S3 server on the control plane's host, which pods reach by its address.
//! Both end with that host, and what they keep with them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cluster::{Control, Forward, Space};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Where Debian puts PostgreSQL's programs, by version.
const DEBIAN_PROGRAMS: &str = "/usr/lib/postgresql";
const PASSWORD: &str = "known-to-tests";
const ACCESS_KEY_ID: &str = "test-access-key";
const SECRET_ACCESS_KEY: &str = "test-secret-key";
const POSTGRES_PORT: u16 = 5432;
const S3_PORT: u16 = 9000;

/// Starts both; they live on in a file system of that host's own. Arguments: PostgreSQL's programs, the S3 server, PostgreSQL's password, and
/// the two ports.
const START: &str = r#"
set -eu
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/postgres /srv/s3
user=postgres; id "$user" >/dev/null 2>&1 || user=nobody
chown "$user" /srv/postgres
as() { setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups -- "$@"; }
echo "$3" >/srv/postgres/password
cd /srv/postgres
as "$1/initdb" --pgdata data --username emulsion --pwfile password --auth scram-sha-256 --encoding UTF8 --no-sync >log 2>&1 || { cat log >&2; exit 1; }
echo 'host all all all scram-sha-256' >>data/pg_hba.conf
as setsid --fork "$1/postgres" -D data -k /srv/postgres -p "$4" -c listen_addresses='*' -c fsync=off >log 2>&1 </dev/null
AWS_ACCESS_KEY_ID="$6" AWS_SECRET_ACCESS_KEY="$7" setsid --fork "$2" "0.0.0.0:$5" /srv/s3 >/srv/s3.log 2>&1 </dev/null
tries=0
until "$1/pg_isready" --quiet --host 127.0.0.1 --port "$4"; do
  tries=$((tries + 1))
  [ "$tries" -lt 400 ] || { cat log >&2; exit 1; }
  sleep 0.1
done
"#;

/// A database and a bucket of one test.
pub(crate) struct Stores {
    endpoint: String,
    /// The address at which this machine, outside of the cluster, reaches the bucket.
    public: Forward,
    bucket: String,
}

impl Stores {
    /// Makes them, with the Secrets that open them in the test's namespace; `None` where they cannot be had, which is said.
    pub(crate) async fn make(space: &Space) -> anyhow::Result<Option<Self>> {
        let Ok(control) = space.cluster().control() else {
            eprintln!("skipped: another's cluster has no host to run stores on");
            return Ok(None);
        };
        let (Some(postgres), Some(s3_server)) = (postgres_programs(), s3_server()) else {
            eprintln!("skipped: it needs PostgreSQL (Debian: postgresql) and the S3 server that `make build` makes");
            return Ok(None);
        };
        let host = control.state().await?.hosts.into_iter().next().context("the cluster has a control plane")?;
        start_once(control, &host.name, &postgres, &s3_server).await?;
        let name = space.name();
        let psql = postgres.join("psql").to_str().context("its path is UTF-8")?.to_owned();
        let administrator = format!("postgres://emulsion:{PASSWORD}@127.0.0.1:{POSTGRES_PORT}/postgres");
        control.run(&host.name, &[&psql, &administrator, "--quiet", "--command", &format!("create database \"{name}\"")]).await?;
        control.run(&host.name, &["mkdir", &format!("/srv/s3/{name}")]).await?;
        let address = &host.address;
        let url = format!("postgres://emulsion:{PASSWORD}@{address}:{POSTGRES_PORT}/{name}");
        let secret =
            |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        space.apply(&secret("database", json!({"url": url})).to_string()).await?;
        let keys = json!({"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY});
        space.apply(&secret("bucket", keys).to_string()).await?;
        let public = control.forward(&host.name, &format!("{address}:{S3_PORT}")).await?;
        Ok(Some(Self { endpoint: format!("http://{address}:{S3_PORT}"), public, bucket: name.to_owned() }))
    }

    /// The chart's values for `replicas` routers that share them.
    pub(crate) fn values(&self, replicas: u32) -> Value {
        json!({"router": {
            "replicas": replicas,
            "database": {"existingSecret": "database"},
            "outputs": {
                "url": format!("s3://{}/emulsion", self.bucket), "endpoint": self.endpoint, "publicEndpoint": format!("http://{}", self.public.address()),
                "pathStyle": true, "existingSecret": "bucket",
            },
        }})
    }
}

async fn start_once(control: &Control, host: &str, postgres: &Path, s3_server: &Path) -> anyhow::Result<()> {
    static STARTED: OnceCell<Result<(), String>> = OnceCell::const_new();
    let start = async || {
        let text = |path: &Path| path.to_str().context("its path is UTF-8").map(str::to_owned);
        let (postgres, s3_server) = (text(postgres)?, text(s3_server)?);
        let ports = [POSTGRES_PORT.to_string(), S3_PORT.to_string()];
        let arguments = [&postgres, &s3_server, PASSWORD, &ports[0], &ports[1], ACCESS_KEY_ID, SECRET_ACCESS_KEY];
        let command: Vec<&str> = ["sh", "-c", START, "sh"].into_iter().chain(arguments).collect();
        control.run(host, &command).await.map(drop)
    };
    STARTED.get_or_init(async || start().await.map_err(|error| format!("{error:#}"))).await.clone().map_err(anyhow::Error::msg)
}

fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_PROGRAMS).ok()?.flatten().map(|version| version.path().join("bin"));
    versions.filter(|folder| ["initdb", "postgres", "pg_isready", "psql"].iter().all(|program| folder.join(program).is_file())).max()
}

/// `router/examples/s3_server.rs`, which cargo builds beside the router.
fn s3_server() -> Option<PathBuf> {
    let router = PathBuf::from(std::env::var_os("EMULSION_ROUTER")?);
    Some(router.parent()?.join("examples/s3_server")).filter(|program| program.is_file())
}
