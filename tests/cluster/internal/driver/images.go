package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"emulsion.dev/cluster/internal/image"
)

const (
	// A container runtime answers within this after its start; a machine under load takes several seconds.
	containerdTimeout = time.Minute
	importTimeout     = 2 * time.Minute
)

// program is an image made of one static program that lies beside this one.
type program struct{ file, image string }

var (
	podProgram         = program{file: "cluster-pod", image: pauseImage}
	nameServerImage    = program{file: "coredns", image: "emulsion.test/coredns:1"}
	metricsServerImage = program{file: "metrics-server", image: "emulsion.test/metrics-server:1"}
)

func (c *cluster) importFirstImages(ctx context.Context) error {
	for _, each := range []program{podProgram, nameServerImage} {
		if err := c.importProgram(ctx, each); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) importProgram(ctx context.Context, from program) error {
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	file := filepath.Join(c.run.folder, from.file+".tar")
	recipe := image.Recipe{Name: from.image, Program: filepath.Join(filepath.Dir(binary), from.file)}
	if err := recipe.WriteArchive(file); err != nil {
		return fmt.Errorf("make the image %s: %w", from.image, err)
	}
	defer os.Remove(file)
	return c.importImage(ctx, file)
}

// importImage gives an image archive to every node that runs.
func (c *cluster) importImage(ctx context.Context, file string) error {
	var everyone sync.WaitGroup
	failed := make([]error, len(c.plan.nodes()))
	for i, node := range c.plan.nodes() {
		running, err := c.machine(node.Name)
		if err != nil {
			continue
		}
		everyone.Go(func() {
			if err := importOn(ctx, running, file); err != nil {
				failed[i] = fmt.Errorf("import %s on %s: %w", file, node.Name, err)
			}
		})
	}
	everyone.Wait()
	return errors.Join(failed...)
}

func importOn(ctx context.Context, running *machine, file string) error {
	ctx, cancel := context.WithTimeout(ctx, importTimeout)
	defer cancel()
	for deadline := time.Now().Add(containerdTimeout); ; time.Sleep(readyPollPeriod) {
		_, err := running.run(ctx, nil, "ctr", "--namespace", "k8s.io", "version")
		if err == nil {
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("containerd does not answer: %w", err)
		}
	}
	archive, err := os.Open(file)
	if err != nil {
		return err
	}
	defer archive.Close()
	_, err = running.run(ctx, archive, "ctr", "--namespace", "k8s.io", "images", "import", "-")
	return err
}

// run executes a program of the machine as if it had been started on the host.
func (m *machine) run(ctx context.Context, input io.Reader, arguments ...string) (string, error) {
	var said bytes.Buffer
	enter := append([]string{"--target", strconv.Itoa(m.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, arguments...)
	command := exec.CommandContext(ctx, "nsenter", enter...)
	command.Stdin, command.Stdout, command.Stderr = input, &said, &said
	if err := startTied(command); err != nil {
		return "", err
	}
	if err := command.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", arguments[0], err, strings.TrimSpace(said.String()))
	}
	return said.String(), nil
}
