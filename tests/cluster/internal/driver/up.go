package driver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
)

// up starts a supervisor, waits until it says that the cluster is up, and lets it live on.
func (r run) up(parent context.Context, nodes int) error {
	if pid, err := r.supervisor(); err != nil {
		return err
	} else if pid != 0 {
		var state State
		if err := r.call("State", Request{}, &state); err != nil {
			return fmt.Errorf("process %d is bringing the cluster %s up or down: %w", pid, r.name, err)
		}
		fmt.Println(state.Kubeconfig)
		return nil
	}
	ctx, cancel := signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	supervisor := exec.Command(binary, "supervise", "--name", r.name, "--nodes", strconv.Itoa(nodes))
	// Its messages stay ours while it starts; nobody reads them later.
	supervisor.Stderr = os.Stderr
	supervisor.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	input, err := supervisor.StdinPipe()
	if err != nil {
		return err
	}
	output, err := supervisor.StdoutPipe()
	if err != nil {
		return err
	}
	if err := supervisor.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	var state State
	ready := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(output).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &state)
		}
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		_ = input.Close() // it ends and cleans up
		return fmt.Errorf("the cluster %s is not up: %w", r.name, errorOr(supervisor.Wait(), err))
	}
	if _, err := io.WriteString(input, detachWord+"\n"); err != nil {
		return fmt.Errorf("let the supervisor live on: %w", err)
	}
	fmt.Println(state.Kubeconfig)
	return nil
}

func errorOr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

func shellCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "shell HOST [COMMAND…]",
		Short: "a shell, or one command, inside a host: `ctr -n k8s.io containers ls`, `nft list ruleset`, `ip route`, `tail /var/log/kubelet.log`",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, arguments []string) error {
			made, err := newRun(*name)
			if err != nil {
				return err
			}
			var state State
			if err := made.call("State", Request{}, &state); err != nil {
				return err
			}
			command := arguments[1:]
			if len(command) == 0 {
				command = []string{"/bin/bash"}
			}
			for _, each := range state.Hosts {
				if each.Name != arguments[0] || each.Process == 0 {
					continue
				}
				nsenter, err := exec.LookPath("nsenter")
				if err != nil {
					return err
				}
				enter := []string{"nsenter", "--target", strconv.Itoa(each.Process), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}
				return syscall.Exec(nsenter, append(enter, command...), os.Environ())
			}
			return fmt.Errorf("no host named %q is running", arguments[0])
		},
	}
}
