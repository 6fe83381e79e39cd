package escape

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
)

// cgroupAttack looks for cgroups to move to.
var cgroupAttack = register("cgroup", func(a *attacker) {
	tried := 0
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"} {
		for _, name := range []string{"cgroup.procs", "tasks", "release_agent", "notify_on_release", "pids.max", "memory.limit_in_bytes", "memory.max", "new/cgroup.procs"} {
			tried++
			err := os.WriteFile(filepath.Join(root, name), []byte("0"), 0o644)
			a.refused("write "+filepath.Join(root, name), err, unix.ENOENT, unix.EROFS, unix.EACCES, unix.EPERM)
		}
		err := os.Mkdir(root+"/new", 0o755)
		a.refused("make a group in "+root, err, unix.ENOENT, unix.EROFS, unix.EACCES, unix.EPERM)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	a.holds("see the host's groups by its own", err == nil && !strings.Contains(string(own), "escape"), string(own))
	a.holds("get out of its own", !strings.Contains(string(own), ".."), string(own))
	a.running(a.rest)
})

// bombAttack starts processes until it cannot.
var bombAttack = register("bomb", func(a *attacker) {
	var started []*exec.Cmd
	var err error
	for len(started) < bombSize && err == nil {
		cmd := exec.Command("/proc/self/exe", waitAttack)
		cmd.Args[0] = attackerCommand
		if _, err = cmd.StdinPipe(); err == nil {
			if err = cmd.Start(); err == nil {
				started = append(started, cmd)
			}
		}
	}
	a.refused(fmt.Sprintf("start more than %d processes", len(started)), err, unix.EAGAIN)
	for _, cmd := range started {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
})

const (
	bombSize  = 100
	bombLimit = 60 // threads, of which the attacker has some itself
)

// group makes a cgroup of the test; none, where an ordinary user may not.
func group(t *testing.T, limits cgroup.Limits) *cgroup.Group {
	t.Helper()
	parent, err := cgroup.Open(fmt.Sprintf("svcproxy-escape-%d-%x", os.Getpid(), time.Now().UnixNano()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := parent.Close(); err != nil {
			t.Error(err)
		}
	})
	if parent.Supported().Check(limits) != nil {
		if isRoot(t) {
			t.Fatal(parent.Supported().Check(limits))
		}
		return nil
	}
	g, err := parent.New("attacker", limits)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAttackerStaysInItsCgroup(t *testing.T) {
	t.Parallel()
	g := group(t, cgroup.Limits{Pids: 1000})
	p := newPrison(t, sandbox.PauseConfig{})
	a := p.start(t, cgroupAttack, func(cfg *sandbox.ContainerConfig) { cfg.Cgroup = g })
	before, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", a.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if g != nil && !strings.Contains(string(before), "svcproxy-escape") {
		t.Errorf("the attacker was started in\n%s", before)
	}
	a.found(t).held(t)
	if _, err := os.Stat("/sys/fs/cgroup/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the attacker made a group: %v", err)
	}
}

func TestAttackersForkBombIsBounded(t *testing.T) {
	t.Parallel()
	g := group(t, cgroup.Limits{Pids: bombLimit})
	if g == nil {
		return // an ordinary user has no cgroups to bound anything by
	}
	p := newPrison(t, sandbox.PauseConfig{})
	p.holds(t, bombAttack, func(cfg *sandbox.ContainerConfig) { cfg.Cgroup = g })
	p.start(t, waitAttack).alive(t, "a container beside the fork bomb")
}
