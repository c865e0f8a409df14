package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Between the end of a component and its next start.
	restartDelay = 500 * time.Millisecond
	// How often to look whether what a component waits for is there.
	afterPeriod = 20 * time.Millisecond
)

// Run is the life of PID 1. It returns when its standard input ends, which is when the driver ends.
//
// Commands are lines: `start` (all components), `start NAME`, `stop NAME` (ends it and leaves it so), `kill NAME` (ends it; it is
// started again). Each is answered by one line: `ok`, or what went wrong.
func Run(path string) error {
	if os.Getpid() != 1 {
		return errors.New("a host must be PID 1 of its own namespaces: `emulsion-cluster up` starts it")
	}
	specification, err := read(path)
	if err != nil {
		return err
	}
	if err := isolate(specification); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(specification.Name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	first := &initProcess{specification: specification, binary: binary, running: map[int]string{}, wanted: map[string]bool{}, startNow: make(chan string)}
	return first.loop(os.Stdin, os.Stdout)
}

// initProcess is driven by one goroutine: loop. No other touches its fields.
type initProcess struct {
	specification Specification
	binary        string
	running       map[int]string // process id to component
	wanted        map[string]bool
	startNow      chan string
}

func (p *initProcess) loop(commands io.Reader, answers io.Writer) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	// Only what has no handler is ignored for PID 1; the driver ends a host with SIGKILL.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(commands); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	fmt.Fprintln(answers, "ok") // the mounts are made
	for {
		select {
		case line, open := <-lines:
			if !open {
				return nil
			}
			answer := "ok"
			if err := p.obey(line); err != nil {
				answer = err.Error()
			}
			fmt.Fprintln(answers, answer)
		case name := <-p.startNow:
			if err := p.start(name); err != nil {
				fmt.Fprintln(os.Stderr, err)
				p.startLater(name, restartDelay)
			}
		case <-children:
			p.reap()
		}
	}
}

func (p *initProcess) obey(line string) error {
	verb, name, _ := strings.Cut(line, " ")
	if verb == "start" && name == "" {
		for _, component := range p.specification.Components {
			p.want(component)
		}
		return nil
	}
	component, known := p.component(name)
	if !known {
		return fmt.Errorf("%s has no component %q", p.specification.Name, name)
	}
	switch verb {
	case "start":
		p.want(component)
	case "stop", "kill":
		p.wanted[name] = verb == "kill"
		for pid, running := range p.running {
			if running == name {
				return syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	default:
		return fmt.Errorf("unknown command %q", line)
	}
	return nil
}

func (p *initProcess) component(name string) (Component, bool) {
	for _, component := range p.specification.Components {
		if component.Name == name {
			return component, true
		}
	}
	return Component{}, false
}

func (p *initProcess) want(component Component) {
	if p.wanted[component.Name] {
		return
	}
	p.wanted[component.Name] = true
	p.startLater(component.Name, 0)
}

// startLater hands the component to the loop once what it waits for is there.
func (p *initProcess) startLater(name string, delay time.Duration) {
	component, _ := p.component(name)
	go func() {
		time.Sleep(delay)
		for !isThere(component.After) {
			time.Sleep(afterPeriod)
		}
		p.startNow <- name
	}()
}

func isThere(what string) bool {
	if what == "" {
		return true
	}
	if strings.HasPrefix(what, "/") {
		_, err := os.Stat(what)
		return err == nil
	}
	connection, err := net.DialTimeout("tcp", what, time.Second)
	if err == nil {
		connection.Close()
	}
	return err == nil
}

func (p *initProcess) start(name string) error {
	for _, running := range p.running {
		if running == name {
			return nil
		}
	}
	if !p.wanted[name] {
		return nil // stopped in the meantime
	}
	component, _ := p.component(name)
	log, err := os.OpenFile(p.specification.LogFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", name, err)
	}
	defer log.Close()
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer nothing.Close()
	command := component.Command
	if !strings.HasPrefix(command[0], "/") {
		// A part of this binary, which its first argument names.
		command = append([]string{p.binary}, command...)
	}
	pid, err := syscall.ForkExec(command[0], command, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "GOTRACEBACK=all"},
		Files: []uintptr{nothing.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p.running[pid] = name
	return nil
}

// reap collects every process that ended: components, and orphans such as containerd's shims.
func (p *initProcess) reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 || err != nil {
			return
		}
		name, known := p.running[pid]
		if !known {
			continue
		}
		delete(p.running, pid)
		if p.wanted[name] {
			p.startLater(name, restartDelay)
		}
	}
}
