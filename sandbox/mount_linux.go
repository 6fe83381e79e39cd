package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// MountKind is what a Mount shows.
type MountKind int

const (
	// Bind shows a file or folder of this program's tree, with all mounted below.
	Bind MountKind = iota
	// Tmpfs is an empty file system in memory.
	Tmpfs
)

// Mount is something mounted into a container.
type Mount struct {
	Kind MountKind
	// Source is the file or folder of a Bind, as this program names it.
	Source string
	// SubPath picks a file or folder in Source. Symbolic links and ".." lead nowhere
	// outside of Source, whoever changes it meanwhile. What does not exist is made, as
	// folders of the pod's root, unless the mount is ReadOnly.
	SubPath string
	// Target is an absolute path in the container. Symbolic links on the way are
	// followed inside the container; what does not exist is made.
	Target   string
	ReadOnly bool
	// Size in bytes and Mode are a Tmpfs's; 0 is half the machine's memory and 0777
	// with the sticky bit.
	Size int64
	Mode fs.FileMode
}

func (m Mount) check() error {
	target := path.Clean(m.Target)
	switch {
	case !path.IsAbs(m.Target):
		return fmt.Errorf("mount %q: the target is not absolute", m.Target)
	case target == "/", target == "/dev", within(target, "/proc"), within(target, "/sys"):
		return fmt.Errorf("mount %s: the container's own", m.Target)
	case m.Kind == Bind && !path.IsAbs(m.Source):
		return fmt.Errorf("mount %s: source %q is not absolute", m.Target, m.Source)
	case m.Kind == Bind && (m.Size != 0 || m.Mode != 0):
		return fmt.Errorf("mount %s: size and mode are a tmpfs's", m.Target)
	case m.Kind == Tmpfs && (m.Source != "" || m.SubPath != ""):
		return fmt.Errorf("mount %s: a tmpfs has no source", m.Target)
	case m.Kind != Bind && m.Kind != Tmpfs:
		return fmt.Errorf("mount %s: unknown kind %d", m.Target, m.Kind)
	}
	return nil
}

func within(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}

// byTarget sorts so that what lies below another target comes after it.
func byTarget(mounts []Mount) []Mount {
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b Mount) int {
		return strings.Compare(path.Clean(a.Target)+"/", path.Clean(b.Target)+"/")
	})
	return sorted
}

// source opens what a Bind shows as a mount of its own, attached nowhere: a process
// of a pod, which may not even see the path, attaches it. New folders belong to
// owner.
func (m Mount) source(owner int) (*os.File, error) {
	tree, err := m.openSource(owner)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", m.Target, err)
	}
	return tree, nil
}

func (m Mount) openSource(owner int) (*os.File, error) {
	handle, err := openPath(m.Source)
	if err != nil {
		return nil, err
	}
	defer func() { handle.Close() }()
	if m.SubPath != "" {
		inner, err := pathrs.OpenatInRoot(handle, m.SubPath)
		if errors.Is(err, fs.ErrNotExist) && !m.ReadOnly {
			inner, err = makeFolder(handle, m.SubPath, owner)
		}
		if err != nil {
			return nil, fmt.Errorf("sub-path %s of %s: %w", m.SubPath, m.Source, err)
		}
		handle.Close()
		handle = inner
	}
	return cloneTree(handle, m.ReadOnly)
}

func makeFolder(root *os.File, name string, owner int) (*os.File, error) {
	made, err := pathrs.MkdirAllHandle(root, name, 0o755)
	if err != nil {
		return nil, err
	}
	if err := unix.Fchownat(int(made.Fd()), "", owner, owner, unix.AT_EMPTY_PATH); err != nil {
		made.Close()
		return nil, fmt.Errorf("give to user %d: %w", owner, err)
	}
	return made, nil
}

func openPath(name string) (*os.File, error) {
	return os.OpenFile(name, unix.O_PATH|unix.O_CLOEXEC, 0)
}

// cloneTree makes a bind mount, with all mounted below, that is attached nowhere and
// exchanges no mounts with the original.
func cloneTree(of *os.File, readOnly bool) (*os.File, error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE | unix.AT_EMPTY_PATH
	fd, err := unix.OpenTree(int(of.Fd()), "", flags)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", of.Name(), err)
	}
	tree := os.NewFile(uintptr(fd), of.Name())
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		tree.Close()
		return nil, fmt.Errorf("bind %s: set mount attributes: %w", of.Name(), err)
	}
	return tree, nil
}

// setReadOnly makes a mount read-only and leaves its other attributes as they are.
// flags may be unix.AT_RECURSIVE.
func setReadOnly(fd int, flags uint) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|flags, &attr); err != nil {
		return fmt.Errorf("make mount read-only: %w", err)
	}
	return nil
}

// attach puts a mount that is attached nowhere on the file or folder at.
func attach(tree, at *os.File) error {
	return unix.MoveMount(int(tree.Fd()), "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
