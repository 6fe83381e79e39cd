package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"
)

const pauseCommand = "svcproxy-pause"

// godebug keeps the Go runtime of pause and of stages small and idle: no signals for
// preemption, no files of the cgroup opened and read again and again.
const godebug = "GODEBUG=asyncpreemptoff=1,containermaxprocs=0,updatemaxprocs=0"

// Names of what pause keeps for containers in its own, otherwise empty tree.
const (
	pauseDev = "/dev"
	pauseShm = "/shm"
	// stageDir is an empty folder, where each stage mounts what it works with.
	stageDir = "/stage"
)

// devices are what every container has in /dev, as the OCI runtime specification
// demands.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// pauseSetup is the first message to pause. It answers with a report.
type pauseSetup struct {
	Hostname string
	Sysctls  map[string]string
}

// order asks pause for a process. The first file is what the process speaks through.
type order struct {
	ID int
	// NewPID gives the process a PID namespace of its own.
	NewPID bool
	// JoinPID puts it into that of the process whose pidfd is the second file.
	JoinPID bool
	// NewMount gives it a mount namespace of its own.
	NewMount bool
}

// report is what pause says about an order: that it failed or that the process ended.
type report struct {
	ID     int
	Ended  bool
	Status int // as wait4 has it
	Error  string
}

func init() { reexec.Register(pauseCommand, pauseInit) }

// pauseInit is the pause process: PID 1 of the pod. It leaves only by being killed or
// when the supervisor's end of the channel is closed.
func pauseInit() {
	_ = runPause() // whoever could be told is gone
	syscall.Exit(exitSetupFailed)
}

func runPause() error {
	closeInherited()
	orders, err := openChannel(os.NewFile(3, "orders"))
	if err != nil {
		return err
	}
	var setup pauseSetup
	if _, _, err := orders.receive(&setup); err != nil {
		return err
	}
	own, err := ownLoader()
	if err == nil {
		err = setup.apply(own)
	}
	if err != nil {
		return orders.send(report{Error: err.Error()})
	}
	f := &forker{
		orders: orders, ids: map[int]int{},
		env: append(own.env(), "GOMAXPROCS=1", godebug),
	}
	f.watch()
	if err := orders.send(report{}); err != nil {
		return err
	}
	debug.FreeOSMemory()
	for {
		var o order
		files, _, err := orders.receive(&o)
		if err != nil {
			return err
		}
		f.do(o, files)
	}
}

// closeInherited closes what a caller of this program left open without meaning to.
// What the program opens itself is closed on exec.
func closeInherited() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= 3 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// hide keeps other processes of the pod, once there are any, from looking into this one.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process not dumpable: %w", err)
	}
	return nil
}

func (s pauseSetup) apply(own loader) error {
	// For ps and top, which would show "exe"; not worth a failure.
	_ = os.WriteFile("/proc/self/comm", []byte(pauseCommand), 0)
	if err := hide(); err != nil {
		return err
	}
	if err := leaveHost(own); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set hostname %q: %w", s.Hostname, err)
	}
	for name, value := range s.Sysctls {
		if isNetSysctl(name) {
			continue // the supervisor's, once the interfaces exist
		}
		if err := os.WriteFile(sysctlPath(name), []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl %s to %q: %w", name, value, errors.Unwrap(err))
		}
	}
	return nil
}

// leaveHost leaves the host's tree for one with nothing but what stages need: /proc
// and /sys, without which the kernel would refuse new ones in a user namespace, the
// devices, the memory that the pod's containers share, and this program's loader.
func leaveHost(own loader) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root, err := anyFolder()
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("mount the pod's tree: %w", err)
	}
	for _, dir := range []string{"/proc", "/sys", pauseDev, pauseShm, stageDir} {
		if err := os.Mkdir(root+dir, 0o755); err != nil {
			return err
		}
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", root+"/proc", "proc", quiet, ""); err != nil {
		return fmt.Errorf("mount /proc: %w%s", err, hiddenProc(err))
	}
	// What hides parts of the host's /sys, as an outer container does, forbids this.
	if err := unix.Mount("sysfs", root+"/sys", "sysfs", quiet|unix.MS_RDONLY, ""); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := unix.Mount("shm", root+pauseShm, "tmpfs", quiet, "mode=1777,size=64m"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	for _, name := range devices {
		to := root + pauseDev + "/" + name
		if err := os.WriteFile(to, nil, 0o600); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind /dev/%s: %w", name, err)
		}
	}
	if err := own.bind(root); err != nil {
		return err
	}
	return pivot(root)
}

func hiddenProc(err error) string {
	if errors.Is(err, unix.EPERM) {
		return " (where parts of /proc are hidden, as in most containers, the kernel allows no new one in a user namespace)"
	}
	return ""
}

// anyFolder finds one to mount upon. It must hide neither /proc nor /sys nor /dev.
func anyFolder() (string, error) {
	folders := []string{"/tmp", "/run", "/mnt", "/var", "/usr", "/etc"}
	for _, dir := range folders {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, nil
		}
	}
	return "", fmt.Errorf("none of the folders %v exists to mount the pod's tree on", folders)
}

// pivot makes the folder, a mount, the root of the mount namespace and drops the old one.
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("change into the new root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root lies upon the new one now.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("change into the root: %w", err)
	}
	return nil
}

// forker starts stages and tells how they ended.
type forker struct {
	orders *channel
	env    []string // of stages

	mu  sync.Mutex  // held from fork until the number is known, and while reaping
	ids map[int]int // orders by process number
}

// watch reaps children, adopted ones too.
func (f *forker) watch() {
	// Of all signals, since a container that shares the processes may send any, and
	// not ignored, since children would inherit that.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals)
	go func() {
		for range signals {
			f.reap()
		}
	}()
}

func (f *forker) reap() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if id, ok := f.ids[pid]; ok {
			delete(f.ids, pid)
			_ = f.orders.send(report{ID: id, Ended: true, Status: int(status)})
		}
	}
}

func (f *forker) do(o order, files []*os.File) {
	defer closeFiles(files)
	f.mu.Lock()
	defer f.mu.Unlock()
	pid, err := f.fork(o, files)
	if err != nil {
		_ = f.orders.send(report{ID: o.ID, Ended: true, Status: exitSetupFailed << 8, Error: err.Error()})
		return
	}
	f.ids[pid] = o.ID
}

func (f *forker) fork(o order, files []*os.File) (int, error) {
	want := 1
	if o.JoinPID {
		want = 2
	}
	if len(files) != want {
		return 0, fmt.Errorf("order %d came with %d files, not %d", o.ID, len(files), want)
	}
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   f.env,
		Files: []uintptr{0, 1, 2, files[0].Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if o.NewPID {
		attr.Sys.Cloneflags |= unix.CLONE_NEWPID
	}
	if o.NewMount {
		attr.Sys.Cloneflags |= unix.CLONE_NEWNS
	}
	if !o.JoinPID {
		return syscall.ForkExec(reexec.Self(), []string{stageCommand}, attr)
	}
	type result struct {
		pid int
		err error
	}
	forked := make(chan result)
	go func() {
		// The thread's children are in that namespace from now on: it ends with this
		// goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(files[1].Fd()), unix.CLONE_NEWPID); err != nil {
			forked <- result{0, fmt.Errorf("enter the container's PID namespace: %w", err)}
			return
		}
		pid, err := syscall.ForkExec(reexec.Self(), []string{stageCommand}, attr)
		forked <- result{pid, err}
	}()
	r := <-forked
	return r.pid, r.err
}
