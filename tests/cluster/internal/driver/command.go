// Package driver brings clusters up and down, breaks them on request, and gives back everything they took.
package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"emulsion.dev/cluster/internal/image"
)

// NewCommand is the command line.
func NewCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "emulsion-cluster",
		Short: "A real Kubernetes on this machine, in network namespaces without uplink",
		Long: `A real Kubernetes on this machine, in network namespaces without uplink.

Besides the commands below, this binary is each of the cluster's own parts, and its clients:
  emulsion-cluster kubectl --kubeconfig FILE …
  emulsion-cluster helm --kubeconfig FILE …`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("name", "default", "which cluster")
	root.AddCommand(upCommand(name), superviseCommand(name), downCommand(name), listCommand(), statusCommand(name), shellCommand(name), imageCommand(name), doCommand(name))
	return root
}

func upCommand(name *string) *cobra.Command {
	return bringUpCommand("up", "bring the cluster up and print the path of its kubeconfig", name, func(ctx context.Context, made run, nodes int) error {
		return made.up(ctx, nodes)
	})
}

func superviseCommand(name *string) *cobra.Command {
	short := "bring the cluster up, print its state as one line of JSON, and keep it for as long as standard input is open"
	return bringUpCommand("supervise", short, name, supervise)
}

// bringUpCommand is a command that makes a run of so many nodes.
func bringUpCommand(use, short string, name *string, bringUp func(context.Context, run, int) error) *cobra.Command {
	var nodes int
	command := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			made, err := newRun(*name)
			if err != nil {
				return err
			}
			if err := checkNodes(nodes); err != nil {
				return err
			}
			return bringUp(command.Context(), made, nodes)
		},
	}
	command.Flags().IntVar(&nodes, "nodes", 2, "how many nodes")
	return command
}

func checkNodes(nodes int) error {
	if nodes < 1 || nodes > nodesMax {
		return fmt.Errorf("--nodes is %d, want 1 to %d", nodes, nodesMax)
	}
	return nil
}

func downCommand(name *string) *cobra.Command {
	var all bool
	command := &cobra.Command{
		Use:   "down",
		Short: "end the cluster and remove all of it, also what killed processes left",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if !all {
				made, err := newRun(*name)
				if err != nil {
					return err
				}
				return made.stop()
			}
			runs, err := knownRuns()
			if err != nil {
				return err
			}
			var failed error
			for _, each := range runs {
				failed = errors.Join(failed, each.stop())
			}
			return failed
		},
	}
	command.Flags().BoolVar(&all, "all", false, "every cluster of this user")
	return command
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "name the clusters, and those that were killed and left something",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			runs, err := knownRuns()
			if err != nil {
				return err
			}
			for _, each := range runs {
				pid, err := each.supervisor()
				if err != nil {
					return err
				}
				condition := fmt.Sprintf("up, supervised by process %d", pid)
				if pid == 0 {
					condition = "killed: `down` removes what it left"
				}
				fmt.Printf("%s\t%s\t%s\n", each.name, condition, each.folder)
			}
			return nil
		},
	}
}

func statusCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "tell each host's address, its process and the memory it takes",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			made, err := newRun(*name)
			if err != nil {
				return err
			}
			var state State
			if err := made.call("State", Request{}, &state); err != nil {
				return err
			}
			for _, each := range state.Hosts {
				group, err := newCgroup(made.name, each.Name)
				if err != nil {
					return err
				}
				fmt.Printf("%s\t%s\tprocess %d\t%d MiB of memory held\n", each.Name, each.Address, each.Process, group.residentBytes()>>20)
			}
			return nil
		},
	}
}

func imageCommand(name *string) *cobra.Command {
	root := &cobra.Command{Use: "image", Short: "make images from files of this machine, and give them to nodes or to the registry"}
	var recipe image.Recipe
	var output string
	build := &cobra.Command{
		Use:   "build PROGRAM",
		Short: "make an image of a program, the shared libraries it needs, certificates and a user without rights",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, arguments []string) error {
			recipe.Program = arguments[0]
			return recipe.WriteArchive(output)
		},
	}
	build.Flags().StringVar(&recipe.Name, "tag", "", "the image's name with its tag")
	build.Flags().StringVar(&output, "output", "", "the archive to write")
	build.Flags().StringArrayVar(&recipe.Files, "file", nil, "a further file or folder, SOURCE:TARGET; may be given again")
	_, _ = build.MarkFlagRequired("tag"), build.MarkFlagRequired("output")
	load := &cobra.Command{
		Use:   "import ARCHIVE",
		Short: "put an image on each node",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, arguments []string) error {
			made, err := newRun(*name)
			if err != nil {
				return err
			}
			path, err := filepath.Abs(arguments[0])
			if err != nil {
				return err
			}
			return made.call("Import", Request{File: path}, &Nothing{})
		},
	}
	push := &cobra.Command{
		Use:   "push ARCHIVE NAME:TAG",
		Short: fmt.Sprintf("put an image into the cluster's registry; pods call it %s:%d/NAME:TAG", registryName, registryPort),
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, arguments []string) error {
			made, err := newRun(*name)
			if err != nil {
				return err
			}
			var port int
			if err := made.call("Forward", Request{Host: controlPlane, Address: registryAddress()}, &port); err != nil {
				return err
			}
			pushed := image.Push(arguments[0], fmt.Sprintf("127.0.0.1:%d/%s", port, arguments[1]))
			return errors.Join(pushed, made.call("Unforward", Request{Port: port}, &Nothing{}))
		},
	}
	root.AddCommand(build, load, push)
	return root
}

// doCommand gives people what tests use through the control socket.
func doCommand(name *string) *cobra.Command {
	var request Request
	command := &cobra.Command{
		Use: "do METHOD",
		Short: "ask the supervisor: KillHost, StartHost, KillComponent, StopComponent, StartComponent, Partition, Heal, " +
			"Disconnect, Connect, LimitRate, Forward, Unforward, StartMetrics",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, arguments []string) error {
			made, err := newRun(*name)
			if err != nil {
				return err
			}
			if strings.EqualFold(arguments[0], "Forward") {
				var port int
				err := made.call("Forward", request, &port)
				if err == nil {
					fmt.Fprintf(os.Stdout, "127.0.0.1:%d\n", port)
				}
				return err
			}
			return made.call(arguments[0], request, &Nothing{})
		},
	}
	flags := command.Flags()
	flags.StringVar(&request.Host, "host", "", "control-plane, node-1, node-2, …")
	flags.StringVar(&request.Other, "other", "", "the other host of a partition")
	flags.StringVar(&request.Component, "component", "", "kube-apiserver, kubelet, containerd, …")
	flags.StringVar(&request.Address, "address", "", "what a forwarded port leads to, IP:PORT as the host sees it")
	flags.IntVar(&request.Port, "port", 0, "a forwarded port")
	flags.Uint64Var(&request.BitsPerSecond, "bits-per-second", 0, "a link's rate, 0 for no limit")
	return command
}
