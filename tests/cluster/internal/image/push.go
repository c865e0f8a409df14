package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Push sends the only image of an archive that WriteArchive made to a registry without TLS.
func Push(archive, reference string) error {
	target, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		return fmt.Errorf("%q is no image reference: %w", reference, err)
	}
	folder, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := unpack(archive, folder); err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	path, err := layout.FromPath(folder)
	if err != nil {
		return fmt.Errorf("%s is no OCI layout: %w", archive, err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	if len(manifest.Manifests) != 1 {
		return fmt.Errorf("%s holds %d images, want 1", archive, len(manifest.Manifests))
	}
	found, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return err
	}
	return remote.Write(target, found)
}

func unpack(archive, folder string) error {
	opened, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer opened.Close()
	for reader := tar.NewReader(opened); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(header.Name) {
			return fmt.Errorf("%q leads out of the archive", header.Name)
		}
		path := filepath.Join(folder, header.Name)
		if header.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			err = extract(path, reader)
		}
		if err != nil {
			return err
		}
	}
}

func extract(path string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}
