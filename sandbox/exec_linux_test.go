package sandbox_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/sandbox/confine"
	"svcproxy/test/nstest"
)

// execute runs a shell script in a container and returns what it printed and how it
// ended.
func execute(t testing.TB, c *sandbox.Container, text, input string) (string, sandbox.ExitStatus) {
	t.Helper()
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := c.Exec(sandbox.ExecConfig{
		Args: []string{"bash", "-c", text}, Env: []string{"PATH=/bin", "COLOUR=blue"}, Dir: "/proc",
		Profile: profile(), Stdin: in, Stdout: w, Stderr: w,
	})
	in.Close()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(feed, input); err != nil {
		t.Error(err)
	}
	feed.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), p.Status()
}

func TestExecRunsInTheContainer(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "cat", "ls", "sleep")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	c := sleeper(t, pod, layer, "bash", "-c", "echo made by PID 1 > /note; exec sleep 1000")
	nstest.Eventually(t, 10*time.Second, func() error {
		out, status := execute(t, c, `cat /note - && pwd && echo $COLOUR && cat 1/cmdline && [ $$ != 1 ] && echo [0-9]* && ls -l /proc/self/fd; exit 41`, "and this\n")
		for _, want := range []string{"made by PID 1\nand this\n/proc\nblue\nsleep\x001000\x001 "} {
			if !strings.Contains(out, want) || status.Code != 41 {
				return fmt.Errorf("no %q in %q (%+v)", want, out, status)
			}
		}
		if strings.Count(out, " -> ") != 4 {
			return fmt.Errorf("open files other than the standard streams and the folder: %s", out)
		}
		return nil
	})
	for _, ns := range []string{"pid", "mnt", "net", "uts", "ipc", "user", "cgroup"} {
		if out, _ := execute(t, c, "ls -l /proc/self/ns/"+ns, ""); !strings.Contains(out, namespaceOf(t, c, ns)) {
			t.Errorf("not in %s: %s", namespaceOf(t, c, ns), out)
		}
	}
}

func TestExecTellsHowItEnded(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "sleep")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	c := sleeper(t, pod, layer, "sleep", "1000")
	for text, want := range map[string]sandbox.ExitStatus{
		"exit 0": {}, "exit 255": {Code: 255}, "kill -9 $$": {Code: 137, Signal: syscall.SIGKILL}, "kill -TERM $$": {Code: 143, Signal: syscall.SIGTERM},
	} {
		if _, got := execute(t, c, text, ""); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	p, err := c.Exec(sandbox.ExecConfig{Args: []string{"/bin/bash", "-c", "trap 'exit 9' USR1; while :; do sleep 0.01; done"}, Env: []string{"PATH=/bin"}, Profile: profile()})
	if err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, func() error {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		if err == nil && !strings.Contains(string(status), "SigCgt:\t0000000000010") && !strings.Contains(string(status), "200\n") {
			err = errors.New("no trap yet")
		}
		return err
	})
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Error(err)
	}
	if got := p.Status(); got.Code != 9 {
		t.Errorf("after SIGUSR1: %+v", got)
	}
	if err := p.Signal(syscall.SIGUSR1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to what has ended: %v", err)
	}
}

func TestExecErrors(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "sleep")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	c := sleeper(t, pod, layer, "sleep", "1000")
	var failed *sandbox.StartError
	if _, err := c.Exec(sandbox.ExecConfig{Args: []string{"curl"}}); !errors.As(err, &failed) || failed.Code != sandbox.ExitNotFound {
		t.Errorf("no such program: %v", err)
	}
	if _, err := c.Exec(sandbox.ExecConfig{Args: []string{"sleep"}, Dir: "/nowhere"}); err == nil || !strings.Contains(err.Error(), "/nowhere: no such file") {
		t.Errorf("no such folder: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if got := c.Status(); got != (sandbox.ExitStatus{Code: 137, Signal: syscall.SIGKILL}) {
		t.Errorf("a closed container's status is %+v", got)
	}
	if _, err := c.Exec(sandbox.ExecConfig{Args: []string{"sleep"}}); err == nil || !strings.Contains(err.Error(), "the container has ended") {
		t.Errorf("in a container that has ended: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestTerminals(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "stty", "tty", "sleep", "ls")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	c := sleeper(t, pod, layer, "sleep", "1000")
	uid := 0
	if users(t).Size > 0 {
		uid = 1000
	}
	own := profile()
	own.UID = uid
	p, err := c.Exec(sandbox.ExecConfig{
		Args: []string{"bash", "--norc", "-c", `
			stty size; tty; : < /dev/tty && : > /dev/pts/0 && echo mine; ls -ln /dev/pts/0
			trap 'stty size; echo resized' WINCH; trap 'echo interrupted; exit 5' INT
			echo ready; while :; do sleep 0.01; done`},
		Env: []string{"PATH=/bin"}, Profile: own, Terminal: true, Size: sandbox.Window{Rows: 33, Columns: 111},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Terminal().Close()
	screen := make(chan string)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := p.Terminal().Read(buf)
			if n > 0 {
				screen <- string(buf[:n])
			}
			if err != nil {
				close(screen)
				return
			}
		}
	}()
	seen := ""
	until := func(want string) {
		t.Helper()
		for !strings.Contains(seen, want) {
			text, ok := <-screen
			if !ok {
				t.Fatalf("no %q in %q", want, seen)
			}
			seen += text
		}
	}
	until("ready")
	for _, want := range []string{"33 111\r\n", "/dev/pts/0\r\n", "mine\r\n", fmt.Sprintf("crw--w---- 1 %d ", uid)} {
		if !strings.Contains(seen, want) {
			t.Errorf("no %q in %q", want, seen)
		}
	}
	if err := p.Resize(sandbox.Window{Rows: 10, Columns: 20}); err != nil {
		t.Error(err)
	}
	until("10 20\r\nresized")
	if _, err := p.Terminal().WriteString("\x03"); err != nil {
		t.Error(err)
	}
	until("interrupted")
	if got := p.Status(); got.Code != 5 {
		t.Errorf("after ^C: %+v", got)
	}
}

func TestContainerWithATerminal(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash", "stty")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	c, err := pod.StartContainer(sandbox.ContainerConfig{
		Name: "main", Layers: []string{layer}, Args: []string{"bash", "-c", "stty size; read line; echo got $line"}, Env: []string{"PATH=/bin"},
		Profile: profile(), Terminal: true, Size: sandbox.Window{Rows: 12, Columns: 34},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Terminal().WriteString("hello\n"); err != nil {
		t.Error(err)
	}
	out, err := io.ReadAll(c.Terminal())
	if !errors.Is(err, unix.EIO) {
		t.Errorf("at the end: %v", err)
	}
	if !strings.Contains(string(out), "12 34") || !strings.Contains(string(out), "got hello") {
		t.Errorf("screen: %q", out)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestCallersTerminalStaysOutside(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	layer := image(t, "bash")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	_, err = pod.StartContainer(sandbox.ContainerConfig{Name: "main", Layers: []string{layer}, Args: []string{"bash"}, Stdin: tty, Profile: confine.Profile{}})
	if err == nil || !strings.Contains(err.Error(), "stdin: the caller's terminal") {
		t.Errorf("a terminal as stdin: %v", err)
	}
}
