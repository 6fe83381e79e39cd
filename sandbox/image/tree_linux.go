package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// digest is a SHA-256 in hex.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// A tree is a root file system while it is written. Names are relative and clean, "." is the root;
// their parents are resolved inside, whatever symlinks there are, so nothing lands outside.
//
// Folders get their modes and times at the end, by finish: until then the writer can work in all.
type tree struct {
	folder  string
	root    *os.Root
	base    int   // added to owners; 0: none is set
	left    int64 // bytes that may still be written
	max     int64
	folders map[string]meta
	skipped int
	placed  func(name string) // told every name that has been written, with its parents' symlinks resolved; may be nil
}

// meta is what a file has besides content.
type meta struct {
	uid, gid int // in the image
	mode     fs.FileMode
	modTime  time.Time // zero: now
}

// entryCost is what a file, folder or link counts besides its content: an inode and a name, about.
const entryCost = 4 << 10

func newTree(folder string, base int, max int64) (*tree, error) {
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	t := &tree{folder: folder, root: root, base: base, left: max, max: max, folders: make(map[string]meta)}
	return t, t.mkdir(".", meta{mode: 0o755})
}

func (t *tree) close() { t.root.Close() }

// charge takes n bytes from what the image may take.
func (t *tree) charge(n int64) error {
	if n < 0 || n > t.left {
		return fmt.Errorf("larger than %d bytes, unpacked", t.max)
	}
	t.left -= n
	return nil
}

// locate resolves the name's parent, makes it if need be, and returns the path to write to.
func (t *tree) locate(name string) (string, error) {
	if name == "." {
		return name, nil
	}
	parent, err := resolve(t.folder, path.Dir(name))
	if err != nil {
		return "", err
	}
	if err := t.parents(parent); err != nil {
		return "", err
	}
	return path.Join(parent, path.Base(name)), nil
}

// parents makes a folder, without symlinks in its path, and those above it.
func (t *tree) parents(dir string) error {
	info, err := t.root.Lstat(dir)
	if err == nil && !info.IsDir() {
		return &fs.PathError{Op: "open", Path: "/" + dir, Err: syscall.ENOTDIR}
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := t.parents(path.Dir(dir)); err != nil {
		return err
	}
	return t.put(dir, meta{mode: 0o755}, func() error { return t.root.Mkdir(dir, 0o700) })
}

// put makes what is at the place by the function and gives it its owner and, if it is no symlink,
// its mode and time.
func (t *tree) put(place string, m meta, create func() error) error {
	if err := t.charge(entryCost); err != nil {
		return err
	}
	if err := create(); err != nil {
		return err
	}
	if t.placed != nil {
		t.placed(place)
	}
	info, err := t.root.Lstat(place)
	if err != nil {
		return err
	}
	if t.base > 0 {
		if err := t.root.Lchown(place, t.base+mapped(m.uid), t.base+mapped(m.gid)); err != nil {
			return err
		}
	}
	switch {
	case info.IsDir():
		t.folders[place] = m
		return nil
	case info.Mode().IsRegular():
		return t.set(place, m)
	}
	return nil
}

// mapped is an owner as pods know owners.
func mapped(id int) int {
	if id < 0 || id > maxID {
		return maxID - 1
	}
	return id
}

// set gives a file or folder its mode and time. Set-user-ID and set-group-ID are dropped: as a
// pod's programs gain no privileges, they have no use, and this machine's users must not find any.
func (t *tree) set(place string, m meta) error {
	mode := m.mode.Perm() | m.mode&fs.ModeSticky
	if err := t.root.Chmod(place, mode); err != nil {
		return err
	}
	if m.modTime.IsZero() {
		return nil
	}
	return t.root.Chtimes(place, m.modTime, m.modTime)
}

// remove removes what is at a place, if there is anything.
func (t *tree) remove(place string) error {
	if place == "." {
		return errors.New("the root directory can't be replaced")
	}
	maps.DeleteFunc(t.folders, func(dir string, _ meta) bool {
		return dir == place || strings.HasPrefix(dir, place+"/")
	})
	return t.root.RemoveAll(place)
}

// clear removes what is at a place for something else to be put there.
func (t *tree) clear(place string) error {
	info, err := t.root.Lstat(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() && place != "." {
		return t.root.Remove(place)
	}
	return t.remove(place)
}

// mkdir makes a folder, or changes the one that is there.
func (t *tree) mkdir(name string, m meta) error {
	place, err := t.locate(name)
	if err != nil {
		return err
	}
	return t.put(place, m, func() error {
		if info, err := t.root.Lstat(place); err == nil && info.IsDir() {
			return nil
		}
		if err := t.clear(place); err != nil {
			return err
		}
		return t.root.Mkdir(place, 0o700)
	})
}

// file writes a file of size bytes; it replaces what is there.
func (t *tree) file(name string, m meta, size int64, content io.Reader) error {
	place, err := t.locate(name)
	if err != nil {
		return err
	}
	if err := t.charge(size); err != nil {
		return err
	}
	return t.put(place, m, func() error {
		if err := t.clear(place); err != nil {
			return err
		}
		f, err := t.root.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		n, err := io.Copy(f, io.LimitReader(content, size))
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes of %d: %w", n, size, io.ErrUnexpectedEOF)
		}
		return errors.Join(err, f.Close())
	})
}

// symlink makes a symlink; it replaces what is there. Whatever it says is only ever followed inside.
func (t *tree) symlink(name string, m meta, target string) error {
	place, err := t.locate(name)
	if err != nil {
		return err
	}
	return t.put(place, m, func() error {
		if err := t.clear(place); err != nil {
			return err
		}
		return t.root.Symlink(target, place)
	})
}

// link makes another name of the file old, which must be there; it replaces what is there.
func (t *tree) link(name, old string) error {
	place, err := t.locate(name)
	if err != nil {
		return err
	}
	parent, err := resolve(t.folder, path.Dir(old))
	if err != nil {
		return err
	}
	old = path.Join(parent, path.Base(old))
	if info, err := t.root.Lstat(old); err != nil {
		return fmt.Errorf("hard link to /%s: %w", old, err)
	} else if info.IsDir() {
		return fmt.Errorf("hard link to /%s: is a folder", old)
	}
	if old == place {
		return nil
	}
	if err := t.charge(entryCost); err != nil {
		return err
	}
	if err := t.clear(place); err != nil {
		return err
	}
	if err := t.root.Link(old, place); err != nil {
		return err
	}
	if t.placed != nil {
		t.placed(place)
	}
	return nil
}

// missing makes a folder where the image has nothing, not even a symlink.
func (t *tree) missing(name string, mode fs.FileMode) error {
	place, err := t.locate(name)
	if err != nil {
		return err
	}
	if _, err := t.root.Lstat(place); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return t.mkdir(name, meta{mode: mode})
}

// finish gives the folders their modes and times, children first.
func (t *tree) finish() error {
	names := slices.Sorted(maps.Keys(t.folders))
	for _, name := range slices.Backward(names) {
		if name == "." {
			continue
		}
		if err := t.set(name, t.folders[name]); err != nil {
			return err
		}
	}
	return t.set(".", t.folders["."])
}
