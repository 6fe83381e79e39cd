package sandboxcmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/test/nstest"
)

// kitEnv names a folder with the program and the examples that every user can read.
const kitEnv = "SVCPROXY_SANDBOX_KIT"

// kit is that folder, on a file system of this test process alone; whoever runs first makes it.
func kit(t *testing.T) string {
	t.Helper()
	nstest.Require(t)
	if dir, ok := os.LookupEnv(kitEnv); ok {
		return dir
	}
	const dir = "/mnt"
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", dir+"/", "svcproxy/cmd/svcproxy").CombinedOutput(); err != nil {
		t.Fatalf("build svcproxy: %v\n%s", err, out)
	}
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	os.Setenv(kitEnv, dir)
	return dir
}

// user is one with sandboxes of his own.
type user struct {
	testing.TB
	kit, state string
}

func newUser(t *testing.T) *user {
	t.Helper()
	u := &user{TB: t, kit: kit(t), state: filepath.Join(t.TempDir(), "state")}
	t.Cleanup(func() {
		if out, err := u.try("down", "--all"); err != nil {
			t.Errorf("down --all: %v\n%s", err, out)
		}
	})
	return u
}

func (u *user) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(u.kit, "svcproxy"), append([]string{"sandbox", "--state-dir", u.state}, args...)...)
	cmd.Dir = u.kit
	return cmd
}

// try returns what a command printed, both streams.
func (u *user) try(args ...string) (string, error) {
	out, err := u.command(args...).CombinedOutput()
	return string(out), err
}

// run wants a command to succeed, and returns its standard output.
func (u *user) run(args ...string) string {
	u.Helper()
	cmd := u.command(args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		u.Fatalf("sandbox %s: %v\n%s%s", strings.Join(args, " "), err, &out, &problems)
	}
	return out.String()
}

// left is all that a sandbox could leave behind.
func (u *user) left() []string {
	u.Helper()
	var found []string
	if entries, err := os.ReadDir(u.state); err == nil {
		for _, e := range entries {
			found = append(found, "folder "+e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		u.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, u.state) {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range commands {
		if text, err := os.ReadFile(file); err == nil && (bytes.Contains(text, []byte(u.state)) || bytes.Contains(text, []byte("svcproxy-pause"))) {
			found = append(found, "process "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/svcproxy-" + sandboxName + "-*")
	nested, _ := filepath.Glob("/sys/fs/cgroup/memory/*/*/svcproxy-" + sandboxName + "-*")
	for _, g := range append(groups, nested...) {
		found = append(found, "cgroup "+g)
	}
	return found
}

// sandboxName is of these tests alone, so that other sandboxes of the machine don't count.
const sandboxName = "crash-test"

// record are the supervisor's processes, as it writes them down for 'down'.
func (u *user) processes() []int {
	u.Helper()
	data, err := os.ReadFile(filepath.Join(u.state, sandboxName, "record.json"))
	if err != nil {
		u.Fatal(err)
	}
	var record struct {
		Processes []struct {
			PID int `json:"pid"`
		} `json:"processes"`
	}
	if err := json.Unmarshal(data, &record); err != nil {
		u.Fatal(err)
	}
	var pids []int
	for _, p := range record.Processes {
		pids = append(pids, p.PID)
	}
	return pids
}

// Whichever process of svcproxy is killed, down leaves nothing, and another sandbox in peace.
func TestNothingIsLeftAfterACrash(t *testing.T) {
	u := newUser(t)
	u.run("up", "--name", "other")
	u.run("run", "box", "--name", "other", "--image", "host:sleep,echo", "--", "sleep", "infinity")
	for victim := range nstest.Sized(1, 3) {
		u.run("up", "--name", sandboxName, "--proxy", "-f", "examples/lab/web.yaml")
		pids := u.processes()
		if len(pids) != 3 {
			t.Fatalf("the supervisor's processes are %v, want three", pids)
		}
		if err := unix.Kill(pids[victim], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		out := u.run("down", "--name", sandboxName)
		if want := "sandbox " + sandboxName + " is down\n"; out != want {
			t.Errorf("down said %q, want %q", out, want)
		}
		for _, thing := range u.left() {
			if thing != "folder other" && !strings.Contains(thing, "/other") && !strings.HasPrefix(thing, "process svcproxy-pause") {
				t.Errorf("process %d of the supervisor was killed: left is %s", victim, thing)
			}
		}
		if out := u.run("exec", "box", "--name", "other", "--", "echo", "here"); out != "here\n" {
			t.Errorf("the other sandbox says %q", out)
		}
	}
	u.run("down", "--name", "other")
	if left := u.left(); len(left) > 0 {
		t.Errorf("left is %q", left)
	}
	if out := u.run("down", "--name", "other"); out != "there is no sandbox other\n" {
		t.Errorf("down once more said %q", out)
	}
}

// What can't be applied changes nothing, and leaves no sandbox half started.
func TestARefusedManifestChangesNothing(t *testing.T) {
	u := newUser(t)
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {%s containers: [{name: a, image: %q}]}\n"
	for _, c := range []struct{ content, want string }{
		{fmt.Sprintf(pod, "hostNetwork: true,", "host:sleep"), "spec.hostNetwork"},
		{fmt.Sprintf(pod, "", "host:no-such-program"), ""}, // which is found only when it is to run
	} {
		content, want := c.content, c.want
		if err := os.WriteFile(bad, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := u.try("up", "--name", sandboxName, "-f", bad, "--timeout", "2s")
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: got %q, %v", content, out, err)
		}
		if want != "" {
			if left := u.left(); len(left) > 0 {
				t.Errorf("left is %q", left)
			}
		}
	}
	if out := u.run("get", "pods", "--name", sandboxName); !strings.Contains(out, "ErrImagePull") && !strings.Contains(out, "ImagePullBackOff") {
		t.Errorf("the pod without a program is shown as\n%s", out)
	}
}

// A rollout of a Service loses no request of those who go on asking.
func TestARolloutLosesNoRequest(t *testing.T) {
	u := newUser(t)
	u.run("up", "--proxy", "-f", "examples/lab/web.yaml")
	u.run("run", "client", "--image", "host:bash,curl", "--", "bash", "-c", "while :; do read -t 60; done")
	stop, ended := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	asked, failed := 0, []string{}
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			out, err := u.try("exec", "client", "--", "bash", "-c",
				`for i in {1..40}; do curl -sS --max-time 5 -o /dev/null http://10.96.1.1 || echo "failed $?"; done`)
			mu.Lock()
			asked += 40
			if err != nil || out != "" {
				failed = append(failed, fmt.Sprint(out, err))
			}
			mu.Unlock()
		}
	}()
	rounds := nstest.Sized(1, 3)
	for range rounds {
		if out := u.run("rollout", "restart", "svc/web"); out != "pod/web-a restarted\npod/web-b restarted\n" {
			t.Errorf("rollout said %q", out)
		}
	}
	close(stop)
	<-ended
	if len(failed) > 0 || asked < 40*rounds {
		t.Errorf("of %d requests failed %q", asked, failed)
	}
}

// A client that does not keep to the protocol harms nobody.
func TestAHostileClientHarmsNobody(t *testing.T) {
	u := newUser(t)
	u.run("up", "--name", sandboxName)
	dir, err := os.Open(filepath.Join(u.state, sandboxName))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	address := fmt.Sprintf("/proc/self/fd/%d/socket", dir.Fd())
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for _, text := range []string{"", "\n", "GET / HTTP/1.1\r\n\r\n", "{", `{"files":9,"message":{}}` + "\n", `{"message":{"protocol":1,"method":"exec","params":[]}}` + "\n",
		`{"message":{"protocol":1,"method":"no-such"}}` + "\n", `{"message":{"protocol":99}}` + "\n", strings.Repeat("x", 1<<20)} {
		for range 20 {
			c, err := net.Dial("unix", address)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write([]byte(text))
		}
	}
	if out := u.run("ls"); !slices.Contains(strings.Fields(out), "up") {
		t.Errorf("ls says\n%s", out)
	}
	if out := u.run("exec", "--name", sandboxName, "--node", "--", "echo", "here"); out != "here\n" {
		t.Errorf("exec says %q", out)
	}
}

func TestExitCodesAndSignals(t *testing.T) {
	u := newUser(t)
	u.run("run", "box", "--image", "host:bash,sleep,cat", "--", "sleep", "infinity")
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"exec", "box", "--", "bash", "-c", "exit 7"}, 7},
		{[]string{"exec", "box", "--", "bash", "-c", "kill -TERM $$"}, 143},
		{[]string{"exec", "box", "--", "no-such-program"}, 127},
		{[]string{"exec", "nobody", "--", "true"}, 1},
		{[]string{"exec", "--node", "--", "bash", "-c", "exit 9"}, 9},
		{[]string{"no-such-command"}, 2},
		{[]string{"exec", "box"}, 2},
	} {
		out, err := u.try(c.args...)
		if exit, is := err.(*exec.ExitError); !is || exit.ExitCode() != c.code {
			t.Errorf("%q: %v, want exit code %d\n%s", c.args, err, c.code, out)
		}
	}
	cmd := u.command("exec", "-i", "box", "--", "cat")
	cmd.Stdin = strings.NewReader("through and through")
	if out, err := cmd.Output(); err != nil || string(out) != "through and through" {
		t.Errorf("cat: %q, %v", out, err)
	}
	// A signal goes to the program.
	cmd = u.command("exec", "box", "--", "bash", "-c", "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := out.Read(line); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest := new(bytes.Buffer)
	_, _ = rest.ReadFrom(out)
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 3 || rest.String() != "got it\n" {
		t.Errorf("after SIGTERM: %v, printed %q", err, rest)
	}
}

// TestAsAnOrdinaryUser runs some of it once more, in the full size alone.
func TestAsAnOrdinaryUser(t *testing.T) {
	if nstest.Sized(0, 1) == 0 {
		return
	}
	kit(t)
	nstest.Unprivileged(t, "^Test(NothingIsLeftAfterACrash|ExitCodesAndSignals)$")
}
