//! What a cluster took of the machine is given back, however it ended: twenty clusters in a row, and of most of them something is
//! killed first. In a binary of its own, so that no other cluster has touched the machine before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How many times in a row a cluster is brought up and down.
const ROUNDS: usize = 20;
/// How long what was killed may take to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// What is killed before a cluster is brought down: what its command line holds, or nothing.
const VICTIMS: [Option<&str>; 7] = [
    None,
    Some(" supervise "),
    Some("/node-1/host.json"),
    Some("/control-plane/host.json"),
    Some("kubelet --config="),
    Some("/usr/bin/containerd --config"),
    Some("containerd-shim"),
];

/// Settings of the machine that change by themselves.
const RESTLESS: [&str; 12] = [
    "fs/aio-nr",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/quota",
    "kernel/ns_last_pid",
    "kernel/perf_event",
    "kernel/pty/nr",
    "kernel/random",
    "net/netfilter/nf_conntrack_count",
    "vm/stat_refresh",
];

/// What of one cluster the machine can still show.
#[derive(Debug, Default, PartialEq, Eq)]
struct Traces {
    processes: BTreeMap<u32, String>,
    mounts: BTreeSet<String>,
    control_groups: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Traces {
    fn of(name: &str) -> Self {
        Self { processes: processes(name), mounts: mounts(name), control_groups: control_groups(name), files: files(name) }
    }
}

/// Those in the cluster's control groups, and those that its name was given to.
fn processes(name: &str) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()) else { continue };
        let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let command = read("cmdline").replace('\0', " ");
        if command.contains(name) || read("cgroup").contains(&format!("/emulsion-cluster/{name}/")) {
            found.insert(pid, command);
        }
    }
    found
}

fn mounts(name: &str) -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts can be read");
    // A network namespace that is kept without a process is a mount of this kind.
    mounts.lines().filter(|line| line.contains(name) || line.contains(" nsfs ")).map(str::to_owned).collect()
}

fn control_groups(name: &str) -> BTreeSet<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts can be read");
    let roots = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    roots.map(|root| Path::new(root).join("emulsion-cluster").join(name)).filter(|group| group.exists()).collect()
}

fn files(name: &str) -> BTreeSet<PathBuf> {
    let cache = std::env::var_os("EMULSION_CACHE")
        .map_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/emulsion"), PathBuf::from);
    let Ok(runs) = fs::read_dir(cache.join("cluster/runs")) else { return BTreeSet::new() };
    runs.flatten().map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(name)).collect()
}

/// Every setting of the machine that can be read and keeps still.
fn settings() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::from("/proc/sys")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.path().strip_prefix("/proc/sys").expect("it is below").to_string_lossy().into_owned();
            if RESTLESS.iter().any(|restless| name.starts_with(restless)) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else if let Ok(value) = fs::read_to_string(entry.path()) {
                found.insert(name, value);
            }
        }
    }
    found
}

fn links() -> BTreeSet<String> {
    fs::read_dir("/sys/class/net")
        .expect("links are listed")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Runs a command of the driver to its end.
fn driver(program: &str, command: &str, name: &str) {
    let status = Command::new(program).args([command, "--name", name]).stdin(Stdio::null()).status().expect("the program starts");
    assert!(status.success(), "{command} of {name} failed: {status}");
}

fn kill(victim: &str, of: &Traces) {
    let (pid, command) =
        of.processes.iter().find(|(_, command)| command.contains(victim)).unwrap_or_else(|| panic!("no {victim:?} in {of:#?}"));
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill starts");
    assert!(status.success(), "{command:?} (process {pid}) cannot be killed");
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when a tree of processes that is not ours has ended: it is looked for, with a deadline"
)]
fn wait_until_gone(name: &str, what: &str, gone: impl Fn() -> bool) {
    let started = Instant::now();
    while !gone() {
        assert!(started.elapsed() < GONE_TIMEOUT, "{what}: still there after {GONE_TIMEOUT:?}: {:#?}", Traces::of(name));
        std::thread::sleep(POLL_PERIOD);
    }
}

#[test]
fn twenty_clusters_leave_nothing_however_they_ended() {
    let Ok(program) = std::env::var("EMULSION_CLUSTER") else {
        return eprintln!("skipped: `make test-cluster` says where the cluster's program is");
    };
    let (settings_before, links_before) = (settings(), links());
    for round in 0..ROUNDS {
        let name = format!("round-{}-{round}", std::process::id());
        let victim = VICTIMS[round % VICTIMS.len()];
        let nothing = Traces::of(&name);
        driver(&program, "up", &name);
        let up = Traces::of(&name);
        assert!(
            up.processes.len() > 10 && !up.control_groups.is_empty() && !up.files.is_empty(),
            "the check itself sees a cluster: {up:#?}"
        );
        if let Some(victim) = victim {
            kill(victim, &up);
        }
        if victim == Some(" supervise ") {
            wait_until_gone(&name, "the kernel ends what a dead supervisor held", || processes(&name).is_empty());
        }
        driver(&program, "down", &name);
        assert_eq!(Traces::of(&name), nothing, "after round {round}, in which {victim:?} was killed");
        assert_eq!(links(), links_before, "links of the machine after round {round}");
        assert_eq!(settings(), settings_before, "settings of the machine after round {round}");
    }
}

#[test]
fn a_cluster_ends_with_whoever_started_it() {
    let Ok(program) = std::env::var("EMULSION_CLUSTER") else {
        return eprintln!("skipped: `make test-cluster` says where the cluster's program is");
    };
    let name = format!("orphan-{}", std::process::id());
    let mut supervisor = Command::new(program)
        .args(["supervise", "--name", &name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The kernel closes the pipe of a starter that is gone; here that happens in the middle of bringing up.
    wait_until_gone(&name, "its first host to start", || processes(&name).values().any(|command| command.contains("host.json")));
    drop(supervisor.stdin.take());
    supervisor.wait().expect("it can be waited for");
    assert_eq!(Traces::of(&name), Traces { mounts: mounts(&name), ..Traces::default() });
}
