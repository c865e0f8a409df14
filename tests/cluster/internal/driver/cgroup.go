package driver

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// All control groups of all clusters lie below it, in each hierarchy.
	cgroupParent = "emulsion-cluster"
	// The group of a host's own processes; its pods have groups beside it.
	cgroupSystem = "system"
	// How long the kernel may take to end what was killed.
	cgroupEmptyTimeout = 10 * time.Second
	cgroupPollPeriod   = 20 * time.Millisecond
)

// cgroup is one group, in every hierarchy that is mounted: one on newer machines, about ten on older ones.
type cgroup struct {
	path  string // from the root of a hierarchy, with a leading slash
	roots []string
}

func newCgroup(run string, host string) (cgroup, error) {
	roots, err := cgroupRoots()
	return cgroup{path: filepath.Join("/", cgroupParent, run, host), roots: roots}, err
}

func cgroupRoots() ([]string, error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	var roots []string
	for scanner := bufio.NewScanner(mounts); scanner.Scan(); {
		before, after, _ := strings.Cut(scanner.Text(), " - ")
		fields := strings.Fields(before)
		if strings.HasPrefix(after, "cgroup ") || strings.HasPrefix(after, "cgroup2 ") {
			roots = append(roots, fields[4])
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("no control groups are mounted on this machine")
	}
	return roots, nil
}

// create makes the group of a host and the one of its own processes.
func (c cgroup) create() error {
	for _, root := range c.roots {
		folder := root
		for _, part := range strings.Split(strings.Trim(c.path, "/")+"/"+cgroupSystem, "/") {
			if err := delegate(folder); err != nil {
				return fmt.Errorf("delegate controllers below %s: %w", folder, err)
			}
			folder = filepath.Join(folder, part)
			if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make a control group: %w", err)
			}
			if err := inheritProcessors(folder); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate lets children of a group of the unified hierarchy have limits of their own.
func delegate(folder string) error {
	controllers, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the older kind: nothing to do
	}
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(folder, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// inheritProcessors: a new group of the older kind has no processors at all, and takes no process until it does.
func inheritProcessors(folder string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if _, err := os.Stat(filepath.Join(folder, "cgroup.clone_children")); err != nil {
			continue
		}
		present, err := os.ReadFile(filepath.Join(folder, file))
		if errors.Is(err, fs.ErrNotExist) || len(strings.TrimSpace(string(present))) > 0 {
			continue
		}
		inherited, err := os.ReadFile(filepath.Join(filepath.Dir(folder), file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, file), inherited, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// join moves a process into the group of the host's own processes; what it starts later is born there.
func (c cgroup) join(pid int) error {
	for _, root := range c.roots {
		file := filepath.Join(root, c.path, cgroupSystem, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("join %s: %w", filepath.Dir(file), err)
		}
	}
	return nil
}

// remove kills every process in the group and in those below it, and removes them all.
func (c cgroup) remove() error {
	for deadline := time.Now().Add(cgroupEmptyTimeout); ; time.Sleep(cgroupPollPeriod) {
		var left []error
		for _, root := range c.roots {
			left = append(left, removeTree(filepath.Join(root, c.path)))
		}
		err := errors.Join(left...)
		if err == nil || time.Now().After(deadline) {
			for _, root := range c.roots {
				_ = os.Remove(filepath.Join(root, cgroupParent)) // fails while others use it
			}
			return err
		}
	}
}

func removeTree(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(folder, entry.Name())); err != nil {
				return err
			}
		}
	}
	processes, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	for _, process := range strings.Fields(string(processes)) {
		if pid, err := strconv.Atoi(process); err == nil && pid > 1 && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a control group: %w", err)
	}
	return nil
}

// residentBytes is the memory that the group and those below it hold, page cache included; 0 where it is not counted.
func (c cgroup) residentBytes() uint64 {
	for _, root := range c.roots {
		for _, file := range []string{"memory.current", "memory.usage_in_bytes"} {
			content, err := os.ReadFile(filepath.Join(root, c.path, file))
			if err != nil {
				continue
			}
			if bytes, err := strconv.ParseUint(strings.TrimSpace(string(content)), 10, 64); err == nil {
				return bytes
			}
		}
	}
	return 0
}
