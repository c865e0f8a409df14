package driver

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	// How much of each log is shown when a cluster does not come up.
	shownLines = 8
	shownBytes = 16 << 10
)

// showLogs prints the end of every log: the folder that they are in is removed a moment later.
func (r run) showLogs(to io.Writer) {
	logs, _ := filepath.Glob(filepath.Join(r.folder, "*", "log", "*.log"))
	for _, path := range append(logs, r.log()) {
		lines := lastLines(path)
		if len(lines) == 0 {
			continue
		}
		name, _ := filepath.Rel(r.folder, path)
		fmt.Fprintf(to, "── %s\n%s\n", name, strings.Join(lines, "\n"))
	}
}

func lastLines(path string) []string {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	if information, err := file.Stat(); err == nil && information.Size() > shownBytes {
		_, _ = file.Seek(-shownBytes, io.SeekEnd)
	}
	content, err := io.ReadAll(file)
	if err != nil || len(content) == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return lines[max(0, len(lines)-shownLines):]
}
