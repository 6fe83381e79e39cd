package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Marks of removed files in a layer, by the OCI image specification (layer.md, "Whiteouts").
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	aufsMeta = ".wh..wh." // other names of this prefix are aufs's own
)

// A layer is one layer's tar while it is applied to what is below it.
type layer struct {
	tree *tree
	made map[string]bool // places that this layer has written, and their parents: no whiteout of it removes them
}

// apply unpacks a layer on top of the tree.
func apply(ctx context.Context, t *tree, r io.Reader) error {
	l := &layer{tree: t, made: make(map[string]bool)}
	t.placed = l.mark
	defer func() { t.placed = nil }()
	archive := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if err := l.entry(h, archive); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

func (l *layer) mark(place string) {
	for ; !l.made[place]; place = path.Dir(place) {
		l.made[place] = true
	}
}

// inside is an entry's name as a tree takes it. An absolute one is meant from the image's root.
func inside(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", errors.New("has a zero byte in its name")
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%q leads outside of the image", name)
	}
	return clean, nil
}

func (l *layer) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	if base := path.Base(name); strings.HasPrefix(base, whiteout) {
		return l.whiteout(path.Dir(name), base)
	}
	// Extended attributes are left out: capabilities of files are not given, and those that mean
	// something to overlayfs would lead it elsewhere.
	m := meta{uid: h.Uid, gid: h.Gid, mode: h.FileInfo().Mode(), modTime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeDir:
		return l.tree.mkdir(name, m)
	case tar.TypeReg, tar.TypeGNUSparse:
		return l.tree.file(name, m, h.Size, content)
	case tar.TypeSymlink:
		return l.tree.symlink(name, m, h.Linkname)
	case tar.TypeLink:
		old, err := inside(h.Linkname)
		if err != nil {
			return err
		}
		return l.tree.link(name, old)
	}
	// A device node would be a way to the machine, and what was below must not show instead of it.
	l.tree.skipped++
	place, err := l.tree.locate(name)
	if err != nil {
		return err
	}
	return l.tree.clear(place)
}

// whiteout removes from the layers below what the mark in the folder says.
func (l *layer) whiteout(dir, base string) error {
	dir, err := resolve(l.tree.folder, dir)
	if err != nil {
		return err
	}
	if base == opaque {
		return l.removeBelow(dir)
	}
	name := strings.TrimPrefix(base, whiteout)
	switch {
	case strings.HasPrefix(base, aufsMeta):
		return nil
	case name == "" || name == "." || name == "..":
		return errors.New("a whiteout of no file")
	}
	place := path.Join(dir, name)
	if !l.made[place] {
		return l.tree.remove(place)
	}
	if info, err := l.tree.root.Lstat(place); err != nil || !info.IsDir() {
		return nil // removed again by the same layer, or its own
	}
	return l.removeBelow(place)
}

// removeBelow removes what is in a folder and not of this layer.
func (l *layer) removeBelow(dir string) error {
	info, err := l.tree.root.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := fs.ReadDir(l.tree.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		place := path.Join(dir, e.Name())
		if !l.made[place] {
			err = l.tree.remove(place)
		} else if e.IsDir() {
			err = l.removeBelow(place)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
