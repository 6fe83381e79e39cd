package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox/cgroup"
	"svcproxy/sandbox/confine"
)

// ContainerConfig describes a container and the program that runs in it.
type ContainerConfig struct {
	// Name is for errors.
	Name string
	// Layers are the folders of the image, topmost first. They are never written, and
	// may be shared.
	Layers []string
	// Upper is a folder that takes what the container writes, in its subfolders upper
	// and work; the caller removes it after Close. Empty: in memory.
	Upper string
	// ReadOnlyRoot leaves only mounts writable.
	ReadOnlyRoot bool
	Mounts       []Mount

	// Args are the program, looked for in the container by the PATH of Env, and its
	// arguments. Env is all of its environment.
	Args, Env []string
	// Dir is the working folder, made if need be; empty is "/".
	Dir     string
	Profile confine.Profile
	// Cgroup is what the program is put into just before it begins.
	Cgroup *cgroup.Group

	// Terminal gives the program a terminal of Size as standard streams; its master
	// is Process.Terminal.
	Terminal bool
	Size     Window
	// Stdin, Stdout and Stderr are the standard streams otherwise; nil is /dev/null.
	// They must be no terminals. The caller keeps them, and may close them after the
	// start.
	Stdin, Stdout, Stderr *os.File
}

// ExecConfig describes one more program in a container; see ContainerConfig.
type ExecConfig struct {
	Args, Env []string
	Dir       string
	Profile   confine.Profile

	Terminal              bool
	Size                  Window
	Stdin, Stdout, Stderr *os.File
}

// Container is a program with its own tree of files and, unless the pod shares them,
// its own process numbers: it is PID 1, and all others in the container end with it.
type Container struct {
	*Process
	Name string

	pod   *Pod
	group *cgroup.Group
	// mounts is the container's mount namespace, where processes are shared. While it
	// is open no other gets its identity.
	mounts *os.File
}

// StartContainer starts a program in the pod. When it returns, the program runs; else
// the error is a StartError if the container could not be prepared or the program not
// be executed. Nothing is left after an error save what was written to Upper.
// A program that is killed for lack of memory as it begins has started, and was
// killed.
func (p *Pod) StartContainer(cfg ContainerConfig) (*Container, error) {
	c, err := p.startContainer(cfg)
	if err != nil {
		return nil, fmt.Errorf("pod %s: container %s: %w", p.Name, cfg.Name, err)
	}
	return c, nil
}

func (p *Pod) startContainer(cfg ContainerConfig) (*Container, error) {
	if p.pause == nil {
		return nil, errors.New("the pod was made without a pause process")
	}
	c := &Container{Name: cfg.Name, pod: p, group: cfg.Cgroup}
	shared := p.shareProcesses
	l := launch{order: order{NewPID: !shared, NewMount: true}, group: cfg.Cgroup}
	l.stage = stageOrder{
		Enter: none, Args: cfg.Args, Env: cfg.Env, Dir: cfg.Dir, Profile: cfg.Profile,
		Terminal: cfg.Terminal, Size: cfg.Size,
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	var opened []*os.File
	defer func() { closeFiles(opened) }()
	root, err := p.rootfs(cfg, &opened)
	if err != nil {
		return nil, err
	}
	l.stage.Root, l.files = root, opened
	if err := l.setStreams(p.users, cfg.Stdin, cfg.Stdout, cfg.Stderr); err != nil {
		return nil, err
	}
	if shared {
		l.began = func(pid int) (err error) {
			c.mounts, err = os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
			return err
		}
		l.ended = c.killRest
	}
	if c.Process, err = l.start(p.pause); err != nil {
		return nil, err
	}
	return c, nil
}

// rootfs opens all that the container's tree is made of, as mounts attached nowhere.
func (p *Pod) rootfs(cfg ContainerConfig, opened *[]*os.File) (*rootfs, error) {
	if len(cfg.Layers) == 0 {
		return nil, errors.New("no image layers")
	}
	add := func(f *os.File, err error) (int, error) {
		if err != nil {
			return none, err
		}
		*opened = append(*opened, f)
		return len(*opened) - 1, nil
	}
	_, tty := p.users.owner(ttyGroup, os.Getegid())
	r := &rootfs{Upper: none, ReadOnly: cfg.ReadOnlyRoot, TTYGroup: tty}
	for _, layer := range cfg.Layers {
		place, err := add(bindFolder(layer, true))
		if err != nil {
			return nil, fmt.Errorf("image layer: %w", err)
		}
		r.Layers = append(r.Layers, place)
	}
	owner, _ := p.users.owner(0, os.Geteuid())
	if cfg.Upper != "" {
		err := prepareUpper(cfg.Upper, owner)
		if err == nil {
			r.Upper, err = add(bindFolder(cfg.Upper, false))
		}
		if err != nil {
			return nil, fmt.Errorf("upper folder: %w", err)
		}
	}
	for _, m := range byTarget(cfg.Mounts) {
		if err := m.check(); err != nil {
			return nil, err
		}
		mount := stageMount{Mount: m, Tree: none}
		if m.Kind == Bind {
			var err error
			if mount.Tree, err = add(m.source(owner)); err != nil {
				return nil, err
			}
		}
		r.Mounts = append(r.Mounts, mount)
	}
	return r, nil
}

// ttyGroup is the group of terminals, 5 on every distribution.
const ttyGroup = 5

func bindFolder(dir string, readOnly bool) (*os.File, error) {
	handle, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	return cloneTree(handle, readOnly)
}

// prepareUpper makes the folders that overlayfs wants, for the pod's root.
func prepareUpper(dir string, owner int) error {
	for _, name := range []string{"upper", "work"} {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(sub, 0o755), os.Chown(sub, owner, -1)); err != nil {
			return err
		}
	}
	return nil
}

// Exec starts one more program in the container. The errors are those of
// StartContainer. The program ends with the container; where processes are shared,
// when the container's own program does.
func (c *Container) Exec(cfg ExecConfig) (*Process, error) {
	p, err := c.exec(cfg)
	if err != nil {
		return nil, fmt.Errorf("pod %s: container %s: exec: %w", c.pod.Name, c.Name, err)
	}
	return p, nil
}

func (c *Container) exec(cfg ExecConfig) (*Process, error) {
	init, err := c.duplicate()
	if errors.Is(err, os.ErrProcessDone) {
		return nil, errors.New("the container has ended")
	}
	if err != nil {
		return nil, err
	}
	defer init.Close()
	l := launch{order: order{JoinPID: !c.pod.shareProcesses}, enter: init, group: c.group}
	l.stage = stageOrder{
		Args: cfg.Args, Env: cfg.Env, Dir: cfg.Dir, Profile: cfg.Profile,
		Terminal: cfg.Terminal, Size: cfg.Size,
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	l.files = []*os.File{init}
	if err := l.setStreams(c.pod.users, cfg.Stdin, cfg.Stdout, cfg.Stderr); err != nil {
		return nil, err
	}
	return l.start(c.pod.pause)
}

func (l *launch) check() error {
	if len(l.stage.Args) == 0 || l.stage.Args[0] == "" {
		return errors.New("no program")
	}
	return l.stage.Profile.Check()
}

// setStreams adds the standard streams to the stage's files. Pipes are given to the
// program's user, or /dev/stdout could not be opened in the container.
func (l *launch) setStreams(users UserRange, stdin, stdout, stderr *os.File) error {
	l.stage.Streams = [3]int{none, none, none}
	for i, f := range []*os.File{stdin, stdout, stderr} {
		name := [...]string{"stdin", "stdout", "stderr"}[i]
		switch {
		case f == nil:
			continue
		case l.stage.Terminal:
			return fmt.Errorf("%s: the program gets a terminal of its own", name)
		case isTerminal(f):
			return fmt.Errorf("%s: the caller's terminal would let the container type into it: ask for Terminal", name)
		}
		info, err := f.Stat()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if uid, ok := users.owner(l.stage.Profile.UID, os.Geteuid()); ok && info.Mode()&fs.ModeNamedPipe != 0 {
			if err := f.Chown(uid, -1); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		l.stage.Streams[i] = len(l.files)
		l.files = append(l.files, f)
	}
	return nil
}

// Close kills all in the container and waits until it is gone. It is idempotent.
func (c *Container) Close() error {
	if err := c.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("pod %s: container %s: %w", c.pod.Name, c.Name, err)
	}
	<-c.done
	if c.terminal != nil {
		_ = c.terminal.Close() // the caller may have done so
	}
	return nil
}

// killRest kills what a container that shares its pod's processes left, until nothing
// is: all in its mount namespace. What it fails to kill ends with the pod.
func (c *Container) killRest() {
	if c.mounts == nil {
		return
	}
	defer c.mounts.Close()
	if id, err := os.Readlink(descriptorPath(c.mounts)); err == nil {
		_ = killAllIn("ns/mnt", id)
	}
}
