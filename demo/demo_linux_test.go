package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"svcproxy/test/nstest"
)

// program is svcproxy, built once for the tests.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "svcproxy-demo-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "svcproxy")
	build := exec.Command("go", "build", "-o", program, "svcproxy/cmd/svcproxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building svcproxy: %v\n%s", err, out))
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

func TestDemoChecksWhatItShows(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), program, "demo", "--proxy-mode", mode).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range []string{"KUBE-SVC-ERIFXISQEP7F7OF4", "KUBE-SEP-ZXMNUKOKXUTL2MK2", "10.96.0.1\n", " 0 failed"} {
				if !strings.Contains(string(out), want) {
					t.Errorf("%q is missing in:\n%s", want, out)
				}
			}
		})
	}
}

func TestDemoNamesAMissingToolAndShowsTheRest(t *testing.T) {
	all := map[string]string{"dig": "dnsutils", "curl": "curl", "conntrack": "conntrack", "nft": "nftables"}
	for _, hidden := range [][]string{{"dig"}, slices.Collect(maps.Keys(all))} {
		t.Run(strings.Join(hidden, " "), func(t *testing.T) {
			dir := t.TempDir()
			for _, tool := range []string{"sh", "grep", "ip", "dig", "curl", "conntrack", "nft"} {
				path, err := exec.LookPath(tool)
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(hidden, tool) {
					continue
				}
				if err := os.Symlink(path, filepath.Join(dir, tool)); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), program, "demo")
			cmd.Env = append(os.Environ(), "PATH="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), " 0 failed") {
				t.Errorf("%v\n%s", err, out)
			}
			for _, tool := range hidden {
				if _, err := os.Stat("/usr/sbin/" + tool); err == nil {
					continue // which the demo finds by itself
				}
				if want := tool + " is not installed: install the package " + all[tool]; !strings.Contains(string(out), want) {
					t.Errorf("%q is missing in:\n%s", want, out)
				}
			}
		})
	}
}

// Wherever Ctrl-C comes, the demo ends soon with the shell's code for it, and so do all its processes.
func TestInterruptedDemoLeavesNothing(t *testing.T) {
	for _, after := range []string{"svcproxy demo", "1. ", "4. ", "9. "} {
		t.Run("after "+strings.TrimSpace(after), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), program, "demo")
			mark := fmt.Sprintf("SVCPROXY_DEMO_TEST=%d-%d", os.Getpid(), time.Now().UnixNano())
			cmd.Env = append(os.Environ(), mark)
			seen := newTripwire("\n" + after)
			cmd.Stdout, cmd.Stderr = seen, seen
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-seen.tripped:
			case <-time.After(30 * time.Second):
				t.Errorf("%q was never printed", after)
			}
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
				t.Errorf("ended with %v, want exit code 130", err)
			}
			nstest.Eventually(t, 5*time.Second, func() error {
				if left := processesWith(mark); len(left) > 0 {
					return fmt.Errorf("processes are left: %v", left)
				}
				return nil
			})
		})
	}
}

// tripwire closes tripped when a text was written.
type tripwire struct {
	text    string
	seen    bytes.Buffer
	tripped chan struct{}
}

func newTripwire(text string) *tripwire {
	w := &tripwire{text: text, tripped: make(chan struct{})}
	w.seen.WriteByte('\n')
	return w
}

func (w *tripwire) Write(p []byte) (int, error) {
	w.seen.Write(p)
	if w.text != "" && strings.Contains(w.seen.String(), w.text) {
		w.text = ""
		close(w.tripped)
	}
	return len(p), nil
}

// processesWith returns the processes whose environment has an entry.
func processesWith(entry string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil && slices.Contains(strings.Split(string(data), "\x00"), entry) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

func TestUnknownModeIsAUsageError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "demo", "--proxy-mode", "ipvs").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "--proxy-mode") {
		t.Errorf("got %v, %s; want exit code 2 and the flag's name", err, out)
	}
}
