package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

func newNetns(t *testing.T) *sandbox.Netns {
	t.Helper()
	return nstest.New(t).Netns
}

func currentNetns() (string, error) { return os.Readlink("/proc/thread-self/ns/net") }

func TestDoRunsInsideAndLeavesTheCallerOutside(t *testing.T) {
	home, err := currentNetns()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		ns := newNetns(t)
		want, err := ns.ID()
		if err != nil || want == home {
			t.Fatalf("namespace %s, %v", want, err)
		}
		for range 8 {
			wg.Go(func() {
				for range 50 {
					inside, outside := "", ""
					err := ns.Do(func() (err error) {
						inside, err = currentNetns()
						return err
					})
					if err == nil {
						outside, err = currentNetns()
					}
					if err != nil || inside != want || outside != home {
						t.Errorf("inside %s, want %s; outside %s, want %s; %v", inside, want, outside, home, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestDoNests(t *testing.T) {
	a, b := newNetns(t), newNetns(t)
	want, err := a.ID()
	if err != nil {
		t.Fatal(err)
	}
	err = a.Do(func() error {
		if err := b.Do(func() error { return nil }); err != nil {
			return err
		}
		if got, err := currentNetns(); err != nil || got != want {
			return fmt.Errorf("back in %s, want %s; %w", got, want, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDoReturnsTheError(t *testing.T) {
	want := errors.New("inside")
	if err := newNetns(t).Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}

func TestDoEndsWithTheGoroutineInside(t *testing.T) {
	ns := newNetns(t)
	after := false
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = ns.Do(func() error {
			(&testing.T{}).SkipNow() // ends its goroutine, as FailNow does
			return nil
		})
		after = true
	}()
	<-ended
	if after {
		t.Error("the caller of Do went on after the function inside ended its goroutine")
	}
}

func TestClosedNamespaceCannotBeEntered(t *testing.T) {
	ns := newNetns(t)
	for range 2 {
		if err := ns.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for way, err := range map[string]error{
		"Do":    ns.Do(func() error { return nil }),
		"Start": ns.Start(exec.Command("true")),
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v, want %v", way, err, os.ErrClosed)
		}
	}
}

func TestCommandPassesArgumentsEnvironmentAndExitCode(t *testing.T) {
	cmd := newNetns(t).Command("sh", "-c", `echo "$1|$2|$MARK"; exit 7`, "sh", "a b", "")
	cmd.Env = append(os.Environ(), "MARK=here")
	out, err := cmd.Output()
	if got, want := strings.TrimSpace(string(out)), "a b||here"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("%v, want exit code 7", err)
	}
}

func TestCommandOfAMissingProgramSaysSo(t *testing.T) {
	if err := newNetns(t).Command("no-such-program").Run(); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("%v, want %v", err, exec.ErrNotFound)
	}
}

func TestSysctlsBelongToTheNamespace(t *testing.T) {
	a, b := nstest.New(t), nstest.New(t)
	if err := a.SetSysctl("net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	for ns, want := range map[*nstest.NS]string{a: "1", b: "0"} {
		if got := strings.TrimSpace(ns.Run(t, "cat", "/proc/sys/net/ipv4/ip_forward")); got != want {
			t.Errorf("ip_forward %s, want %s", got, want)
		}
	}
	if err := a.SetSysctl("net/no/such", "1"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "net/no/such") {
		t.Errorf("%v, want an error naming the setting", err)
	}
}

func TestDialRefusesNames(t *testing.T) {
	if _, err := newNetns(t).Dial(t.Context(), "tcp", "localhost:80"); err == nil || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("%v, want an error naming the address", err)
	}
}
