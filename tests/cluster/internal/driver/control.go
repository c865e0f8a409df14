package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"time"

	"emulsion.dev/cluster/internal/fabric"
)

// How long a command inside a host may take.
const runTimeout = time.Minute

// Control is what a supervisor can be asked for, as JSON-RPC over the socket in its folder: one request is one line
// `{"id":1,"method":"Control.KillHost","params":[{"host":"node-1"}]}`, and so is its answer.
type Control struct{ cluster *cluster }

// Request names what a method is about; each method reads the fields it needs.
type Request struct {
	Host      string `json:"host"`
	Other     string `json:"other"`
	Component string `json:"component"`
	Address   string `json:"address"`
	Port      int    `json:"port"`
	File      string `json:"file"`
	// Command is a program of the machine with its arguments.
	Command []string `json:"command"`
	// BitsPerSecond is a link's rate; 0 lifts the limit.
	BitsPerSecond uint64 `json:"bits_per_second"`
}

// Nothing is the answer of a method that only does something.
type Nothing struct{}

func (c *cluster) serveControl() error {
	server := rpc.NewServer()
	if err := server.Register(&Control{c}); err != nil {
		return err
	}
	listener, err := net.Listen("unix", c.run.control())
	if err != nil {
		return fmt.Errorf("listen for control: %w", err)
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go server.ServeCodec(jsonrpc.NewServerCodec(connection))
		}
	}()
	return nil
}

// call asks the supervisor of a cluster.
func (r run) call(method string, request Request, answer any) error {
	connection, err := net.Dial("unix", r.control())
	if err != nil {
		return fmt.Errorf("the cluster %s is not up: %w", r.name, err)
	}
	client := jsonrpc.NewClient(connection)
	defer client.Close()
	return client.Call("Control."+method, request, answer)
}

// State tells where the cluster's parts are.
func (c *Control) State(_ Request, answer *State) error {
	*answer = c.cluster.state()
	return nil
}

// KillHost ends all of a host at once, as a power cut does.
func (c *Control) KillHost(request Request, _ *Nothing) error {
	return c.cluster.killHost(request.Host)
}

// StartHost starts a host that was killed; its disk is as it was.
func (c *Control) StartHost(request Request, _ *Nothing) error {
	return c.cluster.startHost(request.Host)
}

// KillComponent ends a program of a host; it is started again.
func (c *Control) KillComponent(request Request, _ *Nothing) error { return c.tell(request, "kill") }

// StopComponent ends a program of a host and leaves it so.
func (c *Control) StopComponent(request Request, _ *Nothing) error { return c.tell(request, "stop") }

// StartComponent starts a program that was stopped.
func (c *Control) StartComponent(request Request, _ *Nothing) error { return c.tell(request, "start") }

func (c *Control) tell(request Request, verb string) error {
	running, err := c.cluster.machine(request.Host)
	if err != nil {
		return err
	}
	return running.tell(verb + " " + request.Component)
}

// Partition cuts two hosts, and their pods, off from each other: packets are lost without an answer.
func (c *Control) Partition(request Request, _ *Nothing) error { return c.partition(request, true) }

// Heal undoes Partition.
func (c *Control) Heal(request Request, _ *Nothing) error { return c.partition(request, false) }

func (c *Control) partition(request Request, cut bool) error {
	one, err := c.cluster.machine(request.Host)
	if err != nil {
		return err
	}
	other, err := c.cluster.machine(request.Other)
	if err != nil {
		return err
	}
	if one == other {
		return errors.New("a host cannot be cut off from itself")
	}
	return fabric.SetPartition(one.Place, other.Place, cut)
}

// Disconnect pulls a host's cable.
func (c *Control) Disconnect(request Request, _ *Nothing) error {
	return c.setConnected(request, false)
}

// Connect plugs it in again.
func (c *Control) Connect(request Request, _ *Nothing) error { return c.setConnected(request, true) }

func (c *Control) setConnected(request Request, connected bool) error {
	running, err := c.cluster.machine(request.Host)
	if err != nil {
		return err
	}
	return running.SetConnected(connected)
}

// LimitRate slows a host's link down, in both directions.
func (c *Control) LimitRate(request Request, _ *Nothing) error {
	running, err := c.cluster.machine(request.Host)
	if err != nil {
		return err
	}
	return running.SetRate(request.BitsPerSecond)
}

// Forward opens a port on the machine's loopback that leads to an address as the host sees it.
func (c *Control) Forward(request Request, port *int) (err error) {
	if _, err := c.cluster.machine(request.Host); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(request.Address); err != nil {
		return fmt.Errorf("the address must be IP:PORT: %w", err)
	}
	*port, err = c.cluster.forward(request.Host, request.Address)
	return err
}

// Unforward closes such a port.
func (c *Control) Unforward(request Request, _ *Nothing) error {
	return c.cluster.unforward(request.Port)
}

// Run executes a program of the machine inside a host, and answers what it printed.
func (c *Control) Run(request Request, said *string) error {
	running, err := c.cluster.machine(request.Host)
	if err != nil {
		return err
	}
	if len(request.Command) == 0 {
		return errors.New("no command is given")
	}
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	*said, err = running.run(ctx, nil, request.Command...)
	return err
}

// Import gives an image archive to each node.
func (c *Control) Import(request Request, _ *Nothing) error {
	return c.cluster.importImage(context.Background(), request.File)
}

// StartMetrics adds the metrics API and returns when it answers.
func (c *Control) StartMetrics(Request, *Nothing) error { return c.cluster.startMetrics() }
