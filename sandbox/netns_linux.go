package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/moby/sys/reexec"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// threadNetns is the calling thread's network namespace. /proc/self would be the
// main thread's, which is another one while Do runs.
const threadNetns = "/proc/thread-self/ns/net"

// Netns is a network namespace without a name. It lives as long as this handle, a
// socket or a process refers to it, so it also goes when the program is killed.
// A Netns may be used by several goroutines at once.
type Netns struct {
	mu sync.Mutex
	fd int // -1 once closed
}

// NewNetns makes an empty network namespace. Its loopback interface is up, and IPv6
// addresses need not wait for duplicate address detection. The calling goroutine
// stays in its own.
func NewNetns() (*Netns, error) {
	ns := &Netns{fd: -1}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		fd, err := unix.Open(threadNetns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open the new network namespace: %w", err)
		}
		ns.fd = fd
		if err := skipAddressDetection(); err != nil {
			return err
		}
		return loopbackUp()
	})
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// FD is the open file descriptor of the namespace, valid until Close, -1 after it.
func (n *Netns) FD() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fd
}

// enter moves the calling thread into the namespace.
func (n *Netns) enter() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return fmt.Errorf("enter network namespace: %w", os.ErrClosed)
	}
	if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// Path names the namespace for other programs (nsenter --net=PATH), until Close.
func (n *Netns) Path() string {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		self = "self"
	}
	return fmt.Sprintf("/proc/%s/fd/%d", self, n.FD())
}

// ID identifies the namespace as /proc/PID/ns/net does: "net:[inode]".
func (n *Netns) ID() (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", n.FD()))
}

// Close gives the handle up and kills the processes inside. It is idempotent.
// Sockets made inside stay usable, and keep the namespace, until they are closed.
func (n *Netns) Close() error {
	if n.FD() < 0 {
		return nil
	}
	err := n.killAll()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd >= 0 {
		err = errors.Join(err, unix.Close(n.fd))
		n.fd = -1
	}
	return err
}

// Do runs fn inside the namespace, on an operating system thread that nothing else
// uses meanwhile. Sockets that fn opens and processes that it starts stay inside;
// goroutines that it starts do not. When fn ends its goroutine (as t.FailNow does),
// so does Do.
func (n *Netns) Do(fn func() error) error {
	return onThread(func() error {
		if err := n.enter(); err != nil {
			return err
		}
		return fn()
	})
}

// onThread runs fn on a locked thread of its own and puts the thread back into its
// network namespace. A thread for which this fails is never used again: its
// goroutine ends locked, and the runtime ends the thread with it.
func onThread(fn func() error) error {
	var err error
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = excursion(fn)
		returned = true
	}()
	<-done
	if !returned {
		runtime.Goexit()
	}
	return err
}

func excursion(fn func() error) (err error) {
	runtime.LockOSThread()
	home, err := os.Open(threadNetns)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer func() {
		back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
		home.Close()
		if back != nil {
			err = errors.Join(err, fmt.Errorf("return to own network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}

// starter is the one thread that starts processes inside namespaces. The kernel
// delivers a parent death signal when the thread that forked dies, not the program;
// this thread dies only with the program.
var starter = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

// Start starts cmd inside the namespace, in a session of its own. The process is
// killed when the namespace is closed or this program ends, however it ends. The
// caller waits for it with cmd.Wait.
func (n *Netns) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error, 1)
	starter() <- func() {
		result <- excursion(func() error {
			if err := n.enter(); err != nil {
				return err
			}
			return cmd.Start()
		})
	}
	return <-result
}

// Command is exec.Command for a process inside the namespace: it may be started by
// any means that exec.Cmd has. It runs this program again for a moment, so the
// program must call Init. The process outlives this program; Start is for those
// that must not.
func (n *Netns) Command(name string, args ...string) *exec.Cmd {
	want := exec.Command(name, args...)
	return &exec.Cmd{
		Path: reexec.Self(),
		Args: append([]string{enterCommand, n.Path(), want.Path}, want.Args...),
		Err:  want.Err,
	}
}

const enterCommand = "svcproxy-enter-netns"

// enterNetns is the program Command runs: PATH PROGRAM ARGV0 ARGS…
func enterNetns() {
	runtime.LockOSThread()
	err := func() error {
		if len(os.Args) < 4 {
			return errors.New("usage: " + enterCommand + " NETNS PROGRAM ARGV0 ARG…")
		}
		ns, err := os.Open(os.Args[1])
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", os.Args[1], err)
		}
		return fmt.Errorf("exec %s: %w", os.Args[2], unix.Exec(os.Args[2], os.Args[3:], os.Environ()))
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(exitSetupFailed)
}

// SetSysctl writes value to a setting of this namespace, named as its path below
// /proc/sys ("net/ipv4/ip_forward"). /proc/sys/net shows each thread its own
// namespace.
func (n *Netns) SetSysctl(name, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
			return fmt.Errorf("set %s to %s: %w", name, value, err)
		}
		return nil
	})
}

// Handle opens an rtnetlink socket inside the namespace; the caller closes it.
func (n *Netns) Handle() (*netlink.Handle, error) {
	var handle *netlink.Handle
	err := n.Do(func() error {
		var err error
		if handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		return nil
	})
	return handle, err
}

// killAll kills every process whose network namespace this is, until none is left.
func (n *Netns) killAll() error {
	id, err := n.ID()
	if err != nil {
		return nil // closed
	}
	return killAllIn("ns/net", id)
}

// killAllIn kills every process whose namespace of that kind has the identity, until
// none is left: one that forks meanwhile is met on a later round. Signals go through
// the directory in /proc as a pidfd (Linux 5.1), so a reused number, or a /proc of
// another PID namespace, can't hit a stranger.
func killAllIn(kind, id string) error {
	own, err := os.Readlink("/proc/self")
	if err != nil {
		return fmt.Errorf("find own process: %w", err)
	}
	for deadline := time.Now().Add(killTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		killed := 0
		for _, dir := range dirs {
			if filepath.Base(dir) == own {
				continue
			}
			if killIfIn(dir, kind, id) {
				killed++
			}
		}
		if killed == 0 {
			return nil
		}
	}
	return fmt.Errorf("processes in %s outlived SIGKILL for %v", id, killTimeout)
}

// killTimeout is how long a killed process may take to go.
const killTimeout = 5 * time.Second

func killIfIn(dir, kind, id string) bool {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	size, err := unix.Readlinkat(fd, kind, buf)
	if err != nil || string(buf[:size]) != id {
		return false
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// skipAddressDetection spares each new IPv6 address the second in which the kernel
// looks for a duplicate; two ends of a veth pair have none.
func skipAddressDetection() error {
	for _, scope := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/accept_dad", []byte("0"), 0o644)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("switch duplicate address detection off: %w", err)
		}
	}
	return nil
}

func loopbackUp() error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := handle.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
