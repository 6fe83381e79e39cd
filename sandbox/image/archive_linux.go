package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// blobName is what a layout's blobs are called in an archive.
var blobName = regexp.MustCompile(`^blobs/sha256/[0-9a-f]{64}$`)

// openArchive opens a tar file and looks at its first bytes.
func openArchive(file string) (*os.File, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	start := make([]byte, 4)
	n, err := f.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		f.Close()
		return nil, err
	}
	if start = start[:n]; bytes.HasPrefix(start, []byte{0x1f, 0x8b}) || bytes.Equal(start, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		f.Close()
		return nil, errors.New("is compressed: decompress the archive first (its layers may stay compressed)")
	}
	return f, nil
}

// openLayoutArchive unpacks an archive's layout into the store's temporary folder. Only files that
// a layout has are unpacked, under names that are made here.
func (s *Store) openLayoutArchive(ctx context.Context, r Reference) (source, error) {
	f, err := openArchive(r.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unlock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	tmp, err := s.temporary()
	if err != nil {
		unlock()
		return nil, err
	}
	cleanup := func() {
		RemoveAll(tmp) // an error is for the next Open
		unlock()
	}
	src, err := s.unpackLayout(ctx, f, filepath.Join(tmp, "layout"), r.Tag)
	if err != nil {
		cleanup()
		return nil, err
	}
	src.(*ociImage).cleanup = cleanup
	return src, nil
}

func (s *Store) unpackLayout(ctx context.Context, f *os.File, folder, tag string) (source, error) {
	t, err := newTree(folder, 0, s.options.MaxBytes)
	if err != nil {
		return nil, err
	}
	defer t.close()
	archive := tar.NewReader(f)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
		file := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || file != "index.json" && !blobName.MatchString(file) {
			continue
		}
		if err := t.file(file, meta{mode: 0o600}, h.Size, archive); err != nil {
			return nil, fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	return s.openLayout(folder, tag)
}

// openDockerArchive finds the image in what docker save has written.
func (s *Store) openDockerArchive(r Reference) (source, error) {
	var tag *name.Tag
	if r.Tag != "" {
		t, err := name.NewTag(r.Tag)
		if err != nil {
			return nil, err
		}
		tag = &t
	}
	f, err := openArchive(r.Path)
	if err != nil {
		return nil, err
	}
	manifest, err := readDockerManifest(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	image, err := tarball.ImageFromPath(r.Path, tag)
	if err != nil {
		return nil, err
	}
	// The configuration's digest is the image's: it has the digests of all layers.
	id, err := image.ConfigName()
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	// Layers without a digest would be left out.
	for _, d := range manifest {
		if has, knows := len(d.Layers), len(config.RootFS.DiffIDs); named(d, tag) && has != knows {
			return nil, fmt.Errorf("has %d layers, and %d in its configuration", has, knows)
		}
	}
	o := &ociImage{id: id.String(), image: image, config: config}
	return o, o.check()
}

// named tells whether a docker archive's image is the one with the tag; all are, if there is none.
func named(d tarball.Descriptor, tag *name.Tag) bool {
	return tag == nil || slices.ContainsFunc(d.RepoTags, func(s string) bool {
		t, err := name.NewTag(s)
		return err == nil && t.Name() == tag.Name()
	})
}

// readDockerManifest reads manifest.json. It refuses archives that would be read into memory
// beyond reason: those whose files are larger than the archive (sparse ones), and large documents.
func readDockerManifest(f *os.File) (tarball.Manifest, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	sizes := make(map[string]int64)
	left := info.Size()
	archive := tar.NewReader(f)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
		if left -= h.Size; left < 0 {
			return nil, fmt.Errorf("entry %q: larger than the archive", h.Name)
		}
		// Of several entries with one name the first is read. A link is no document.
		if _, again := sizes[path.Clean(h.Name)]; !again && h.Typeflag == tar.TypeReg {
			sizes[path.Clean(h.Name)] = h.Size
		} else if !again {
			sizes[path.Clean(h.Name)] = -1
		}
	}
	document := func(file string) error {
		if size, ok := sizes[path.Clean(file)]; !ok || size < 0 {
			return fmt.Errorf("not a docker archive: there is no file %q in it", file)
		} else if size > maxDocument {
			return fmt.Errorf("%s: has %d bytes, more than %d", file, size, maxDocument)
		}
		return nil
	}
	if err := document("manifest.json"); err != nil {
		return nil, err
	}
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(f.Name()) })
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	for _, image := range manifest {
		if err := document(image.Config); err != nil {
			return nil, err
		}
	}
	return manifest, nil
}
