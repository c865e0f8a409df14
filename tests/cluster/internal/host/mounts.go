package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What a kubelet sets at its start for the whole machine. Here it meets copies.
var kubeletSysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom",
	"kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// isolate turns the inherited mounts into this host's own. Nothing it mounts is seen outside, and all of it goes with PID 1.
func isolate(specification Specification) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts from spreading to the machine: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc of the new process namespace: %w", err)
	}
	if err := guardSysctls(filepath.Join(specification.Folder, "sysctl")); err != nil {
		return err
	}
	for _, bind := range specification.Binds {
		if err := unix.Mount(bind.Source, bind.Target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s over %s: %w", bind.Source, bind.Target, err)
		}
	}
	// Pods may ask for mounts to propagate between them and their host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts inside the host: %w", err)
	}
	return nil
}

// guardSysctls lets this host read the machine's settings, change those of its own network namespace, and no other:
// those that the kubelet insists on writing are copies in a folder of the run.
func guardSysctls(copies string) error {
	network, err := unix.Open("/proc/sys/net", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /proc/sys/net: %w", err)
	}
	defer unix.Close(network)
	if err := unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /proc/sys over itself: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", network), "/proc/sys/net", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep /proc/sys/net writable: %w", err)
	}
	for _, name := range kubeletSysctls {
		original, copied := filepath.Join("/proc/sys", name), filepath.Join(copies, strings.ReplaceAll(name, "/", "."))
		value, err := os.ReadFile(original)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", original, err)
		}
		if err := os.MkdirAll(copies, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(copied, value, 0o600); err != nil {
			return err
		}
		if err := unix.Mount(copied, original, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s with a copy: %w", original, err)
		}
	}
	if err := unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make /proc/sys read-only: %w", err)
	}
	// Pods' packets pass through this host's stack.
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600)
}
