// Package nstest lets tests program a real kernel without touching the machine's
// network. Main moves a test binary into namespaces of its own; New makes a fresh
// network namespace for one test and refuses to work anywhere else.
//
// A package of kernel tests has
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
//
// As root the tests have the machine's real capabilities over their own
// namespaces. Otherwise, or with SVCPROXY_TEST_USERNS=1, they are root in a user
// namespace, as in `make demo`.
package nstest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"svcproxy/sandbox"
)

// UserNamespaceEnv set to 1 makes Main use a user namespace for root too.
const UserNamespaceEnv = "SVCPROXY_TEST_USERNS"

// Main runs the tests in namespaces made for them and exits. See sandbox.Isolate
// for what holds inside.
//
// Fuzzing stays outside, since it talks to its workers over inherited files; kernel tests then refuse to run.
func Main(m *testing.M) {
	sandbox.Init()
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run())
	}
	err := sandbox.Isolated()
	if err == nil {
		os.Exit(m.Run())
	}
	if !errors.Is(err, sandbox.ErrNotIsolated) {
		refuse(err)
	}
	code, err := sandbox.Isolate(sandbox.Isolation{UserNamespace: os.Getenv(UserNamespaceEnv) == "1"})
	if err != nil {
		refuse(err)
	}
	syscall.Exit(code) // os.Exit of a binary built with -race sleeps a second
}

func refuse(err error) {
	fmt.Fprintln(os.Stderr, "nstest: refusing to run kernel tests:", err)
	os.Exit(1)
}

// Require fails the test unless it runs in the namespaces that Main made. Every
// function of this package that reaches the kernel calls it.
func Require(t testing.TB) {
	t.Helper()
	if err := sandbox.Isolated(); err != nil {
		t.Fatalf("kernel test outside its own network namespace: %v (does the package have func TestMain(m *testing.M) { nstest.Main(m) }?)", err)
	}
}

// NS is an empty network namespace of one test, with lo up.
type NS struct {
	*sandbox.Netns
}

// New makes a network namespace that is closed, and everything in it killed, when
// the test ends.
func New(t testing.TB) *NS {
	t.Helper()
	Require(t)
	netns, err := sandbox.NewNetns()
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := netns.Close(); err != nil {
			t.Errorf("close network namespace: %v", err)
		}
	})
	return &NS{netns}
}

// Unprivileged runs the tests whose names match the pattern (as in go test -run)
// once more, as an ordinary user, and fails the test if they fail or if there are
// none. It does nothing where no second user exists because the tests already run
// as an ordinary one.
func Unprivileged(t testing.TB, pattern string) {
	t.Helper()
	Require(t)
	const nobody = 65534
	if !userExists(t, nobody) {
		return
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run="+pattern)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("\n--- PASS")) {
		t.Fatalf("as user %d: %v\n%s", nobody, err, out)
	}
}

// userExists tells whether this user namespace maps the user.
func userExists(t testing.TB, uid int) bool {
	t.Helper()
	ranges, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(ranges)) {
		var first, outside, size int
		if _, err := fmt.Sscan(line, &first, &outside, &size); err != nil {
			t.Fatalf("/proc/self/uid_map: %q: %v", line, err)
		}
		if first <= uid && uid-first < size {
			return true
		}
	}
	return false
}

// Run runs a program inside and returns its standard output. A program that fails
// fails the test, with all that it printed.
func (n *NS) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return n.RunInput(t, "", name, args...)
}

// RunInput is Run with a standard input.
func (n *NS) RunInput(t testing.TB, input, name string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Eventually polls check until it returns nil, and fails the test with its last
// error after the time-out or when the test is over.
func Eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %v", timeout, err)
		case <-t.Context().Done():
			t.Fatalf("test ended: %v", err)
		}
	}
}
