package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Parent is the cgroup of a sandbox, below which are all its pods'. Its methods are safe for
// concurrent use.
type Parent struct {
	name    string
	support Support
	bases   map[string]string // by controller, the folder that the parent's is made in
	onV2    []string          // the controllers that limit on v2

	// mu is held by whatever makes groups or changes limits, in all of the tree: on v1 a group's limit moves and
	// bounds those below it.
	mu     sync.Mutex
	root   *Group // nil until the first New
	closed bool
}

// Open finds where groups can be made; it makes nothing, and succeeds also where nothing is
// supported. The name begins with "svcproxy-".
func Open(name string) (*Parent, error) {
	if err := checkParentName(name); err != nil {
		return nil, err
	}
	found, err := hierarchies()
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", name, err)
	}
	return openIn(name, found), nil
}

func hierarchies() ([]hierarchy, error) {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	return findHierarchies(mounts, own)
}

func openIn(name string, found []hierarchy) *Parent {
	p := &Parent{name: name, bases: map[string]string{}, support: Support{Layout: layoutOf(found)}}
	reasons := map[string]error{}
	for _, h := range found {
		dir, err := h.place()
		for _, c := range h.controllers {
			if err == nil {
				p.bases[c] = dir
			} else {
				reasons[c] = err
			}
		}
	}
	if dir, ok := p.bases[unified]; ok {
		p.onV2 = controllersV2(dir)
	}
	reason := func(controller string) error {
		_, v1 := p.bases[controller]
		switch {
		case v1 || slices.Contains(p.onV2, controller):
			return nil
		case reasons[controller] != nil:
			return reasons[controller]
		case reasons[unified] != nil:
			return reasons[unified]
		case p.bases[unified] != "":
			return fmt.Errorf("%s is not among the controllers of %s", controller, filepath.Join(p.bases[unified], "cgroup.controllers"))
		}
		return fmt.Errorf("no %s cgroups are mounted", controller)
	}
	p.support.Memory, p.support.CPU, p.support.Pids = reason("memory"), reason("cpu"), reason("pids")
	return p
}

// Supported says which limits groups below the parent can have.
func (p *Parent) Supported() Support { return p.support }

// New makes a pod's group. It fails if a group of that name exists, if a limit is not
// supported here, and if memory is below MinMemory. Without limits it works everywhere; where no controller
// is supported the group is a name: Add, Kill and Stats do nothing.
func (p *Parent) New(name string, l Limits) (*Group, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("cgroup %s is closed", p.name)
	}
	if p.root == nil {
		root, err := p.makeRoot()
		if err != nil {
			return nil, err
		}
		p.root = root
	}
	return p.root.make(name, l)
}

func (p *Parent) makeRoot() (*Group, error) {
	if base, ok := p.bases[unified]; ok {
		if err := giveControllers(base, p.onV2); err != nil {
			return nil, err
		}
	}
	root := newGroup(p, nil, p.name)
	if err := root.makeFolders(p.bases); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w: in use, or left by a program that was killed (then Remove it)", err)
		}
		return nil, err
	}
	return root, nil
}

// Close kills what is in the parent's groups and removes them all. It is idempotent.
func (p *Parent) Close() error {
	p.mu.Lock()
	p.closed = true
	root := p.root
	p.mu.Unlock()
	if root == nil {
		return nil
	}
	return root.Close()
}

// Remove removes the groups of that name, wherever in the trees, that a killed program left,
// with all below them. If a process is in one of them nothing is removed, and the error is ErrBusy and says which. None
// being there is no error.
func Remove(name string) error {
	if err := checkParentName(name); err != nil {
		return err
	}
	dirs, err := leftOvers(func(found string) bool { return found == name })
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", name, err)
	}
	for _, dir := range dirs {
		if err := checkEmpty(dir); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", name, err)
		}
	}
	var errs []error
	for _, dir := range dirs {
		err := cgroups.RemovePath(dir)
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: %w", ErrBusy, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// List is the names, sorted, of all parents with this prefix, running or left over, that belong to the caller.
// The prefix begins with "svcproxy-".
func List(namePrefix string) ([]string, error) {
	if !strings.HasPrefix(namePrefix, prefix) {
		return nil, fmt.Errorf("list cgroups %s…: want %s…", namePrefix, prefix)
	}
	dirs, err := leftOvers(func(found string) bool { return strings.HasPrefix(found, namePrefix) })
	if err != nil {
		return nil, fmt.Errorf("list cgroups %s…: %w", namePrefix, err)
	}
	found := map[string]bool{}
	for _, dir := range dirs {
		found[filepath.Base(dir)] = true
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// leftOvers are the caller's folders with such a name, in every hierarchy. The program that made them may
// have been elsewhere in the trees.
func leftOvers(match func(name string) bool) ([]string, error) {
	found, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, h := range found {
		err := filepath.WalkDir(h.mount, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				// Groups come and go while we look, and not all may be read.
				if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
					return nil
				}
				return err
			}
			if !entry.IsDir() || !match(entry.Name()) {
				return nil
			}
			if ownedByCaller(path) {
				dirs = append(dirs, path)
			}
			return fs.SkipDir
		})
		if err != nil {
			return nil, err
		}
	}
	return dirs, nil
}
