package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox/confine"
)

const stageCommand = "svcproxy-stage"

// stageOrder tells a stage, the process that becomes a program in a container, how.
// Numbers are places among the files that come with it.
type stageOrder struct {
	Root *rootfs // of a new container; nil: enter that of the process Enter
	// Enter is the pidfd of a process of the container, or none.
	Enter    int
	Args     []string
	Env      []string
	Dir      string
	Profile  confine.Profile
	Terminal bool
	Size     Window
	Streams  [3]int // standard input, output and error; none: /dev/null
}

// stageReport is what a stage says: first that it is ready, with the terminal's master
// if one was asked for, and waits for any answer; else why it failed. No word after
// that: it has become the program.
type stageReport struct {
	Code  int // of a StartError
	Error string
}

func init() { reexec.Register(stageCommand, stageInit) }

func stageInit() {
	// The thread that is confined is the one that becomes the program.
	runtime.LockOSThread()
	c, err := openChannel(os.NewFile(3, "supervisor"))
	if err == nil {
		err = runStage(c)
		report := stageReport{Code: exitSetupFailed, Error: err.Error()}
		if failed := (*StartError)(nil); errors.As(err, &failed) {
			report.Code = failed.Code
		}
		_ = c.send(report)
	}
	syscall.Exit(exitSetupFailed)
}

// runStage returns only with an error.
func runStage(c *channel) error {
	if err := hide(); err != nil {
		return err
	}
	unix.Umask(0)
	var o stageOrder
	files, _, err := c.receive(&o)
	if err != nil {
		return err
	}
	if o.Root != nil {
		err = o.Root.build(files)
	} else {
		err = enterContainer(files[o.Enter])
	}
	if err != nil {
		return err
	}
	program, err := o.program()
	if err != nil {
		return err
	}
	streams, master, err := o.streams(files)
	if err != nil {
		return err
	}
	if err := ready(c, master); err != nil {
		return err
	}
	// The process is in its cgroup now, which becomes the root of what it sees.
	if o.Root != nil {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fmt.Errorf("unshare cgroup namespace: %w", err)
		}
	}
	for i, f := range streams {
		if err := unix.Dup3(int(f.Fd()), i, 0); err != nil {
			return fmt.Errorf("set standard stream %d: %w", i, err)
		}
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close files: %w", err)
	}
	leaveKeyring()
	unix.Umask(0o022)
	if err := o.Profile.Apply(); err != nil {
		return err
	}
	return execError(program, unix.Exec(program, o.Args, o.Env))
}

// enterContainer moves this thread, which alone becomes the program, into the
// container of a process.
func enterContainer(pidfd *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare root and folder: %w", err)
	}
	err := unix.Setns(int(pidfd.Fd()), unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP)
	if errors.Is(err, unix.ESRCH) {
		return errors.New("the container has ended")
	}
	if err != nil {
		return fmt.Errorf("enter the container's namespaces: %w", err)
	}
	return nil
}

// program finds the program in the container and changes into its folder.
func (o stageOrder) program() (string, error) {
	dir := o.Dir
	if dir == "" {
		dir = "/"
	}
	err := unix.Chdir(dir)
	if errors.Is(err, unix.ENOENT) && o.Root != nil {
		if err = os.MkdirAll(dir, 0o755); err == nil {
			err = unix.Chdir(dir)
		}
	}
	if err == nil {
		err = insideRoot()
	}
	if err != nil {
		return "", fmt.Errorf("change into working folder %s: %w", dir, err)
	}
	return lookPath(o.Args[0], o.Env)
}

// insideRoot refuses a working folder outside of the root: a path through /proc/self/fd leads to what this process has
// open (CVE-2024-21626).
func insideRoot() error {
	if _, err := unix.Getwd(); errors.Is(err, unix.ENOENT) {
		return errors.New("it is outside of the container's root")
	} else if err != nil {
		return err
	}
	return nil
}

// ready tells the supervisor so and waits until it has done what it must.
func ready(c *channel, master *os.File) error {
	var files []*os.File
	if master != nil {
		files = append(files, master)
		defer master.Close()
	}
	if err := c.send(stageReport{}, files...); err != nil {
		return err
	}
	var go_ struct{}
	if _, _, err := c.receive(&go_); err != nil {
		if errors.Is(err, io.EOF) {
			syscall.Exit(exitSetupFailed) // nobody wants it any more
		}
		return err
	}
	return nil
}

// streams are the program's standard streams: those given, /dev/null, or a new
// terminal, whose master is returned too.
func (o stageOrder) streams(files []*os.File) ([3]*os.File, *os.File, error) {
	var streams [3]*os.File
	if o.Terminal {
		master, slave, err := openTerminal(o.Size, o.Profile.UID)
		if err != nil {
			return streams, nil, fmt.Errorf("make terminal: %w", err)
		}
		return [3]*os.File{slave, slave, slave}, master, nil
	}
	for i, place := range o.Streams {
		if place != none {
			streams[i] = files[place]
			continue
		}
		null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
		if err != nil {
			return streams, nil, err
		}
		streams[i] = null
	}
	return streams, nil, nil
}
