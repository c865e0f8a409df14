//! A PostgreSQL for tests: one throw-away server for the test binary, on a socket in a temporary folder, and a database for each test.
//! `EMULSION_TEST_POSTGRES_URL` names another server to use instead; its user must be allowed to make databases.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use sqlx::{Connection, PgConnection};

const SERVER_URL: &str = "EMULSION_TEST_POSTGRES_URL";
/// Where Debian puts the server's programs, by version.
const DEBIAN_PROGRAMS: &str = "/usr/lib/postgresql";
/// The server refuses to run as root. Debian's package makes the first of these users; the second is always there.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Runs the server until standard input ends, which it does with the test process however that ends; then leaves nothing behind.
/// Arguments: the programs' folder, the server's folder.
const SUPERVISE: &str = r#"
set -eu
trap 'rm -rf "$2"' EXIT
"$1/initdb" --pgdata "$2/data" --username emulsion --auth trust --encoding UTF8 --no-sync >"$2/log" 2>&1 || { cat "$2/log" >&2; exit 1; }
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c max_connections=400 >"$2/log" 2>&1 </dev/null &
until "$1/pg_isready" --quiet --host "$2"; do
  kill -0 $! 2>/dev/null || { cat "$2/log" >&2; exit 1; }
  sleep 0.05
done
echo ready
read -r _ || true
kill -INT $!
wait $! || true
"#;

struct Server {
    url: String,
    /// Lives as long as the process: its end of the pipe is what ends the server.
    _supervisor: Option<Mutex<Child>>,
}

/// The URL of a new, empty database; none where no server can be had, which is said.
pub(super) async fn database() -> Option<String> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(start).as_ref();
    let Some(server) = server else {
        eprintln!("skipped: it needs PostgreSQL (Debian: postgresql), or {SERVER_URL}");
        return None;
    };
    let name = format!("emulsion_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&server.url).await.expect("the test server answers");
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await.expect("a database can be made");
    let mut url = url::Url::parse(&server.url).expect("it was parsed before");
    url.set_path(&name);
    Some(url.into())
}

/// Ends every other connection to a database, as a server that starts again does.
pub(super) async fn cut_connections(database: &str) {
    let mut connection = PgConnection::connect(database).await.expect("the test server answers");
    let cut: Vec<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    )
    .fetch_all(&mut connection)
    .await
    .expect("a user may end its own connections");
    assert!(cut.contains(&true), "there was no connection");
}

fn start() -> Option<Server> {
    if let Ok(url) = std::env::var(SERVER_URL) {
        return Some(Server { url, _supervisor: None });
    }
    let programs = programs()?;
    let folder = tempfile::Builder::new().prefix("emulsion-postgres-").tempdir().expect("a temporary folder").keep();
    let mut supervise = as_server_user(&folder);
    supervise.args(["sh", "-c", SUPERVISE, "sh"]).arg(&programs).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut supervisor = supervise.spawn().expect("a shell starts");
    let mut said = String::new();
    BufReader::new(supervisor.stdout.take().expect("it is piped")).read_line(&mut said).expect("the shell can be read");
    assert_eq!(said.trim(), "ready", "PostgreSQL does not start; its messages are above");
    let host: String = url::form_urlencoded::byte_serialize(folder.to_str().expect("it is UTF-8").as_bytes()).collect();
    Some(Server { url: format!("postgres://emulsion@{host}/postgres"), _supervisor: Some(Mutex::new(supervisor)) })
}

/// The folder with `initdb` and `postgres`: of the newest version that Debian installed, or in the path.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_PROGRAMS).into_iter().flatten().flatten().map(|version| version.path().join("bin"));
    let in_path = std::env::split_paths(&std::env::var_os("PATH")?).collect::<Vec<_>>();
    let whole = |folder: &PathBuf| ["initdb", "postgres", "pg_isready"].iter().all(|program| folder.join(program).is_file());
    versions.chain(in_path).filter(whole).max()
}

/// A command that runs as a user whom the server accepts, who owns `folder`.
fn as_server_user(folder: &Path) -> Command {
    use std::os::unix::fs::{MetadataExt, chown};
    let mut command = Command::new("env");
    if std::fs::metadata(folder).expect("it was just made").uid() != 0 {
        return command;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("it is readable");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut numbers = line.split(':').skip(2).map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    let (user, group) = USERS.into_iter().find_map(find).expect("there is a user without rights");
    chown(folder, Some(user), Some(group)).expect("root may");
    command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned(), "--".to_owned()]);
    command
}
