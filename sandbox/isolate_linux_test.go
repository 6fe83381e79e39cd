package sandbox_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/test/nstest"
)

// helper is this test binary as one of TestMain's helpers.
func helper(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	nstest.Require(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// eachIsolation runs the test with the machine's capabilities and in a user
// namespace.
func eachIsolation(t *testing.T, test func(t *testing.T, script func(string) *exec.Cmd)) {
	for name, user := range map[string]string{"as the caller": "0", "in a user namespace": "1"} {
		t.Run(name, func(t *testing.T) {
			test(t, func(script string) *exec.Cmd {
				cmd := helper(t, "isolate", script)
				cmd.Env = append(cmd.Env, nstest.UserNamespaceEnv+"="+user)
				return cmd
			})
		})
	}
}

func TestIsolatedProgramPassesItsExitCodeOn(t *testing.T) {
	eachIsolation(t, func(t *testing.T, script func(string) *exec.Cmd) {
		for body, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137} {
			cmd := script(body)
			if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
				t.Errorf("%s: %v, want exit code %d", body, err, want)
			}
		}
	})
}

func TestIsolatedProgramHasAWorldOfItsOwn(t *testing.T) {
	eachIsolation(t, func(t *testing.T, script func(string) *exec.Cmd) {
		before, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		out, err := script(`
			set -e
			id -u
			ip -o link | wc -l
			ip -o address show dev lo to 127.0.0.1 up | wc -l
			echo 1 > /proc/sys/net/ipv4/ip_forward
			mount -t tmpfs none /mnt
			iptables-legacy -w 1 -N KUBE-TEST
			tr '\0' '\n' < /proc/1/cmdline | head -n 1
			env | grep -c SVCPROXY_ISOLATED || true`).Output()
		if err != nil {
			t.Fatal(err)
		}
		// root; only lo; it is up; /proc is of the new PID namespace; the mark is gone.
		if got, want := strings.Join(strings.Fields(string(out)), " "), "0 1 1 svcproxy-init 0"; got != want {
			t.Errorf("inside: %q, want %q", got, want)
		}
		if after, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(after) != string(before) {
			t.Errorf("mounts came out, %v:\n%s", err, after)
		}
	})
}

func TestSignalsReachTheIsolatedProgramOnce(t *testing.T) {
	eachIsolation(t, func(t *testing.T, script func(string) *exec.Cmd) {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
			cmd := script(fmt.Sprintf(`
				trap 'count=$((count + 1)); echo got it' %d
				trap 'exit $((40 + count))' USR1
				echo ready
				while :; do sleep 0.01; done`, sig))
			lines := start(t, cmd)
			next(t, lines)
			signal(t, cmd, sig)
			next(t, lines)
			signal(t, cmd, syscall.SIGUSR1)
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != 41 {
				t.Errorf("%v: exit code %d, want 41: one signal and its own code", sig, got)
			}
		}
	})
}

func TestKillingTheParentLeavesNothingIsolated(t *testing.T) {
	eachIsolation(t, func(t *testing.T, script func(string) *exec.Cmd) {
		cmd := script(`
			setsid sleep 1000 &
			trap '' HUP INT TERM
			readlink /proc/self/ns/net
			while :; do sleep 0.01; done`)
		id := next(t, start(t, cmd))
		gone := watch(t, id)
		signal(t, cmd, syscall.SIGKILL)
		_ = cmd.Wait()
		nstest.Eventually(t, 10*time.Second, gone)
	})
}

func TestOrphansDieWithTheIsolatedProgram(t *testing.T) {
	eachIsolation(t, func(t *testing.T, script func(string) *exec.Cmd) {
		out, err := script(`setsid sleep 1000 >/dev/null & readlink /proc/self/ns/net`).Output()
		if err != nil {
			t.Fatal(err)
		}
		if pids := processesIn(strings.TrimSpace(string(out))); len(pids) > 0 {
			t.Errorf("left behind: %v", pids)
		}
	})
}

func TestKillingTheProgramRemovesNodePodsAndProcesses(t *testing.T) {
	cmd := helper(t, "node")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	lines := start(t, cmd)
	var gone []func() error
	for range 3 {
		gone = append(gone, watch(t, next(t, lines)))
	}
	signal(t, cmd, syscall.SIGKILL)
	_ = cmd.Wait()
	for _, check := range gone {
		nstest.Eventually(t, 10*time.Second, check)
	}
}

// In a container whose runtime hides parts of /proc, the kernel refuses a new one to
// a user namespace; numbers in /proc are then not those that getpid returns.
func TestIsolationWorksWithTheProcOfAnotherNamespace(t *testing.T) {
	nstest.Require(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const tests = "^(TestRemovedPodLeavesNothingOnTheNode|TestProcessInAPodSeesOnlyItsOwnInterfaces)$"
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c",
		`mount -t tmpfs none /proc/fs && exec "$0" -test.v -test.run="$1"`, exe, tests)
	cmd.Env = append(os.Environ(), nstest.UserNamespaceEnv+"=1", "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
}

// watch puts one end of a veth pair into the namespace, which the kernel deletes
// with it, and returns a check that the namespace and its processes are gone.
func watch(t *testing.T, id string) (gone func() error) {
	t.Helper()
	pids := processesIn(id)
	if len(pids) == 0 {
		t.Fatalf("no process in %s", id)
	}
	inode := strings.Trim(id, "net:[]")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "w" + inode
	probe := &netlink.Veth{LinkAttrs: attrs, PeerName: "p" + inode, PeerNamespace: netlink.NsPid(pids[0])}
	if err := netlink.LinkAdd(probe); err != nil {
		t.Fatalf("watch %s: %v", id, err)
	}
	return func() error {
		if pids := processesIn(id); len(pids) > 0 {
			return fmt.Errorf("processes %v are left in %s", pids, id)
		}
		_, err := netlink.LinkByName(attrs.Name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		return fmt.Errorf("network namespace %s still exists (%v)", id, err)
	}
}

func TestMountsGoInwardAndNotOutward(t *testing.T) {
	eachIsolation(t, func(t *testing.T, script func(string) *exec.Cmd) {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
		for _, sub := range []string{ours, theirs} {
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount("tmpfs", ours, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		cmd := script("mount -t tmpfs tmpfs " + theirs + " && echo mounted && read go && grep -c ^ /proc/mounts && ! grep " + ours + " /proc/mounts")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		lines := start(t, cmd)
		if next(t, lines) != "mounted" {
			t.Fatal("not mounted")
		}
		mounts, err := os.ReadFile("/proc/mounts")
		if err != nil || strings.Contains(string(mounts), theirs) {
			t.Errorf("a mount made inside is seen outside (%v):\n%s", err, mounts)
		}
		// What is unmounted outside goes inside too, or a program that runs for long
		// would keep the machine's file systems busy.
		if err := unix.Unmount(ours, 0); err != nil {
			t.Error(err)
		}
		fmt.Fprintln(in, "go")
		for lines.Scan() {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("a mount that is gone outside is still inside: %v", err)
		}
	})
}

func processesIn(id string) []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		if got, err := os.Readlink(link); err == nil && got == id {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

func start(t *testing.T, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return bufio.NewScanner(out)
}

func next(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("the program said nothing: %v", lines.Err())
	}
	return lines.Text()
}

func signal(t *testing.T, cmd *exec.Cmd, sig syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}
