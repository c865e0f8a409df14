package driver

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// All of bringing up must be done by then; a busy machine takes three times what an idle one does.
	readyTimeout    = 3 * time.Minute
	readyPollPeriod = 100 * time.Millisecond
	metricsTimeout  = 2 * time.Minute
)

//go:embed manifests/*.yaml
var manifests embed.FS

// makeReady waits for the API and the nodes, gives each node the images it starts with, and the cluster its name server.
func (c *cluster) makeReady(ctx context.Context, progress func(string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not ready within %s", readyTimeout))
	defer cancel()
	imported := make(chan error, 1)
	go func() { imported <- c.importFirstImages(ctx) }()
	client, err := c.client()
	if err != nil {
		return err
	}
	err = c.await(ctx, "the API server to be ready", func() error {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
	if err != nil {
		return err
	}
	progress("API server ready")
	if err := c.apply(ctx, "coredns.yaml"); err != nil {
		return err
	}
	if err := <-imported; err != nil {
		return err
	}
	progress("first images imported")
	err = c.await(ctx, "every node to be Ready", func() error { return c.nodesReady(ctx, client) })
	if err != nil {
		return err
	}
	progress("nodes Ready")
	err = c.await(ctx, "pods to be allowed in the namespace default", func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", v1.GetOptions{})
		return err
	})
	if err != nil {
		return err
	}
	err = c.await(ctx, "names to be resolved", func() error {
		set, err := client.AppsV1().DaemonSets("kube-system").Get(ctx, "coredns", v1.GetOptions{})
		if err == nil && int(set.Status.NumberAvailable) < len(c.plan.nodes()) {
			err = fmt.Errorf("%d of %d name servers are available", set.Status.NumberAvailable, len(c.plan.nodes()))
		}
		return err
	})
	if err != nil {
		return err
	}
	progress("names are resolved")
	return nil
}

func (c *cluster) nodesReady(ctx context.Context, client kubernetes.Interface) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, v1.ListOptions{})
	if err != nil {
		return err
	}
	var missing []error
	for _, wanted := range c.plan.nodes() {
		missing = append(missing, nodeReady(nodes.Items, wanted.Name))
	}
	return errors.Join(missing...)
}

func nodeReady(nodes []core.Node, name string) error {
	for _, node := range nodes {
		if node.Name != name {
			continue
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == core.NodeReady && condition.Status == core.ConditionTrue {
				return nil
			}
			if condition.Type == core.NodeReady {
				return fmt.Errorf("%s: %s", name, condition.Message)
			}
		}
	}
	return fmt.Errorf("%s has not registered", name)
}

func (c *cluster) client() (*kubernetes.Clientset, error) {
	configuration, err := clientcmd.BuildConfigFromFlags("", c.run.kubeconfig())
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(configuration)
}

// await asks until there is no error any more. The last one tells what was missing when time ran out.
func (c *cluster) await(ctx context.Context, what string, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; last: %w", what, context.Cause(ctx), err)
		case <-time.After(readyPollPeriod):
		}
	}
}

// apply gives a manifest of ours to the API server.
func (c *cluster) apply(ctx context.Context, name string) error {
	content, err := manifests.ReadFile(filepath.Join("manifests", name))
	if err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	command := exec.CommandContext(ctx, binary, "kubectl", "--kubeconfig", c.run.kubeconfig(), "apply", "--server-side", "-f", "-")
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(content), &said, &said
	if err := startTied(command); err != nil {
		return err
	}
	if err := command.Wait(); err != nil {
		return fmt.Errorf("apply %s: %w: %s", name, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// startMetrics adds the metrics API. It is not there from the beginning: while an aggregated API does not answer, namespaces do not
// end, and tests that lose nodes would have to live with that.
func (c *cluster) startMetrics() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), metricsTimeout, fmt.Errorf("not ready within %s", metricsTimeout))
	defer cancel()
	if err := c.importProgram(ctx, metricsServerImage); err != nil {
		return err
	}
	if err := c.apply(ctx, "metrics-server.yaml"); err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	return c.await(ctx, "metrics of every node", func() error {
		answer, err := client.Discovery().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").DoRaw(ctx)
		if err == nil && bytes.Count(answer, []byte(`"usage"`)) < len(c.plan.nodes()) {
			err = errors.New("not every node has metrics yet")
		}
		return err
	})
}
