package driver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"emulsion.dev/cluster/internal/fabric"
	"emulsion.dev/cluster/internal/host"
)

// How long a host's PID 1 may take to answer a command.
const answerTimeout = 20 * time.Second

// machine is a running host: its PID 1, seen from the supervisor.
type machine struct {
	*fabric.Place
	pid      int
	process  *os.Process
	group    cgroup
	commands io.WriteCloser
	answers  *bufio.Reader
	ended    chan struct{}
	turn     sync.Mutex
}

// startMachine starts PID 1 of a host in namespaces of its own, attaches it to the fabric and starts its components.
func startMachine(specification host.Specification, group cgroup, place fabric.Host, network *fabric.Fabric, all []fabric.Host, log *os.File) (*machine, error) {
	path, err := specification.Write()
	if err != nil {
		return nil, err
	}
	if err := group.create(); err != nil {
		return nil, err
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(binary, "host", path)
	command.Stderr = log
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
	}
	commands, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startTied(command); err != nil {
		return nil, fmt.Errorf("start %s: %w", specification.Name, err)
	}
	started := &machine{pid: command.Process.Pid, process: command.Process, group: group, commands: commands, answers: bufio.NewReader(answers), ended: make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(started.ended)
	}()
	err = started.join(place, network, all)
	if err != nil {
		started.kill()
		return nil, fmt.Errorf("bring %s up: %w", specification.Name, err)
	}
	return started, nil
}

func (m *machine) join(place fabric.Host, network *fabric.Fabric, all []fabric.Host) error {
	if err := m.group.join(m.pid); err != nil {
		return err
	}
	attached, err := network.Attach(place, m.pid, all)
	if err != nil {
		return err
	}
	m.Place = attached
	if err := m.awaitAnswer(); err != nil { // to its start
		return err
	}
	return m.tell("start")
}

// tell gives PID 1 a command and waits for its answer.
func (m *machine) tell(command string) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	if _, err := fmt.Fprintln(m.commands, command); err != nil {
		return fmt.Errorf("tell %s to %s: %w", m.Name, command, err)
	}
	return m.awaitAnswer()
}

func (m *machine) awaitAnswer() error {
	type answer struct {
		line string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		line, err := m.answers.ReadString('\n')
		answered <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case got := <-answered:
		if got.err != nil {
			return fmt.Errorf("its PID 1 ended; the supervisor's log tells why: %w", got.err)
		}
		if got.line != "ok" {
			return errors.New(got.line)
		}
		return nil
	case <-time.After(answerTimeout):
		return fmt.Errorf("no answer from PID 1 within %s", answerTimeout)
	}
}

// kill is what a power cut is: all processes of the host end at once, and with them its mounts and links.
func (m *machine) kill() {
	_ = m.process.Kill()
	<-m.ended
	if m.Place != nil {
		m.Detach()
	}
}

// The signal for a parent's death is sent when the thread that started the child ends, so one thread starts all, and never ends.
var tied = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range work {
			start()
		}
	}()
	return work
})

// startTied starts a command that the kernel kills when this process ends, however it ends.
func startTied(command *exec.Cmd) error {
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	started := make(chan error)
	tied() <- func() { started <- command.Start() }
	return <-started
}
