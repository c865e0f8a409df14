// Package image makes container images from files of this machine, without a builder and without a registry.
//
// An image has three layers, in the order in which they change: what every image needs (certificates, users, /tmp), the shared
// libraries of the program, the program itself. Those that are equal are stored once on a node.
package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// nonRoot is the user that images run as, as in the well-known distroless images.
	nonRoot      = 65532
	certificates = "/etc/ssl/certs/ca-certificates.crt"
)

// Recipe says what goes into an image.
type Recipe struct {
	// Name is the image's full name with its tag, as in a pod's spec.
	Name string
	// Program is a file of this machine; it becomes the entry point, in the image's root.
	Program string
	// Files are further files and folders of this machine, each SOURCE:TARGET.
	Files []string
}

// WriteArchive writes the image as an OCI layout in a tar file, as `ctr images import` and other tools read it.
func (r Recipe) WriteArchive(path string) error {
	made, err := r.image()
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp(filepath.Dir(path), "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	index, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	named := layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          r.Name,
		"org.opencontainers.image.ref.name": r.Name,
	})
	if err := index.AppendImage(made, named); err != nil {
		return err
	}
	archive, err := os.Create(path)
	if err != nil {
		return err
	}
	writer := tar.NewWriter(archive)
	return errors.Join(writer.AddFS(os.DirFS(folder)), writer.Close(), archive.Close())
}

func (r Recipe) image() (v1.Image, error) {
	libraries, err := sharedLibraries(r.Program)
	if err != nil {
		return nil, err
	}
	base, err := baseLayer()
	if err != nil {
		return nil, err
	}
	layers := []v1.Layer{base}
	if len(libraries) > 0 {
		files := newFiles()
		for _, library := range libraries {
			if err := files.copy(library, library); err != nil {
				return nil, err
			}
		}
		layers = append(layers, files.layer())
	}
	entry := "/" + filepath.Base(r.Program)
	files := newFiles()
	for _, pair := range append([]string{r.Program + ":" + entry}, r.Files...) {
		source, target, found := strings.Cut(pair, ":")
		if !found || !strings.HasPrefix(target, "/") {
			return nil, fmt.Errorf("%q is not SOURCE:TARGET with an absolute target", pair)
		}
		if err := files.copyTree(source, target); err != nil {
			return nil, err
		}
	}
	made, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), append(layers, files.layer())...)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(made, configuration(made, entry))
}

func configuration(made v1.Image, entry string) *v1.ConfigFile {
	file, err := made.ConfigFile()
	if err != nil { // it is in memory
		panic(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{
		Entrypoint: []string{entry},
		User:       fmt.Sprintf("%d:%d", nonRoot, nonRoot),
		WorkingDir: "/",
		Env:        []string{"PATH=/", "SSL_CERT_FILE=" + certificates},
	}
	return file
}

func baseLayer() (v1.Layer, error) {
	files := newFiles()
	files.write("/etc/passwd", []byte(fmt.Sprintf("root:x:0:0:root:/:/none\nnonroot:x:%[1]d:%[1]d:nonroot:/:/none\n", nonRoot)), 0o644)
	files.write("/etc/group", []byte(fmt.Sprintf("root:x:0:\nnonroot:x:%d:\n", nonRoot)), 0o644)
	files.write("/etc/nsswitch.conf", []byte("hosts: files dns\n"), 0o644)
	files.folder("/tmp", 0o1777)
	if err := files.copy(certificates, certificates); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return files.layer(), nil
}

// A line of ldd that names a file: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or the loader alone.
var lddLine = regexp.MustCompile(`(?m)^\s+(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$`)

// sharedLibraries lists all that a program is linked with, at any distance, and its loader; nothing for a static one.
func sharedLibraries(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("read the program %s: %w", program, err)
	}
	defer file.Close()
	needed, err := file.ImportedLibraries()
	if err != nil || len(needed) == 0 {
		return nil, err
	}
	said, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", program, err, said)
	}
	if bytes.Contains(said, []byte("not found")) {
		return nil, fmt.Errorf("libraries of %s are missing on this machine:\n%s", program, said)
	}
	var libraries []string
	for _, match := range lddLine.FindAllSubmatch(said, -1) {
		libraries = append(libraries, string(match[1]))
	}
	slices.Sort(libraries)
	return slices.Compact(libraries), nil
}

// files collects the content of a layer. Times are left out, so that equal files make an equal layer.
type files struct {
	content bytes.Buffer
	archive *tar.Writer
	folders map[string]bool
}

func newFiles() *files {
	made := &files{folders: map[string]bool{"/": true}}
	made.archive = tar.NewWriter(&made.content)
	return made
}

// Writing to memory does not fail, so neither do these.
func (f *files) write(path string, content []byte, mode int64) {
	f.parents(path)
	_ = f.archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path[1:], Size: int64(len(content)), Mode: mode})
	_, _ = f.archive.Write(content)
}

func (f *files) folder(path string, mode int64) {
	if f.folders[path] {
		return
	}
	f.parents(path)
	f.folders[path] = true
	_ = f.archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path[1:] + "/", Mode: mode})
}

func (f *files) parents(path string) {
	if parent := filepath.Dir(path); !f.folders[parent] {
		f.folder(parent, 0o755)
	}
}

func (f *files) copy(source, target string) error {
	opened, err := os.Open(source)
	if err != nil {
		return err
	}
	defer opened.Close()
	information, err := opened.Stat()
	if err != nil {
		return err
	}
	content, err := io.ReadAll(opened)
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if information.Mode()&0o100 != 0 {
		mode = 0o755
	}
	f.write(target, content, mode)
	return nil
}

func (f *files) copyTree(source, target string) error {
	return filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		place := filepath.Join(target, strings.TrimPrefix(path, source))
		if entry.IsDir() {
			f.folder(place, 0o755)
			return nil
		}
		return f.copy(path, place)
	})
}

// layer ends the collection. It is not compressed: it goes no further than this machine.
func (f *files) layer() v1.Layer {
	_ = f.archive.Close()
	return static.NewLayer(f.content.Bytes(), types.OCIUncompressedLayer)
}
