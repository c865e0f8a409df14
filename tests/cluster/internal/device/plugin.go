// Package device is a kubelet device plugin for devices that do not exist: it lets pods ask for `nvidia.com/gpu` where there is none.
package device

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	// How long the kubelet may take to answer a registration.
	registrationTimeout = 5 * time.Second
	// How often to look whether the kubelet started anew: it forgets its plugins then, and removes their sockets.
	socketCheckPeriod = 200 * time.Millisecond
)

type plugin struct {
	api.UnimplementedDevicePluginServer
	devices []*api.Device
}

// Run offers count devices of a resource to this host's kubelet, and offers them again after each of its restarts.
func Run(resource, count string) error {
	number, err := strconv.Atoi(count)
	if err != nil || number < 1 {
		return fmt.Errorf("the number of devices is %q, want 1 or more", count)
	}
	served := &plugin{}
	for i := range number {
		served.devices = append(served.devices, &api.Device{ID: fmt.Sprintf("device-%d", i), Health: api.Healthy})
	}
	socket := filepath.Join(api.DevicePluginPath, strings.ReplaceAll(resource, "/", "-")+".sock")
	for {
		if err := served.untilForgotten(resource, socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		time.Sleep(socketCheckPeriod)
	}
}

// untilForgotten serves and registers once; it returns when the kubelet has removed the socket.
func (p *plugin) untilForgotten(resource, socket string) error {
	if _, err := os.Stat(api.KubeletSocket); err != nil {
		return nil // the kubelet is not there yet
	}
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for the kubelet: %w", err)
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	if err := register(resource, filepath.Base(socket)); err != nil {
		return fmt.Errorf("register %s: %w", resource, err)
	}
	fmt.Fprintf(os.Stderr, "registered %d of %s\n", len(p.devices), resource)
	for {
		time.Sleep(socketCheckPeriod)
		if _, err := os.Stat(socket); err != nil {
			return nil
		}
	}
}

func register(resource, endpoint string) error {
	connection, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), registrationTimeout)
	defer cancel()
	_, err = api.NewRegistrationClient(connection).Register(ctx, &api.RegisterRequest{
		Version: api.Version, Endpoint: endpoint, ResourceName: resource, Options: &api.DevicePluginOptions{},
	})
	return err
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	if err := stream.Send(&api.ListAndWatchResponse{Devices: p.devices}); err != nil {
		return err
	}
	<-stream.Context().Done() // they never fall ill
	return nil
}

// Allocate names the devices in the variable that NVIDIA's own plugin uses.
func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")},
		})
	}
	return response, nil
}
