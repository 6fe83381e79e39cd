package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// A plan is a root to be assembled from files of this machine, which it has looked at but not read.
// Every file gets the path that it has on the machine, with every symlink on the way to it, so what
// finds it here finds it there.
type plan struct {
	entries map[string]entry // by absolute path
	read    map[string]bool  // paths that place has walked
}

// An entry is a folder, a symlink or a file.
type entry struct {
	mode     fs.FileMode
	link     string   // a symlink's target
	content  string   // a small file's content, if it is not copied
	source   string   // the file that is copied
	identity identity // and what it was
}

// An identity changes whenever a file's content may have.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func identify(info fs.FileInfo) identity {
	st := info.Sys().(*syscall.Stat_t)
	return identity{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// maxLinks is how many symlinks are followed, as in path_resolution(7).
const maxLinks = 40

func newPlan() *plan {
	return &plan{entries: make(map[string]entry), read: make(map[string]bool)}
}

// place plans a file of this machine, or a folder without what is in it, at its own path, and
// returns where it really is.
func (p *plan) place(file string) (string, error) {
	at, rest := "/", strings.Split(path.Clean(file), "/")[1:]
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		info, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if links++; links > maxLinks {
				return "", &fs.PathError{Op: "open", Path: file, Err: syscall.ELOOP}
			}
			p.entries[next] = entry{mode: fs.ModeSymlink, link: target}
			if path.IsAbs(target) {
				at = "/"
			}
			// Not cleaned as one path: .. means the parent of what a symlink leads to.
			rest = append(strings.FieldsFunc(target, func(c rune) bool { return c == '/' }), rest...)
		case info.IsDir():
			p.folder(next)
			at = next
		case len(rest) > 0:
			return "", &fs.PathError{Op: "open", Path: file, Err: syscall.ENOTDIR}
		default:
			return next, p.copy(next, next)
		}
	}
	return at, nil
}

// folder plans a folder of the usual mode, unless it is planned.
func (p *plan) folder(name string) {
	if _, ok := p.entries[name]; !ok && name != "/" {
		p.entries[name] = entry{mode: fs.ModeDir | 0o755}
	}
}

// copy plans a copy of the source. Others than its owner must be able to read it: a pod's
// author must not get at what only this process may read.
func (p *plan) copy(name, source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source)
	}
	if info.Mode().Perm()&0o004 == 0 {
		return fmt.Errorf("%s is not for everybody to read (%v), so it is not copied", source, info.Mode())
	}
	p.entries[name] = entry{mode: info.Mode().Perm() &^ 0o022, source: source, identity: identify(info)}
	return nil
}

// link plans a symlink where there is nothing yet.
func (p *plan) link(name, target string) {
	if _, ok := p.entries[name]; !ok && name != target {
		p.parents(name)
		p.entries[name] = entry{mode: fs.ModeSymlink, link: target}
	}
}

// file plans a file with the content given.
func (p *plan) file(name, content string) {
	p.parents(name)
	p.entries[name] = entry{mode: 0o644, content: content}
}

func (p *plan) parents(name string) {
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		p.folder(dir)
	}
}

// optional plans a file that may be missing or unreadable.
func (p *plan) optional(file string) {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o004 == 0 {
		return
	}
	p.place(file) //nolint:errcheck // gone since
}

// key implements source.
func (p *plan) key() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.entries)) {
		fmt.Fprintf(&b, "%q %+v\n", name, p.entries[name])
	}
	return b.String()
}

func (p *plan) close() {}

// assemble implements source.
func (p *plan) assemble(ctx context.Context, t *tree) (Config, error) {
	for _, name := range slices.Sorted(maps.Keys(p.entries)) {
		if err := ctx.Err(); err != nil {
			return Config{}, err
		}
		if err := p.entries[name].write(t, strings.TrimPrefix(name, "/")); err != nil {
			return Config{}, err
		}
	}
	return Config{Env: []string{"PATH=" + defaultPath}}, mountPoints(t)
}

func (e entry) write(t *tree, name string) error {
	m := meta{mode: e.mode}
	switch {
	case e.mode.IsDir():
		return t.mkdir(name, m)
	case e.mode&fs.ModeSymlink != 0:
		return t.symlink(name, m, e.link)
	case e.source == "":
		return t.file(name, m, int64(len(e.content)), strings.NewReader(e.content))
	}
	f, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if identify(info) != e.identity {
		return fmt.Errorf("%s: %w", e.source, errChanged)
	}
	m.modTime = info.ModTime()
	return t.file(name, m, e.identity.size, f)
}

// errChanged is for a package's upgrade in the midst.
var errChanged = errors.New("has changed while it was being copied; try again")
