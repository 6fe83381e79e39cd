package escape

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// waitAttack is a victim: it waits until the test ends it.
var waitAttack = register("wait", func(a *attacker) {
	a.running(func() { a.rest() })
	a.holds("wait", true, "")
})

// timeout is ample for anything that a pod does.
const timeout = 20 * time.Second

// hostPIDs are more numbers than the kernel gives in a fresh PID namespace in a test.
const hostPIDs = 5000

// numbersAttack tries all that takes a process's number on all but itself.
var numbersAttack = register("numbers", func(a *attacker) {
	processes, err := others()
	a.holds("see other processes", err == nil && len(processes) == 0, processes)
	a.refused("kill all", unix.Kill(-1, unix.SIGKILL), unix.ESRCH)
	own := map[int]bool{}
	for _, thread := range names("/proc/self/task") {
		id, _ := strconv.Atoi(thread)
		own[id] = true
	}
	unknown := map[string][]error{}
	for pid := 1; pid <= hostPIDs; pid++ {
		if own[pid] {
			continue
		}
		_, pidfd := unix.PidfdOpen(pid, 0)
		for try, err := range map[string]error{
			"kill":             unix.Kill(pid, unix.SIGKILL),
			"kill a group":     unix.Kill(-pid, unix.SIGKILL),
			"queue a signal":   call(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(unix.SIGKILL), 0),
			"ptrace":           unix.PtraceSeize(pid),
			"process_vm_readv": readMemory(pid),
			"pidfd_open":       pidfd,
			"set its limits":   unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{}, nil),
			"set its nice":     unix.Setpriority(unix.PRIO_PROCESS, pid, 19),
			"get its group":    second(unix.Getpgid(pid)),
		} {
			if !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EFAULT) {
				unknown[try] = append(unknown[try], fmt.Errorf("%d: %w", pid, err))
			}
		}
	}
	a.holds("reach any process by its number", len(unknown) == 0, unknown)
})

func second[T any](_ T, err error) error { return err }

func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

// others are the processes in /proc but this one.
func others() ([]int, error) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		return nil, err
	}
	var found []int
	for _, name := range names("/proc") {
		if pid, err := strconv.Atoi(name); err == nil && pid != os.Getpid() {
			found = append(found, pid)
		}
	}
	return found, nil
}

func readMemory(pid int) error {
	var word [8]byte
	local := unix.Iovec{Base: &word[0], Len: 8}
	remote := unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&word[0])), Len: 8}
	_, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	return err
}

func writeMemory(pid int) error {
	var word [8]byte
	local := unix.Iovec{Base: &word[0], Len: 8}
	remote := unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&word[0])), Len: 8}
	_, err := unix.ProcessVMWritev(pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	return err
}

// pauseAttack has the pod's pause process before it, as PID 1.
var pauseAttack = register("pause", func(a *attacker) {
	processes, err := others()
	a.holds("see pause, which is PID 1", err == nil && slices.Contains(processes, 1), processes)
	a.look(1)
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		for range 3 {
			_ = unix.Kill(1, sig) // it is the test that sees whether pause lives
		}
	}
	a.holds("let nothing but a signal through", unix.Kill(1, 0) == nil, "PID 1 is gone")
	a.refused("kill all", unix.Kill(-1, unix.SIGKILL), unix.ESRCH) // the others that this pod may have
})

// look tries to see, trace and take over a process that is none of the attacker's.
func (a *attacker) look(pid int) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	for _, name := range []string{"root", "cwd", "exe"} {
		_, err := os.Readlink(dir + name)
		a.refused("read its "+name, err, unix.EACCES, unix.EPERM)
		a.hidden("look around in its "+name, dir+name)
	}
	ways := []string{"mem", "maps", "environ", "auxv", "pagemap", "syscall", "stack", "io", "root/.", "cwd/.", "exe", "fd/0", "fd/1"}
	for _, file := range names(dir + "fd") { // their numbers are no secret
		ways = append(ways, "fd/"+file)
	}
	for _, name := range ways {
		fd, err := unix.Open(dir+name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			// Some of these files open for anybody and give nothing.
			if _, err = unix.Read(fd, make([]byte, 8)); !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
				err = nil
			}
			unix.Close(fd)
		}
		a.refused("open its "+name, err, unix.EACCES, unix.EPERM)
	}
	for _, ns := range names("/proc/self/ns") {
		a.refused("open its ns/"+ns, second(os.Open(dir+"ns/"+ns)), unix.EACCES, unix.EPERM)
	}
	a.refused("ptrace", inThread(func() error { return unix.PtraceSeize(pid) }), unix.EPERM)
	a.refused("ptrace attach", inThread(func() error { return unix.PtraceAttach(pid) }), unix.EPERM)
	a.refused("process_vm_readv", readMemory(pid), unix.EPERM)
	a.refused("process_vm_writev", writeMemory(pid), unix.EPERM)
	pidfd, err := unix.PidfdOpen(pid, 0)
	a.holds("pidfd_open, which anybody may", err == nil, err)
	for fd := range 6 {
		a.refused(fmt.Sprintf("pidfd_getfd %d", fd), second(unix.PidfdGetfd(pidfd, fd, 0)), unix.EPERM)
	}
	a.refused("setns by the pidfd", inThread(func() error { return unix.Setns(pidfd, unix.CLONE_NEWNS) }), unix.EPERM)
	a.refused("process_madvise", call(unix.SYS_PROCESS_MADVISE, uintptr(pidfd)), unix.EPERM)
	a.refused("kcmp", call(unix.SYS_KCMP, uintptr(pid), uintptr(os.Getpid())), unix.EPERM)
}

// twinAttack looks at a process of its own, which it may: the control of look.
var twinAttack = register("twin", func(a *attacker) {
	cmd := exec.Command("/proc/self/exe", waitAttack)
	cmd.Args[0] = attackerCommand
	cmd.Env = os.Environ()
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		a.holds("start a twin", false, err)
		return
	}
	a.look(cmd.Process.Pid)
	stdin.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
})

// stagesAttack sees the processes that become programs in the pod come and go, and
// looks into each as early as it can.
var stagesAttack = register("stages", func(a *attacker) {
	seen := map[int]bool{1: true}
	escapes := map[string]bool{}
	a.running(func() {
		processes, _ := others()
		for _, pid := range processes {
			if pid == 1 {
				continue
			}
			seen[pid] = true
			a.peek(pid, escapes)
		}
	})
	a.Facts["seen"] = strconv.Itoa(len(seen) - 1)
	a.holds("get out through a process that becomes a program", len(escapes) == 0, escapes)
})

// peek notes what of a process leads out of the pod. A program of the pod may be
// looked at; what it was before may not.
func (a *attacker) peek(pid int, escapes map[string]bool) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	ways := []string{"root", "cwd"}
	for _, fd := range names(dir + "fd") {
		ways = append(ways, "fd/"+fd)
	}
	for _, thread := range names(dir + "task") {
		ways = append(ways, "task/"+thread+"/root", "task/"+thread+"/cwd")
	}
	for _, way := range ways {
		target, err := os.Readlink(dir + way)
		if err != nil {
			continue
		}
		if a.seesHost(dir + way) {
			escapes[way+" shows the host"] = true
		}
		for _, name := range []string{"stage", "shm", "0/usr", "rw/upper", "upper", "work"} {
			if _, err := os.Lstat(dir + way + "/" + name); err == nil {
				escapes[fmt.Sprintf("%s (%s) has %s, which no container has", way, target, name)] = true
			}
		}
		if fd, ok := strings.CutPrefix(way, "fd/"); ok && !slices.Contains([]string{"0", "1", "2"}, fd) &&
			!strings.HasPrefix(target, "anon_inode:") && !sameFile(dir+way, dir+"root"+target) {
			escapes[fmt.Sprintf("file %s (%s) is open", fd, target)] = true
		}
	}
	if target, err := os.Readlink(dir + "exe"); err == nil && filepath.Base(target) != attackerCommand {
		escapes["runs "+target] = true
	}
}

// sameFile is true also if one of them is gone.
func sameFile(a, b string) bool {
	one, err := identity(a)
	if err != nil {
		return true
	}
	other, err := identity(b)
	return err != nil && !errors.Is(err, os.ErrNotExist) || one == other
}

// rest lets others run.
func (a *attacker) rest() { _ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil) }

// alive requires that the program runs and can be told to end.
func (a *prisoner) alive(t *testing.T, who string) {
	t.Helper()
	select {
	case <-a.Done():
		t.Errorf("%s has ended: %+v", who, a.Status())
	default:
		a.found(t).held(t)
	}
}

// bystander is a process of the host.
func bystander(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the host's process: %v", err)
		}
	})
	return cmd
}

func TestAttackerReachesNoProcess(t *testing.T) {
	t.Parallel()
	bystander(t)
	p := newPrison(t, sandbox.PauseConfig{})
	victim := p.start(t, waitAttack)
	p.holds(t, numbersAttack)
	victim.alive(t, "another container of the pod")
}

func TestAttackerCannotTouchPause(t *testing.T) {
	t.Parallel()
	bystander(t)
	other := newPrison(t, sandbox.PauseConfig{})
	victim := other.start(t, waitAttack)
	p := newPrison(t, sandbox.PauseConfig{ShareProcesses: true})
	p.holds(t, pauseAttack)
	victim.alive(t, "a container of another pod")
	p.start(t, waitAttack).alive(t, "a new container, which takes a pause process")
	// What is refused of pause is not refused of a process that is the attacker's own.
	p.escapes(t, twinAttack, "read its root", "open its cwd/.", "open its mem", "open its environ", "open its fd/0", "open its ns/net",
		"ptrace", "process_vm_readv", "pidfd_getfd 0", "kcmp")
}

func TestAttackerGetsNothingOfProcessesThatBecomePrograms(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared processes %v", shared), func(t *testing.T) {
			p := newPrison(t, sandbox.PauseConfig{ShareProcesses: shared})
			cfg := p.config(stagesAttack)
			var container *sandbox.Container
			watcher, err := newPrisoner(t, func(stdin, stdout *os.File) (_ *sandbox.Process, err error) {
				cfg.Stdin, cfg.Stdout, cfg.Stderr = stdin, stdout, stdout
				if container, err = p.StartContainer(cfg); err != nil {
					return nil, err
				}
				return container.Process, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			rounds := nstest.Sized(10, 100)
			for range rounds {
				guest, err := container.Exec(sandbox.ExecConfig{
					Args: []string{attackerCommand, waitAttack}, Env: cfg.Env, Profile: cfg.Profile,
				})
				if err != nil {
					t.Fatal(err)
				}
				guest.Status()
				if shared {
					p.start(t, waitAttack).found(t)
				}
			}
			found := watcher.found(t)
			found.held(t)
			// On a busy machine one may come and go between two looks.
			if seen, err := strconv.Atoi(found.Facts["seen"]); err != nil || seen < rounds/2 {
				t.Errorf("the attacker saw %d processes of %d, %v", seen, rounds, err)
			}
		})
	}
}
