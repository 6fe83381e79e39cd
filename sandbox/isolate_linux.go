package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"
)

const (
	// isolationEnv carries "OUTER INNER", the network namespaces that Isolate left
	// and made, from the init process to the program it starts.
	isolationEnv = "SVCPROXY_ISOLATED"
	initCommand  = "svcproxy-init"
	// exitSetupFailed is the exit code of a process that could not become what it
	// was started for; timeout(1) and docker use the same.
	exitSetupFailed = 125
)

// ErrNotIsolated is returned by Isolated in a program that Isolate did not start.
var ErrNotIsolated = errors.New("not in namespaces of its own")

func init() {
	reexec.Register(enterCommand, enterNetns)
	reexec.Register(initCommand, isolationInit)
}

// Init must be the first call of main (or TestMain) in a program that uses Isolate
// or Command: these run the program again under another name, and Init does not
// return there.
func Init() {
	if reexec.Init() {
		os.Exit(0)
	}
}

// Isolation says how Isolate separates the program from the machine.
type Isolation struct {
	// UserNamespace asks for a user namespace also where the caller's capabilities
	// make it needless. Without those it is always made, with the caller as root.
	UserNamespace bool
}

// Isolate runs the program again, with the same arguments, environment and standard
// streams, inside network, mount and PID namespaces of its own, waits for it and
// returns its exit code (128 + the signal that ended it). Inside, Isolated returns
// nil, lo is up, mounts do not propagate to the machine, /proc is the new PID namespace's where the
// kernel allows that, and XTABLES_LOCKFILE keeps iptables off the machine's lock.
//
// Signals are passed on, once each, as the program inside is in a process group of
// its own; so it can write to a terminal, but not read from one. When it or this process ends, for whatever reason, the kernel kills
// everything that was started inside and drops the namespaces.
func Isolate(cfg Isolation) (exitCode int, err error) {
	outer, err := os.Readlink(threadNetns)
	if err != nil {
		return 0, fmt.Errorf("read own network namespace: %w", err)
	}
	lifeline, held, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make pipe: %w", err)
	}
	defer held.Close()
	defer lifeline.Close()

	user := cfg.UserNamespace || !canMakeNamespaces()
	cmd := &exec.Cmd{
		Path:        reexec.Self(),
		Args:        append([]string{initCommand, outer}, os.Args...),
		Stdin:       os.Stdin,
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		ExtraFiles:  []*os.File{lifeline},
		SysProcAttr: isolatedAttr(user),
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwardedSignals...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, explainClone(err, user)
	}
	stop := forward(signals, func(s syscall.Signal) { _ = cmd.Process.Signal(s) })
	defer stop()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("wait for the isolated program: %w", err)
	}
	return exitCodeOf(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

// Isolated returns nil in a program that Isolate started, when called in the network
// namespace made for it; ErrNotIsolated in any other program; and another error when
// the thread is elsewhere, above all in the namespace that Isolate left.
func Isolated() error {
	current, err := os.Readlink(threadNetns)
	if err != nil {
		return fmt.Errorf("read own network namespace: %w", err)
	}
	return checkIsolated(isolationMark(), current)
}

// isolationMark takes the mark out of the environment: programs started from here
// are not the one that Isolate started.
var isolationMark = sync.OnceValue(func() string {
	mark := os.Getenv(isolationEnv)
	os.Unsetenv(isolationEnv)
	return mark
})

func checkIsolated(mark, current string) error {
	if mark == "" {
		return ErrNotIsolated
	}
	outer, inner, ok := strings.Cut(mark, " ")
	switch {
	case !ok || outer == "" || inner == "":
		return fmt.Errorf("%s=%q names no two network namespaces", isolationEnv, mark)
	case outer == inner:
		return fmt.Errorf("%s=%q: isolation left the network namespace as it was", isolationEnv, mark)
	case current == outer:
		return fmt.Errorf("in the network namespace %s that isolation should have left", current)
	case current != inner:
		return fmt.Errorf("in network namespace %s, isolated was %s", current, inner)
	}
	return nil
}

func isolatedAttr(user bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		// Of its own, so that Ctrl-C comes once, from the parent.
		Setpgid: true,
	}
	if user {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// canMakeNamespaces: root in a container often lacks CAP_SYS_ADMIN, so the user id
// is no answer.
func canMakeNamespaces() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	const want = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return data[0].Effective&want == want
}

func explainClone(err error, user bool) error {
	err = fmt.Errorf("make namespaces: %w", err)
	if user && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSPC)) {
		return fmt.Errorf("%w (unprivileged user namespaces look disabled: see the sysctls "+
			"user.max_user_namespaces, kernel.unprivileged_userns_clone and "+
			"kernel.apparmor_restrict_unprivileged_userns, or run as root)", err)
	}
	return err
}

// isolationInit is PID 1 of the isolated program, which runs as its child: the
// program keeps the usual meaning of signals, orphans are reaped, and the kernel
// kills all of the PID namespace with this process. It leaves by syscall.Exit, as
// os.Exit of a program built with -race sleeps a second.
func isolationInit() {
	code, err := runInit()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", initCommand, err)
		code = exitSetupFailed
	}
	syscall.Exit(code)
}

func runInit() (int, error) {
	runtime.LockOSThread() // the thread that leaves its keyring is the one that forks
	if len(os.Args) < 3 {
		return 0, errors.New("usage: " + initCommand + " OUTER-NETNS ARGV0 ARG…")
	}
	outer, argv := os.Args[1], os.Args[2:]
	go dieWith(os.NewFile(3, "lifeline"))
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwardedSignals...)
	if err := settleIn(); err != nil {
		return 0, err
	}
	self, err := seal()
	if err != nil {
		return 0, err
	}
	env, err := isolatedEnv(outer)
	if err != nil {
		return 0, err
	}
	leaveKeyring()
	program, err := os.StartProcess(self, argv, &os.ProcAttr{
		Env:   env,
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", argv[0], err)
	}
	pid := program.Pid
	defer forward(signals, func(s syscall.Signal) { _ = unix.Kill(pid, s) })()
	status, err := reapUntil(pid)
	if err != nil {
		return 0, err
	}
	return exitCodeOf(status), nil
}

// dieWith ends this process when the other end of the pipe is closed, which the
// kernel does when the process holding it dies.
func dieWith(lifeline *os.File) {
	unix.CloseOnExec(int(lifeline.Fd()))
	_, _ = lifeline.Read(make([]byte, 1))
	syscall.Exit(128 + int(syscall.SIGKILL))
}

// leaveKeyring gives the thread a session keyring of its own, which what it starts
// inherits, so that nothing inside has the caller's keys. Kernels without keyrings
// have none to leave. Where the user's quota of keys is used up, the system call
// filter of containers is what keeps them from the keyring.
func leaveKeyring() {
	_, _ = unix.KeyctlJoinSessionKeyring("")
}

func settleIn() error {
	// Slaves rather than private, so that the machine can unmount what is also here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from the machine: %w", err)
	}
	// A container may hide parts of /proc; then the kernel refuses an unprivileged
	// mount that would show them. The old one does: /proc/self and /proc/sys/net
	// are right there too.
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return loopbackUp()
}

func isolatedEnv(outer string) ([]string, error) {
	inner, err := os.Readlink(threadNetns)
	if err != nil {
		return nil, fmt.Errorf("read own network namespace: %w", err)
	}
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return nil, fmt.Errorf("read own process number: %w", err)
	}
	lock, err := unix.MemfdCreate("xtables.lock", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make xtables lock: %w", err)
	}
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, isolationEnv+"=") && !strings.HasPrefix(v, "XTABLES_LOCKFILE=") {
			env = append(env, v)
		}
	}
	return append(env,
		isolationEnv+"="+outer+" "+inner,
		fmt.Sprintf("XTABLES_LOCKFILE=/proc/%s/fd/%d", self, lock),
	), nil
}

// reapUntil reaps children, adopted ones too, until pid ends.
func reapUntil(pid int) (syscall.WaitStatus, error) {
	for {
		var status syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for process %d: %w", pid, err)
		case ended == pid:
			return status, nil
		}
	}
}

// forwardedSignals are those that a person or a supervisor sends. SIGTSTP is not
// one: the terminal stops the parent, and what runs inside goes on.
var forwardedSignals = []os.Signal{
	unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
}

// forward passes signals to send until the function that it returns is called.
func forward(signals <-chan os.Signal, send func(syscall.Signal)) (stop func()) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				send(s.(syscall.Signal))
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}

func exitCodeOf(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
