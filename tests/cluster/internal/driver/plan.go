package driver

import (
	"fmt"
	"path/filepath"

	"emulsion.dev/cluster/internal/fabric"
)

// Addresses repeat from cluster to cluster: each cluster's network is alone in the world.
const (
	hostSubnet      = "172.30.0"
	podSubnet       = "10.244.0.0/16"
	serviceSubnet   = "10.96.0.0/16"
	apiServiceIP    = "10.96.0.1"
	dnsServiceIP    = "10.96.0.10"
	clusterDomain   = "cluster.local"
	apiPort         = 6443
	registryPort    = 5000
	registryName    = "registry.test"
	controlPlane    = "control-plane"
	firstHostNumber = 10
	// NodesMax bounds the subnets above and the memory of a machine.
	nodesMax = 9
)

// plan is who is where, before anything runs.
type plan struct {
	folder string
	hosts  []fabric.Host
}

func newPlan(folder string, nodes int) plan {
	hosts := []fabric.Host{{Name: controlPlane, Address: hostAddress(0)}}
	for number := 1; number <= nodes; number++ {
		hosts = append(hosts, fabric.Host{
			Name: fmt.Sprintf("node-%d", number), Address: hostAddress(number), PodSubnet: fmt.Sprintf("10.244.%d.0/24", number),
		})
	}
	return plan{folder: folder, hosts: hosts}
}

func hostAddress(number int) string { return fmt.Sprintf("%s.%d", hostSubnet, firstHostNumber+number) }

func (p plan) nodes() []fabric.Host { return p.hosts[1:] }

func (p plan) hostFolder(name string) string { return filepath.Join(p.folder, name) }

func (p plan) keys(name string) string { return filepath.Join(p.folder, "keys", name) }

func apiAddress() string { return fmt.Sprintf("%s:%d", hostAddress(0), apiPort) }

func registryAddress() string { return fmt.Sprintf("%s:%d", hostAddress(0), registryPort) }
