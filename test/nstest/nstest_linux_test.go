package nstest

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func TestNamespacesAreApart(t *testing.T) {
	a, b := New(t), New(t)
	a.Run(t, "ip", "address", "add", "192.0.2.1/32", "dev", "lo")
	if got := a.Run(t, "ip", "-o", "address"); !strings.Contains(got, "192.0.2.1/32") {
		t.Errorf("address not in its own namespace:\n%s", got)
	}
	for name, out := range map[string]string{
		"another namespace": b.Run(t, "ip", "-o", "address"),
		"the test's own":    New(t).Run(t, "ip", "-o", "address"),
	} {
		if strings.Contains(out, "192.0.2.1") {
			t.Errorf("address seen in %s:\n%s", name, out)
		}
	}
}

func TestLoopbackIsUp(t *testing.T) {
	err := New(t).Do(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Error(err)
	}
}

func TestEveryWayInLeadsToTheSameNamespace(t *testing.T) {
	ns := New(t)
	want, err := ns.ID()
	if err != nil {
		t.Fatal(err)
	}
	var inside string
	if err := ns.Do(func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	command, err := ns.Command("readlink", "/proc/self/ns/net").Output()
	if err != nil {
		t.Fatal(err)
	}
	nsenter, err := exec.Command("nsenter", "--net="+ns.Path(), "readlink", "/proc/self/ns/net").Output()
	if err != nil {
		t.Fatal(err)
	}
	for way, got := range map[string]string{
		"Do":      inside,
		"Run":     ns.Run(t, "readlink", "/proc/self/ns/net"),
		"Command": string(command),
		"nsenter": string(nsenter),
	} {
		if strings.TrimSpace(got) != want {
			t.Errorf("%s ran in %s, want %s", way, strings.TrimSpace(got), want)
		}
	}
	Require(t) // and the test itself never left its own
}

// fatalTB records that a guard ended the test.
type fatalTB struct {
	testing.TB
	fatal string
}

func (f *fatalTB) Helper() {}
func (f *fatalTB) Fatalf(format string, args ...any) {
	f.fatal = format
}

func TestRequireRefusesAnyOtherNamespace(t *testing.T) {
	var guarded fatalTB
	err := New(t).Do(func() error {
		Require(&guarded)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if guarded.fatal == "" {
		t.Error("Require let a test run in a namespace that Main did not make")
	}
}

func TestRunWithInput(t *testing.T) {
	ns := New(t)
	ns.RunInput(t, "*filter\n:KUBE-TEST - [0:0]\nCOMMIT\n", "iptables-restore", "--noflush")
	if got := ns.Run(t, "iptables-save"); !strings.Contains(got, ":KUBE-TEST") {
		t.Errorf("chain not restored:\n%s", got)
	}
}

func TestLegacyIptablesUsesAPrivateLock(t *testing.T) {
	New(t).Run(t, "iptables-legacy", "-w", "1", "-t", "nat", "-N", "KUBE-TEST")
	if lock := os.Getenv("XTABLES_LOCKFILE"); !strings.HasPrefix(lock, "/proc/") {
		t.Errorf("XTABLES_LOCKFILE=%q is a file of the machine", lock)
	}
}

func TestEventuallyPollsUntilItHolds(t *testing.T) {
	calls := 0
	Eventually(t, time.Minute, func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if calls != 3 {
		t.Errorf("%d calls, want 3", calls)
	}
}

const kernelTests = "^(TestNamespacesAreApart|TestEveryWayIn.*|TestRequire.*|TestRunWithInput|TestLegacyIptables.*)$"

func TestOrdinaryUserCanRunKernelTests(t *testing.T) {
	Unprivileged(t, kernelTests)
}

func TestRootCanRunKernelTestsInAUserNamespace(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run="+kernelTests)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", UserNamespaceEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := bytes.Count(out, []byte("\n--- PASS")); n != 5 {
		t.Errorf("%d tests ran, want 5:\n%s", n, out)
	}
}

func TestUsersOfThisNamespaceAreKnown(t *testing.T) {
	if !userExists(t, os.Getuid()) {
		t.Errorf("user %d, who runs this, is not found", os.Getuid())
	}
	if userExists(t, 1<<32-1) {
		t.Error("the invalid user id is found")
	}
}
