package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox/confine"
)

// rootfs is how a stage builds a container's tree. Files are named by their place
// among the files of the stage's order.
type rootfs struct {
	Layers   []int // mounts of the image's layers, topmost first
	Upper    int   // mount of the folder with "upper" and "work"; none: in memory
	ReadOnly bool
	Mounts   []stageMount
	// TTYGroup owns terminals; none where the pod does not have the group.
	TTYGroup bool
}

const none = -1

// stageMount is a Mount, checked, with its source.
type stageMount struct {
	Mount
	Tree int
}

// build makes the tree and moves the process into it. Nothing of any other tree is
// visible after that.
func (r rootfs) build(files []*os.File) error {
	root, err := r.overlay(files)
	if err != nil {
		return err
	}
	b := builder{files: files}
	if b.root, err = openPath(root); err != nil {
		return err
	}
	defer b.root.Close()
	if err := errors.Join(b.proc(), b.sys(), b.dev(r.TTYGroup)); err != nil {
		return err
	}
	for _, m := range r.Mounts {
		if err := b.mount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if r.ReadOnly {
		if err := setReadOnly(int(b.root.Fd()), 0); err != nil {
			return err
		}
	}
	if err := pivot(root); err != nil {
		return err
	}
	return mask()
}

// overlay mounts the layers with a writable one upon them, and returns where.
func (r rootfs) overlay(files []*os.File) (string, error) {
	if err := unix.Mount("stage", stageDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount the stage's folder: %w", err)
	}
	const root, upper = stageDir + "/root", stageDir + "/rw"
	for _, dir := range []string{root, upper} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
	}
	var lower []string
	for i, layer := range r.Layers {
		dir := stageDir + "/" + strconv.Itoa(i)
		if err := attachNew(files[layer], dir); err != nil {
			return "", fmt.Errorf("image layer %d: %w", i, err)
		}
		lower = append(lower, dir)
	}
	if r.Upper == none {
		for _, dir := range []string{"/upper", "/work"} {
			if err := os.Mkdir(upper+dir, 0o755); err != nil {
				return "", err
			}
		}
	} else if err := attachNew(files[r.Upper], upper); err != nil {
		return "", fmt.Errorf("upper folder: %w", err)
	}
	options := "userxattr,lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + "/upper,workdir=" + upper + "/work"
	if len(options) >= os.Getpagesize() {
		return "", fmt.Errorf("mount root: %d image layers are more than the kernel takes", len(lower))
	}
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return "", fmt.Errorf("mount root of %d image layers by overlayfs: %w", len(lower), err)
	}
	return root, nil
}

// attachNew attaches a mount to a folder of the stage, which it makes if need be.
func attachNew(tree *os.File, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	at, err := openPath(dir)
	if err != nil {
		return err
	}
	defer at.Close()
	if err := attach(tree, at); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// builder mounts into the tree. Every path is resolved inside of it, so that a
// symbolic link in the image or in a volume leads nowhere else.
type builder struct {
	root  *os.File
	files []*os.File
}

// resolve follows the symbolic links of a path in the tree, also those that lead
// nowhere yet. What it returns is a wish: the callers open it so that nobody who
// changes a volume meanwhile can lead them out of the tree.
func (b builder) resolve(name string) (string, error) {
	resolved, err := securejoin.SecureJoin(b.root.Name(), name)
	return strings.TrimPrefix(resolved, b.root.Name()), err
}

// folder opens a folder of the tree, made if need be.
func (b builder) folder(name string) (*os.File, error) {
	resolved, err := b.resolve(name)
	if err != nil {
		return nil, err
	}
	return pathrs.MkdirAllHandle(b.root, resolved, 0o755)
}

// file opens a file of the tree, made empty if need be.
func (b builder) file(name string) (*os.File, error) {
	resolved, err := b.resolve(name)
	if err != nil {
		return nil, err
	}
	handle, err := pathrs.OpenatInRoot(b.root, resolved)
	if !errors.Is(err, fs.ErrNotExist) {
		return handle, err
	}
	dir, err := b.folder(path.Dir(resolved))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), path.Base(resolved), flags, 0o644)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	unix.Close(fd)
	return pathrs.OpenatInRoot(b.root, resolved)
}

// fresh mounts a new file system on a folder.
func (b builder) fresh(kind, target string, flags uintptr, options string) error {
	at, err := b.folder(target)
	if err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	defer at.Close()
	if err := unix.Mount(kind, descriptorPath(at), kind, flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// descriptorPath names an open file for system calls that take a path.
func descriptorPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// bindFile binds a file of the stage's tree.
func (b builder) bindFile(source, target string) error {
	at, err := b.file(target)
	if err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	defer at.Close()
	if err := unix.Mount(source, descriptorPath(at), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

const quietMount = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func (b builder) proc() error { return b.fresh("proc", "/proc", quietMount, "") }

// sys mounts /sys, whose network is the pod's; where the kernel allows none, since the
// machine's is hidden in part, it is empty.
func (b builder) sys() error {
	err := b.fresh("sysfs", "/sys", quietMount|unix.MS_RDONLY, "")
	if errors.Is(err, unix.EPERM) {
		return b.fresh("tmpfs", "/sys", quietMount|unix.MS_RDONLY, "size=4k")
	}
	return err
}

// dev makes what the OCI runtime specification wants in /dev.
func (b builder) dev(ttyGroup bool) error {
	if err := b.fresh("tmpfs", "/dev", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return err
	}
	for _, name := range devices {
		if err := b.bindFile(pauseDev+"/"+name, "/dev/"+name); err != nil {
			return err
		}
	}
	options := "newinstance,ptmxmode=0666,mode=0620"
	if ttyGroup {
		options += ",gid=5"
	}
	if err := errors.Join(
		b.fresh("devpts", "/dev/pts", unix.MS_NOSUID|unix.MS_NOEXEC, options),
		b.fresh("mqueue", "/dev/mqueue", quietMount, ""),
	); err != nil {
		return err
	}
	shm, err := b.folder("/dev/shm")
	if err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	defer shm.Close()
	if err := unix.Mount(pauseShm, descriptorPath(shm), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	dev, err := b.folder("/dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	for name, to := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := unix.Symlinkat(to, int(dev.Fd()), name); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	return nil
}

// mount attaches one of the container's own mounts.
func (b builder) mount(m stageMount) error {
	if m.Kind == Tmpfs {
		return b.tmpfs(m.Mount)
	}
	tree := b.files[m.Tree]
	info, err := tree.Stat()
	if err != nil {
		return err
	}
	var at *os.File
	if info.IsDir() {
		at, err = b.folder(m.Target)
	} else {
		at, err = b.file(m.Target)
	}
	if err != nil {
		return err
	}
	defer at.Close()
	if err := b.ordinary(at); err != nil {
		return err
	}
	if target, err := at.Stat(); err != nil {
		return err
	} else if target.IsDir() && !info.IsDir() {
		return errors.New("the source is a file and the target a folder")
	}
	if err := attach(tree, at); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

func (b builder) tmpfs(m Mount) error {
	at, err := b.folder(m.Target)
	if err != nil {
		return err
	}
	defer at.Close()
	if err := b.ordinary(at); err != nil {
		return err
	}
	mode := uint32(m.Mode.Perm())
	if m.Mode&fs.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	if m.Mode == 0 {
		mode = 0o1777
	}
	options := fmt.Sprintf("mode=%o", mode)
	if m.Size > 0 {
		options += fmt.Sprintf(",size=%d", m.Size)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	return unix.Mount("tmpfs", descriptorPath(at), "tmpfs", flags, options)
}

// ordinary refuses targets that a symbolic link led into /proc or /sys.
func (b builder) ordinary(at *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(at.Fd()), &fs); err != nil {
		return err
	}
	if fs.Type == unix.PROC_SUPER_MAGIC || fs.Type == unix.SYSFS_MAGIC {
		return errors.New("the target leads into /proc or /sys")
	}
	return nil
}

// mask hides and protects what containers must not see or write in /proc and /sys.
func mask() error {
	for _, name := range confine.MaskedPaths {
		err := unix.Mount("/dev/null", name, "", unix.MS_BIND, "")
		if errors.Is(err, unix.ENOTDIR) {
			err = unix.Mount("tmpfs", name, "tmpfs", quietMount|unix.MS_RDONLY, "size=4k")
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	for _, name := range confine.ReadonlyPaths {
		err := unix.Mount(name, name, "", unix.MS_BIND|unix.MS_REC, "")
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = makeReadOnly(name)
		}
		if err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	return nil
}
