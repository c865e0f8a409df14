package driver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	_ "embed"

	"emulsion.dev/cluster/internal/fabric"
	"emulsion.dev/cluster/internal/host"
)

// PauseImage is what holds a pod's namespaces open; it is imported on each node before its first pod.
const pauseImage = "emulsion.test/pod:1"

// These are longer on a real cluster. Here a lost node is to be seen within a test's patience, and a busy machine not to lose one.
const (
	nodeMonitorGracePeriod = "16s"
	leaseDurationSeconds   = 16
	tolerationSeconds      = 5
)

//go:embed manifests/node.tmpl
var nodeFiles string

// controlPlaneHost runs the API and what turns its objects; it is no node and runs no pods.
func (p plan) controlPlaneHost() (host.Specification, error) {
	folder := p.hostFolder(controlPlane)
	specification := host.Specification{Name: controlPlane, Folder: folder}
	for _, name := range []string{"log", "etcd", "registry"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o700); err != nil {
			return specification, err
		}
	}
	specification.Components = []host.Component{
		{Name: "etcd", Command: []string{"etcd", filepath.Join(folder, "etcd")}},
		{Name: "kube-apiserver", After: "127.0.0.1:2379", Command: p.apiServerCommand()},
		{Name: "kube-controller-manager", After: apiAddress(), Command: []string{"kube-controller-manager",
			"--kubeconfig=" + p.keys("kube-controller-manager.kubeconfig"),
			"--use-service-account-credentials", "--leader-elect=false", "--bind-address=127.0.0.1",
			"--service-account-private-key-file=" + p.keys("service-accounts.key"), "--root-ca-file=" + p.keys("authority.crt"),
			"--cluster-signing-cert-file=" + p.keys("authority.crt"), "--cluster-signing-key-file=" + p.keys("authority.key"),
			"--node-monitor-period=1s", "--node-monitor-grace-period=" + nodeMonitorGracePeriod,
			"--horizontal-pod-autoscaler-sync-period=2s",
		}},
		{Name: "kube-scheduler", After: apiAddress(), Command: []string{"kube-scheduler",
			"--kubeconfig=" + p.keys("kube-scheduler.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		}},
	}
	registry, err := exec.LookPath("docker-registry")
	if err != nil {
		return specification, nil // a cluster without a registry is still one
	}
	settings := fmt.Sprintf("version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: '%s'}\n",
		filepath.Join(folder, "registry"), registryAddress())
	path := filepath.Join(folder, "registry.yaml")
	specification.Components = append(specification.Components, host.Component{Name: "registry", Command: []string{registry, "serve", path}})
	return specification, os.WriteFile(path, []byte(settings), 0o600)
}

func (p plan) apiServerCommand() []string {
	return []string{"kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		fmt.Sprintf("--secure-port=%d", apiPort), "--advertise-address=" + hostAddress(0),
		"--tls-cert-file=" + p.keys("kube-apiserver.crt"), "--tls-private-key-file=" + p.keys("kube-apiserver.key"),
		"--client-ca-file=" + p.keys("authority.crt"),
		"--service-cluster-ip-range=" + serviceSubnet,
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + p.keys("service-accounts.crt"),
		"--service-account-signing-key-file=" + p.keys("service-accounts.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--kubelet-client-certificate=" + p.keys("kubelet-client.crt"), "--kubelet-client-key=" + p.keys("kubelet-client.key"),
		"--kubelet-certificate-authority=" + p.keys("authority.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + p.keys("front-proxy-authority.crt"), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p.keys("front-proxy.crt"), "--proxy-client-key-file=" + p.keys("front-proxy.key"),
		// No kube-proxy runs beside the API server: webhooks and aggregated APIs are called at their pods.
		"--enable-aggregator-routing",
		fmt.Sprintf("--default-not-ready-toleration-seconds=%d", tolerationSeconds),
		fmt.Sprintf("--default-unreachable-toleration-seconds=%d", tolerationSeconds),
	}
}

// nodeHost runs containerd and the kubelet as on any node: at their usual paths, which are folders of the run.
func (p plan) nodeHost(node fabric.Host, cgroup string) (host.Specification, error) {
	folder := p.hostFolder(node.Name)
	in := func(name string) string { return filepath.Join(folder, name) }
	specification := host.Specification{Name: node.Name, Folder: folder, Binds: []host.Bind{
		{Source: in("run"), Target: "/run"}, {Source: in("lib"), Target: "/var/lib"}, {Source: in("log"), Target: "/var/log"},
		{Source: in("hosts"), Target: "/etc/hosts"},
	}}
	// As after a restart of a machine: what is in /run is gone.
	if err := os.RemoveAll(in("run")); err != nil {
		return specification, err
	}
	for _, name := range []string{"run", "lib/kubelet", "lib/containerd", "log"} {
		if err := os.MkdirAll(in(name), 0o755); err != nil {
			return specification, err
		}
	}
	if err := p.writeNodeFiles(node, folder, cgroup); err != nil {
		return specification, err
	}
	specification.Components = []host.Component{
		{Name: "containerd", Command: []string{"/usr/bin/containerd", "--config", in("containerd.toml")}},
		{Name: "kubelet", After: "/run/containerd/containerd.sock", Command: []string{"kubelet",
			"--config=" + in("kubelet.yaml"), "--kubeconfig=" + p.keys(node.Name+".kubeconfig"),
			"--hostname-override=" + node.Name, "--node-ip=" + node.Address,
			"--node-labels=topology.kubernetes.io/zone=zone-" + strings.TrimPrefix(node.Name, "node-"),
		}},
		{Name: "kube-proxy", After: apiAddress(), Command: []string{"kube-proxy", "--config=" + in("kube-proxy.yaml")}},
		{Name: "device-plugin", Command: []string{"device-plugin", "nvidia.com/gpu", "2"}},
	}
	return specification, nil
}

// writeNodeFiles fills the template, in which each file begins with a line `=== NAME`.
func (p plan) writeNodeFiles(node fabric.Host, folder, cgroup string) error {
	parsed, err := template.New("node").Option("missingkey=error").Parse(nodeFiles)
	if err != nil {
		return err
	}
	var filled strings.Builder
	err = parsed.Execute(&filled, map[string]any{
		"Name": node.Name, "Address": node.Address, "PodSubnet": node.PodSubnet, "AllPods": podSubnet, "Folder": folder,
		"Cgroup": cgroup, "Pause": pauseImage, "Authority": p.keys("authority.crt"), "Certificate": p.keys(node.Name + ".crt"),
		"Key": p.keys(node.Name + ".key"), "DNS": dnsServiceIP, "Domain": clusterDomain, "LeaseSeconds": leaseDurationSeconds,
		"ProxyKubeconfig": p.keys("kube-proxy.kubeconfig"), "RegistryName": registryName, "RegistryPort": registryPort,
		"RegistryHost": hostAddress(0), "Hosts": p.hosts,
	})
	if err != nil {
		return fmt.Errorf("fill the node's files: %w", err)
	}
	for _, part := range strings.Split(filled.String(), "=== ")[1:] {
		name, content, _ := strings.Cut(part, "\n")
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
