package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A volume of files is updated atomically, as kubelet does: the files are in a folder of their own, ..data is a link
// to it, which a rename replaces, and the names that a program opens are links through ..data.
const dataLink = "..data"

// ownership gives files away; mode is adjusted for the volume's group.
type ownership struct {
	own   func(path string, uid, gid int) error
	group *int64 // fsGroup
}

func (o ownership) gid() int {
	if o.group == nil {
		return 0
	}
	return int(*o.group)
}

func (o ownership) mode(m int32) fs.FileMode {
	if o.group != nil {
		m |= 0o440
	}
	return fs.FileMode(m) & fs.ModePerm
}

// write makes the volume's folder show exactly these files; a reader sees all the old ones or all the new ones.
func (p payload) write(dir string, o ownership) error {
	if p.shown(dir, o) {
		return nil
	}
	fresh, err := os.MkdirTemp(dir, "..data_")
	if err != nil {
		return err
	}
	if err := p.fill(fresh, o); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	temporary := filepath.Join(dir, "..data_tmp")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(fresh), temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := p.link(dir); err != nil {
		return err
	}
	if old != "" {
		return os.RemoveAll(filepath.Join(dir, filepath.Base(old)))
	}
	return nil
}

// shown tells whether the folder shows these files already.
func (p payload) shown(dir string, o ownership) bool {
	if _, err := os.Readlink(filepath.Join(dir, dataLink)); err != nil {
		return false
	}
	count := 0
	root := filepath.Join(dir, dataLink) + "/"
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		want, ok := p[rel]
		data, err := os.ReadFile(name)
		info, err2 := d.Info()
		if !ok || err != nil || err2 != nil || !bytes.Equal(data, want.data) || info.Mode().Perm() != o.mode(want.mode) {
			return fs.ErrInvalid
		}
		count++
		return nil
	})
	return err == nil && count == len(p)
}

func (p payload) fill(dir string, o ownership) error {
	if err := o.folder(dir); err != nil {
		return err
	}
	for _, name := range sortedKeys(p) {
		path := filepath.Join(dir, name)
		if err := o.folders(dir, filepath.Dir(name)); err != nil {
			return err
		}
		if err := os.WriteFile(path, p[name].data, 0o600); err != nil {
			return err
		}
		if err := o.own(path, 0, o.gid()); err != nil {
			return err
		}
		if err := os.Chmod(path, o.mode(p[name].mode)); err != nil { // after the change of owner, and whatever umask is
			return err
		}
	}
	return nil
}

// folder gives a folder to the pod, readable for everybody in it.
func (o ownership) folder(path string) error {
	if err := o.own(path, 0, o.gid()); err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}

func (o ownership) folders(root, below string) error {
	if below == "." {
		return nil
	}
	if err := o.folders(root, filepath.Dir(below)); err != nil {
		return err
	}
	path := filepath.Join(root, below)
	if err := os.Mkdir(path, 0o755); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return o.folder(path)
}

// link makes the first element of each path a link through ..data and removes the links of files that are gone.
func (p payload) link(dir string) error {
	want := map[string]bool{}
	for name := range p {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if want[e.Name()] {
			delete(want, e.Name())
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(want) {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}
