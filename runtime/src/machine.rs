//! How much memory this process may use.

use std::path::Path;

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Bytes of memory that this machine has, or of the tightest of the control groups (version 2) that this process is in, such as its
/// container's. `None` where the system does not say.
pub fn memory_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| tightest(Path::new(CONTROL_GROUPS), &text));
    machine.into_iter().chain(group).min()
}

/// `MemTotal` of /proc/meminfo.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least `memory.max` of the group that /proc/self/cgroup names and of those around it. In a container the path begins at the container's.
fn tightest(root: &Path, cgroup: &str) -> Option<u64> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = root.join(path);
    let around = group.ancestors().take_while(|folder| folder.starts_with(root));
    around.filter_map(|folder| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tightest_group_around_the_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("pods/one");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(root.path().join("pods/memory.max"), "4096\n").unwrap();
        std::fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(tightest(root.path(), "1:cpu:/else\n0::/pods/one\n"), Some(4096));
        std::fs::write(inner.join("memory.max"), "1024\n").unwrap();
        assert_eq!(tightest(root.path(), "0::/pods/one\n"), Some(1024));
        assert_eq!(tightest(root.path(), "0::/\n"), None);
        assert_eq!(tightest(root.path(), "2:memory:/old\n"), None);
    }

    #[test]
    fn machines_memory_is_in_bytes() {
        assert_eq!(total("MemTotal:       32768 kB\nMemFree: 1 kB\n"), Some(32 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
