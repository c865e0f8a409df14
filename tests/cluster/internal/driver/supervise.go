package driver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"emulsion.dev/cluster/internal/fabric"
)

// What the starter writes to the supervisor's standard input to let the cluster outlive it.
const detachWord = "detach"

// cluster is what the supervisor holds. Its methods may be called from many connections at once.
type cluster struct {
	run     run
	plan    plan
	network *fabric.Fabric
	log     *os.File

	guard    sync.Mutex
	machines map[string]*machine
	ports    map[int]net.Listener
}

// supervise is the life of a cluster. It ends, and leaves nothing behind, on a signal, or when its standard input ends without
// having told it to detach: that is when whoever started it is gone.
func supervise(parent context.Context, made run, nodes int) (err error) {
	ctx, cancel := signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	if err := made.lock(); err != nil {
		return err
	}
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if line != detachWord+"\n" || made.redirectOutput() != nil {
			cancel()
		}
	}()
	group, err := newCgroup(made.name, "")
	if err != nil {
		return err
	}
	// A supervisor of the same name may have been killed.
	if err := errors.Join(group.remove(), os.RemoveAll(made.folder), os.MkdirAll(made.folder, 0o700)); err != nil {
		return fmt.Errorf("clear %s: %w", made.folder, err)
	}
	held := &cluster{run: made, plan: newPlan(made.folder, nodes), machines: map[string]*machine{}, ports: map[int]net.Listener{}}
	defer func() { err = errors.Join(err, held.close()) }()
	state, err := held.bringUp(ctx)
	if err != nil {
		if ctx.Err() == nil { // nobody called it off
			made.showLogs(os.Stderr)
		}
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(state); err != nil {
		return fmt.Errorf("tell that the cluster is up: %w", err)
	}
	<-ctx.Done()
	return nil
}

// redirectOutput gives the starter its standard streams back: what reads them would wait for this process, too.
func (r run) redirectOutput() error {
	log, err := os.OpenFile(r.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	return errors.Join(unix.Dup3(int(log.Fd()), 1, 0), unix.Dup3(int(log.Fd()), 2, 0))
}

func (c *cluster) bringUp(ctx context.Context) (State, error) {
	var err error
	started := time.Now()
	progress := func(what string) { fmt.Fprintf(os.Stderr, "%5.1f s  %s\n", time.Since(started).Seconds(), what) }
	if c.log, err = os.OpenFile(c.run.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return State{}, err
	}
	if err := c.plan.makeKeys(); err != nil {
		return State{}, fmt.Errorf("make keys: %w", err)
	}
	if c.network, err = fabric.New(); err != nil {
		return State{}, err
	}
	for _, place := range c.plan.hosts {
		if err := c.startHost(place.Name); err != nil {
			return State{}, err
		}
	}
	progress("hosts started")
	port, err := c.forward(controlPlane, apiAddress())
	if err != nil {
		return State{}, err
	}
	if err := c.plan.writeUserKubeconfig(c.run.kubeconfig(), port); err != nil {
		return State{}, err
	}
	if err := c.serveControl(); err != nil {
		return State{}, err
	}
	if err := c.makeReady(ctx, progress); err != nil {
		return State{}, err
	}
	state := c.state()
	return state, c.run.writeState(state)
}

// startHost starts a host that does not run.
func (c *cluster) startHost(name string) error {
	c.guard.Lock()
	defer c.guard.Unlock()
	if _, err := c.lookUp(name); err == nil {
		return fmt.Errorf("%s runs already", name)
	}
	for _, place := range c.plan.hosts {
		if place.Name != name {
			continue
		}
		group, err := newCgroup(c.run.name, name)
		if err != nil {
			return err
		}
		specification, err := c.plan.controlPlaneHost()
		if name != controlPlane {
			specification, err = c.plan.nodeHost(place, group.path)
		}
		if err != nil {
			return fmt.Errorf("prepare %s: %w", name, err)
		}
		started, err := startMachine(specification, group, place, c.network, c.plan.hosts, c.log)
		if err != nil {
			return err
		}
		c.machines[name] = started
		return nil
	}
	return fmt.Errorf("no host is named %q", name)
}

func (c *cluster) killHost(name string) error {
	c.guard.Lock()
	defer c.guard.Unlock()
	running, err := c.lookUp(name)
	if err != nil {
		return err
	}
	running.kill()
	delete(c.machines, name)
	// What its pods left: a restarted machine has none of it.
	return running.group.remove()
}

func (c *cluster) machine(name string) (*machine, error) {
	c.guard.Lock()
	defer c.guard.Unlock()
	return c.lookUp(name)
}

func (c *cluster) lookUp(name string) (*machine, error) {
	running, runs := c.machines[name]
	if !runs {
		return nil, fmt.Errorf("no host named %q is running", name)
	}
	select {
	case <-running.ended:
		running.Detach()
		delete(c.machines, name)
		return nil, fmt.Errorf("%s has ended", name)
	default:
		return running, nil
	}
}

func (c *cluster) state() State {
	c.guard.Lock()
	defer c.guard.Unlock()
	state := State{Name: c.run.name, Kubeconfig: c.run.kubeconfig(), Control: c.run.control(), Registry: fmt.Sprintf("%s:%d", registryName, registryPort)}
	for _, place := range c.plan.hosts {
		described := HostState{Name: place.Name, Address: place.Address}
		if running, err := c.lookUp(place.Name); err == nil {
			described.Process = running.pid
		}
		state.Hosts = append(state.Hosts, described)
	}
	return state
}

func (c *cluster) close() error {
	c.guard.Lock()
	defer c.guard.Unlock()
	for name, running := range c.machines {
		running.kill()
		delete(c.machines, name)
	}
	return c.run.remove()
}

// forward listens on a port of the machine's loopback and connects from inside a host's network to the address.
func (c *cluster) forward(name, address string) (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("listen on loopback: %w", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	c.guard.Lock()
	c.ports[port] = listener
	c.guard.Unlock()
	go func() {
		for {
			outside, err := listener.Accept()
			if err != nil {
				return
			}
			go c.relay(outside, name, address)
		}
	}()
	return port, nil
}

func (c *cluster) relay(outside net.Conn, name, address string) {
	defer outside.Close()
	running, err := c.machine(name)
	if err != nil {
		return
	}
	inside, err := running.Dial(address)
	if err != nil {
		return
	}
	defer inside.Close()
	go func() {
		_, _ = io.Copy(inside, outside)
		_ = inside.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(outside, inside)
}

func (c *cluster) unforward(port int) error {
	c.guard.Lock()
	defer c.guard.Unlock()
	listener, known := c.ports[port]
	if !known {
		return fmt.Errorf("port %d is not forwarded", port)
	}
	delete(c.ports, port)
	return listener.Close()
}
