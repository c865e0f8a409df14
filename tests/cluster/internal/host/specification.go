// Package host is PID 1 of one host of the cluster: it lives in namespaces of its own (processes, mounts, network, name),
// starts the host's components, starts them again when they end, and takes commands on its standard input.
// When it ends, the kernel ends everything in it: no other cleaning is needed for processes, mounts and links.
package host

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Specification is what a host is made of; the driver writes it, PID 1 reads it.
type Specification struct {
	// Name is the host name.
	Name string `json:"name"`
	// Folder holds all that the host writes, as the machine sees it.
	Folder string `json:"folder"`
	// Binds puts files and folders of Folder where the host's programs look for them.
	Binds []Bind `json:"binds"`
	// Components are started in this order.
	Components []Component `json:"components"`
}

// Bind mounts Source over Target, which must exist on the machine.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Component is a program that is kept running.
type Component struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	// After holds the program back until this exists: a path, or host:port that accepts connections. Empty: at once.
	After string `json:"after"`
}

// LogFile is where a component's output goes, as the machine sees it.
func (s Specification) LogFile(component string) string {
	return filepath.Join(s.Folder, "log", component+".log")
}

// Write stores the specification where Run will read it.
func (s Specification) Write() (string, error) {
	path := filepath.Join(s.Folder, "host.json")
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("write the specification of %s: %w", s.Name, err)
	}
	return path, nil
}

func read(path string) (Specification, error) {
	var specification Specification
	content, err := os.ReadFile(path)
	if err != nil {
		return specification, fmt.Errorf("read the host's specification: %w", err)
	}
	if err := json.Unmarshal(content, &specification); err != nil {
		return specification, fmt.Errorf("parse %s: %w", path, err)
	}
	return specification, nil
}
