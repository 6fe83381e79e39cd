package sandbox_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
	"svcproxy/test/nstest"
)

func TestProgramsRunInTheirCgroup(t *testing.T) {
	t.Parallel()
	nstest.Require(t)
	self, err := os.Readlink("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	parent, err := cgroup.Open("svcproxy-sandbox-test-" + self)
	if err != nil {
		t.Fatal(err)
	}
	limits := cgroup.Limits{Memory: 64 << 20}
	group, err := parent.New("main", limits)
	if reason := parent.Supported().Check(limits); reason != nil {
		if err == nil {
			t.Errorf("a group was made though %v", reason)
		}
		return // as for an ordinary user to whom nothing is delegated
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := parent.Close(); err != nil {
			t.Error(err)
		}
	}()
	layer := image(t, "bash", "cat", "sleep", "ls")
	pod := newPod(t, newNode(t, sandbox.NodeConfig{Name: "node"}), sandbox.PodConfig{})
	c, err := pod.StartContainer(sandbox.ContainerConfig{
		Name: "main", Layers: []string{layer}, Args: []string{"sleep", "1000"}, Env: []string{"PATH=/bin"}, Profile: profile(), Cgroup: group,
	})
	if err != nil {
		t.Fatal(err)
	}
	outside, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.PID()))
	if err != nil || !strings.Contains(string(outside), group.Path()) {
		t.Errorf("the program is in\n%s, want %s (%v)", outside, group.Path(), err)
	}
	if out, status := execute(t, c, "cat 1/cgroup; cat self/cgroup", ""); strings.Contains(out, "svcproxy") || !strings.Contains(out, ":memory:/\n") && !strings.Contains(out, "0::/\n") {
		t.Errorf("from inside: %+v\n%s", status, out)
	}
	if err := group.Set(cgroup.Limits{Memory: 10}); err != nil {
		t.Fatal(err)
	}
	if out, status := execute(t, c, "ls", ""); status.Signal != syscall.SIGKILL {
		t.Errorf("ls with 10 bytes: %+v %s", status, out)
	}
	if kills := group.OOMKillCount(); kills == 0 {
		t.Error("no kill for lack of memory is counted")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
