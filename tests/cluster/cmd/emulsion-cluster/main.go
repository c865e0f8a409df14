// One binary for a whole Kubernetes and for the driver that brings it up: the first argument says which part to be.
package main

import (
	"fmt"
	"os"

	"emulsion.dev/cluster/internal/component"
	"emulsion.dev/cluster/internal/driver"
)

func main() {
	if len(os.Args) > 1 {
		if run, known := component.All[os.Args[1]]; known {
			// Each component parses os.Args as if it were its own binary.
			os.Args = os.Args[1:]
			os.Exit(run())
		}
	}
	if err := driver.NewCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "emulsion-cluster:", err)
		os.Exit(1)
	}
}
