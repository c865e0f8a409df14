package driver

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"emulsion.dev/cluster/internal/certificate"
)

// makeKeys makes every certificate of the cluster, and a kubeconfig for each component that calls the API server.
func (p plan) makeKeys() error {
	folder := filepath.Join(p.folder, "keys")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	authority, err := certificate.NewAuthority(folder, "authority")
	if err != nil {
		return err
	}
	front, err := certificate.NewAuthority(folder, "front-proxy-authority")
	if err != nil {
		return err
	}
	if _, err := front.Issue("front-proxy", certificate.Subject{User: "front-proxy"}); err != nil {
		return err
	}
	if _, err := authority.Issue("service-accounts", certificate.Subject{User: "service-accounts"}); err != nil {
		return err
	}
	server := certificate.Subject{
		User:      "kube-apiserver",
		Names:     []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain},
		Addresses: []string{"127.0.0.1", apiServiceIP, hostAddress(0)},
	}
	if _, err := authority.Issue("kube-apiserver", server); err != nil {
		return err
	}
	clients := map[string]certificate.Subject{
		"admin":                   {User: "admin", Groups: []string{"system:masters"}},
		"kubelet-client":          {User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
		"kube-controller-manager": {User: "system:kube-controller-manager"},
		"kube-scheduler":          {User: "system:kube-scheduler"},
		"kube-proxy":              {User: "system:kube-proxy"},
	}
	for _, node := range p.nodes() {
		clients[node.Name] = certificate.Subject{
			User: "system:node:" + node.Name, Groups: []string{"system:nodes"}, Names: []string{node.Name}, Addresses: []string{node.Address},
		}
	}
	for name, subject := range clients {
		pair, err := authority.Issue(name, subject)
		if err != nil {
			return err
		}
		if err := writeKubeconfig(p.keys(name+".kubeconfig"), "https://"+apiAddress(), authority.PEM, pair); err != nil {
			return err
		}
	}
	return nil
}

// writeUserKubeconfig writes the one that people and tests use: the same administrator, through a port of the machine's loopback.
func (p plan) writeUserKubeconfig(path string, port int) error {
	var files [3][]byte
	for i, name := range []string{"authority.crt", "admin.crt", "admin.key"} {
		content, err := os.ReadFile(p.keys(name))
		if err != nil {
			return err
		}
		files[i] = content
	}
	pair := certificate.Pair{Certificate: files[1], Key: files[2]}
	return writeKubeconfig(path, fmt.Sprintf("https://127.0.0.1:%d", port), files[0], pair)
}

func writeKubeconfig(path, server string, authority []byte, client certificate.Pair) error {
	encode := base64.StdEncoding.EncodeToString
	content, err := yaml.Marshal(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": "emulsion",
		"clusters": []any{map[string]any{"name": "emulsion", "cluster": map[string]any{
			"server": server, "certificate-authority-data": encode(authority),
		}}},
		"users": []any{map[string]any{"name": "emulsion", "user": map[string]any{
			"client-certificate-data": encode(client.Certificate), "client-key-data": encode(client.Key),
		}}},
		"contexts": []any{map[string]any{"name": "emulsion", "context": map[string]any{"cluster": "emulsion", "user": "emulsion"}}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}
