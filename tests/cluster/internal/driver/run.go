package driver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// How long a supervisor may take to clean up before it is killed and cleaned up after.
	stopTimeout    = 10 * time.Second
	stopPollPeriod = 20 * time.Millisecond
	// The kernel's limit for the path of a socket, less its final zero.
	socketPathMax = 107
)

var nameShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$`)

// run is the folder of one cluster. Who holds its lock supervises the cluster; the kernel frees the lock with the process.
type run struct {
	name   string
	folder string
}

// State is what others need to know of a cluster; it lies in the folder as cluster.json once the cluster is up.
type State struct {
	Name       string      `json:"name"`
	Kubeconfig string      `json:"kubeconfig"`
	Control    string      `json:"control"`
	Registry   string      `json:"registry"`
	Hosts      []HostState `json:"hosts"`
}

// HostState tells where a host is on the fabric and, if it runs, which process is its PID 1.
type HostState struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Process int    `json:"process"`
}

func runsFolder() (string, error) {
	cache := os.Getenv("EMULSION_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("neither EMULSION_CACHE nor HOME says where to keep clusters: %w", err)
		}
		cache = filepath.Join(home, ".cache", "emulsion")
	}
	return filepath.Abs(filepath.Join(cache, "cluster", "runs"))
}

func newRun(name string) (run, error) {
	if !nameShape.MatchString(name) {
		return run{}, fmt.Errorf("%q is no name for a cluster: want 1 to 30 of a-z, 0-9 and -, not at the ends", name)
	}
	runs, err := runsFolder()
	if err != nil {
		return run{}, err
	}
	made := run{name: name, folder: filepath.Join(runs, name)}
	if len(made.control()) > socketPathMax {
		return run{}, fmt.Errorf("%s is too long a path for a socket: set EMULSION_CACHE to a shorter one", made.control())
	}
	for _, covered := range []string{"/run/", "/var/lib/", "/var/log/", "/proc/", "/sys/"} {
		if strings.HasPrefix(made.folder, covered) {
			return run{}, fmt.Errorf("nodes have a %s of their own: set EMULSION_CACHE to a folder elsewhere", covered)
		}
	}
	return made, nil
}

func (r run) control() string    { return filepath.Join(r.folder, "control.sock") }
func (r run) kubeconfig() string { return filepath.Join(r.folder, "kubeconfig") }
func (r run) log() string        { return filepath.Join(r.folder, "supervisor.log") }
func (r run) lockFile() string   { return r.folder + ".lock" }

// lock takes the cluster's name for this process until it ends. It fails if another one has it.
func (r run) lock() error {
	if err := os.MkdirAll(filepath.Dir(r.folder), 0o700); err != nil {
		return err
	}
	for {
		// Never closed: closing any descriptor of the file would free the lock.
		file, err := unix.Open(r.lockFile(), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return fmt.Errorf("open %s: %w", r.lockFile(), err)
		}
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(uintptr(file), unix.F_SETLK, &lock); err != nil {
			return fmt.Errorf("the cluster %s has a supervisor already: %w", r.name, err)
		}
		var locked, present unix.Stat_t
		if err := unix.Fstat(file, &locked); err != nil {
			return err
		}
		// Its last holder may have removed the file between the two calls above.
		if err := unix.Stat(r.lockFile(), &present); err == nil && present.Ino == locked.Ino {
			return nil
		}
	}
}

// supervisor is the process that holds the lock, 0 if none. It cannot be mistaken: the kernel names it.
func (r run) supervisor() (int, error) {
	file, err := unix.Open(r.lockFile(), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", r.lockFile(), err)
	}
	defer unix.Close(file)
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(file), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("ask for the lock of %s: %w", r.name, err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// remove takes away what the end of its processes leaves of a cluster. Mounts and networks went with the processes; control
// groups and files did not. Only the holder of the lock may call it; the lock's file goes last.
func (r run) remove() error {
	group, err := newCgroup(r.name, "")
	if err != nil {
		return err
	}
	if err := errors.Join(group.remove(), os.RemoveAll(r.folder)); err != nil {
		return err
	}
	return os.Remove(r.lockFile())
}

// stop ends the supervisor, if there is one, and leaves nothing behind.
func (r run) stop() error {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		pid, err := r.supervisor()
		if err != nil {
			return err
		}
		if pid == 0 {
			break
		}
		_ = syscall.Kill(pid, signal)
		for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(stopPollPeriod) {
			if now, err := r.supervisor(); err == nil && now != pid {
				break
			}
		}
	}
	if !r.leftSomething() {
		return nil
	}
	if err := r.lock(); err != nil {
		return err
	}
	return r.remove()
}

func (r run) leftSomething() bool {
	for _, path := range []string{r.folder, r.lockFile()} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

func (r run) writeState(state State) error {
	content, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.folder, "cluster.json"), content, 0o600)
}

// knownRuns lists every cluster that left a trace: a folder, or a lock.
func knownRuns() ([]run, error) {
	folder, err := runsFolder()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var runs []run
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), ".lock")
		if seen[name] {
			continue
		}
		seen[name] = true
		if known, err := newRun(name); err == nil {
			runs = append(runs, known)
		}
	}
	return runs, nil
}
