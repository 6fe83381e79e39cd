package cgroup_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox/cgroup"
	"svcproxy/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func init() {
	reexec.Register("cgroup-test-member", member)
	reexec.Register("cgroup-test-stage", stage)
	reexec.Register("cgroup-test-crash", crash)
}

// member does what it is told on its input, a line each.
func member() {
	var kept [][]byte
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("done") {
		var size int
		switch {
		case in.Text() == "spin":
			go func() {
				for n := 0; n >= 0; n = (n + 1) & 0xffff {
				}
			}()
		default:
			if _, err := fmt.Sscanf(in.Text(), "allocate %d", &size); err == nil {
				kept = append(kept, bytes.Repeat([]byte{1}, size))
			}
		}
	}
	runtime.KeepAlive(kept)
	syscall.Exit(0)
}

// stage waits for a line, then becomes the program.
func stage() {
	runtime.LockOSThread() // a cgroup namespace is a thread's
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
	if os.Args[1] == "newns" {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			fmt.Println(err)
			syscall.Exit(1)
		}
	}
	path, err := exec.LookPath(os.Args[2])
	if err == nil {
		err = syscall.Exec(path, os.Args[2:], os.Environ())
	}
	fmt.Println(err)
	syscall.Exit(1)
}

// crash makes groups, with itself in one of them if it has a second argument, and waits to be killed.
func crash() {
	p, err := cgroup.Open(os.Args[1])
	if err == nil {
		var pod, container *cgroup.Group
		if pod, err = p.New("web", cgroup.Limits{}); err == nil {
			if container, err = pod.New("main", cgroup.Limits{}); err == nil && len(os.Args) > 2 {
				err = container.Add(os.Getpid())
			}
		}
	}
	fmt.Println("made", err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	syscall.Exit(1)
}

var all = cgroup.Limits{Memory: 64 << 20, MilliCPU: 500, Pids: 100}

// parentName is one that no other test, and no other run, has.
func parentName(t *testing.T) string {
	return "svcproxy-test-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
}

// open is a parent in the kernel, or nil after a check of what an ordinary user sees.
func open(t *testing.T) *cgroup.Parent {
	t.Helper()
	nstest.Require(t)
	p, err := cgroup.Open(parentName(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Supported().Check(all); err != nil {
		checkRefusal(t, p)
		return nil
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func checkRefusal(t *testing.T, p *cgroup.Parent) {
	t.Helper()
	if os.Getenv(nstest.UserNamespaceEnv) != "1" && !ordinaryUser(t) {
		t.Fatalf("root cannot have all limits here: %+v", p.Supported())
	}
	_, err := p.New("web", all)
	if err == nil {
		t.Fatalf("made a group although %v", p.Supported().Check(all))
	}
	for _, want := range []string{"memory limit cannot be kept here: permission denied: /", "CPU limit cannot", "pids limit cannot"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("an ordinary user is told %q, want %q in it", err, want)
		}
	}
}

// ordinaryUser tells whether this process is no user of the machine but itself.
func ordinaryUser(t *testing.T) bool {
	ranges, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return !strings.Contains(string(ranges), "4294967295")
}

func newGroup(t *testing.T, in interface {
	New(string, cgroup.Limits) (*cgroup.Group, error)
}, name string, l cgroup.Limits) *cgroup.Group {
	t.Helper()
	g, err := in.New(name, l)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	cmd := reexec.Command(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &process{cmd, in, bufio.NewReader(out)}
}

// startMember starts a member of the group.
func startMember(t *testing.T, g *cgroup.Group) *process {
	t.Helper()
	p := start(t, "cgroup-test-member")
	p.expect(t, "ready")
	if err := g.Add(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return p
}

// run runs a program in the group to its end.
func run(t *testing.T, g *cgroup.Group, args ...string) (string, syscall.WaitStatus) {
	t.Helper()
	p := startStage(t, g, "", args...)
	p.in.Close()
	out, _ := io.ReadAll(p.out)
	_ = p.Wait()
	return string(out), p.ProcessState.Sys().(syscall.WaitStatus)
}

// startStage starts a program in the group; newns makes a cgroup namespace for it.
func startStage(t *testing.T, g *cgroup.Group, newns string, args ...string) *process {
	t.Helper()
	p := start(t, append([]string{"cgroup-test-stage", newns}, args...)...)
	p.expect(t, "ready")
	if err := g.Add(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p.in, "\n"); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	return p
}

func (p *process) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		t.Fatal(err)
	}
}

func (p *process) expect(t *testing.T, want string) {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != want {
		t.Fatalf("process %d says %q, %v; want %q", p.Process.Pid, line, err, want)
	}
}

// killed waits for the process, which the kernel must have killed.
func (p *process) killed(t *testing.T) {
	t.Helper()
	_, _ = io.ReadAll(p.out)
	_ = p.Wait()
	if status := p.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Fatalf("process %d ended with %v, want killed", p.Process.Pid, p.ProcessState)
	}
}

func stats(t *testing.T, g *cgroup.Group) cgroup.Stats {
	t.Helper()
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func set(t *testing.T, g *cgroup.Group, l cgroup.Limits) {
	t.Helper()
	if err := g.Set(l); err != nil {
		t.Fatal(err)
	}
}
