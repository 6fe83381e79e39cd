package cgroup_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"svcproxy/sandbox/cgroup"
	"svcproxy/test/nstest"
)

func TestCPULimitHoldsAgainstAPeer(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	// So little that the group gets it even beside many others on a busy machine.
	const limit = 50
	slow := newGroup(t, p, "slow", cgroup.Limits{MilliCPU: limit})
	fast := newGroup(t, p, "fast", cgroup.Limits{})
	for _, g := range []*cgroup.Group{slow, fast} {
		m := startMember(t, g)
		m.tell(t, "spin")
		m.expect(t, "done")
	}
	from, peer := stats(t, slow), stats(t, fast)
	var s cgroup.Stats
	nstest.Eventually(t, 20*time.Second, func() error {
		s = stats(t, slow)
		if n := s.ThrottledPeriods - from.ThrottledPeriods; n < 10 {
			return fmt.Errorf("throttled in %d periods", n)
		}
		return nil
	})
	const quota = 100 * time.Millisecond * limit / 1000
	used, periods, throttled := s.CPU-from.CPU, s.Periods-from.Periods, s.ThrottledPeriods-from.ThrottledPeriods
	if used < time.Duration(throttled)*quota/2 || used > time.Duration(periods+2)*quota*3/2 {
		t.Errorf("used %v in %d periods, throttled in %d; want about %v in each", used, periods, throttled, quota)
	}
	if s.CPULimit != limit || s.Throttled == 0 {
		t.Errorf("statistics: %+v", s)
	}
	unlimited := stats(t, fast)
	if got := unlimited.CPU - peer.CPU; got < 3*used/2 || unlimited.ThrottledPeriods != 0 || unlimited.CPULimit != cgroup.Unlimited {
		t.Errorf("without a limit %v were used, with it %v: %+v", got, used, unlimited)
	}
}

// v1's kernel refuses a group more than the one above has; v2's just lets the least count.
func TestCPULimitsOfPodAndContainerInAnyOrder(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	pod := newGroup(t, p, "web", cgroup.Limits{MilliCPU: 500})
	container := newGroup(t, pod, "main", cgroup.Limits{MilliCPU: 1000})
	for _, tc := range []struct {
		group *cgroup.Group
		limit int64
		want  [2]int64 // pod, container
	}{
		{pod, 100, [2]int64{100, 100}},
		{pod, 800, [2]int64{800, 800}},
		{container, 200, [2]int64{800, 200}},
		{pod, 0, [2]int64{cgroup.Unlimited, 200}},
		{container, 1, [2]int64{cgroup.Unlimited, cgroup.MinMilliCPU}},
		{container, 0, [2]int64{cgroup.Unlimited, cgroup.Unlimited}},
	} {
		set(t, tc.group, cgroup.Limits{MilliCPU: tc.limit})
		if got := [2]int64{stats(t, pod).CPULimit, stats(t, container).CPULimit}; got != tc.want {
			t.Errorf("%s at %dm: pod and container have %v, want %v", tc.group.Path(), tc.limit, got, tc.want)
		}
	}
}

func TestPidsLimit(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	g := newGroup(t, p, "web", cgroup.Limits{Pids: 4})
	const five = "for i in 1 2 3 4 5; do sleep 1000 <&- >&- 2>&- & done; echo started"
	if out, status := run(t, g, "sh", "-c", five); status == 0 || !strings.Contains(out, "fork") {
		t.Errorf("five more processes than one, with a limit of 4: %v: %s", status, out)
	}
	if s := stats(t, g); s.Pids < 1 || s.Pids > 4 || s.PidsLimit != 4 {
		t.Errorf("%d processes, limit %d; want at most 4", s.Pids, s.PidsLimit)
	}
	set(t, g, cgroup.Limits{})
	if out, status := run(t, g, "sh", "-c", five); status != 0 || stats(t, g).PidsLimit != cgroup.Unlimited {
		t.Errorf("without the limit: %v: %s", status, out)
	}
}

func TestKillLeavesNothing(t *testing.T) {
	for name, missing := range map[string][]string{
		"cgroup.kill":            nil,
		"freezer":                {""},
		"neither":                {"", "freezer"},
		"one hierarchy, no more": {"", "freezer", "memory", "cpu", "cpuacct"},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			if p == nil {
				return
			}
			p.Without(missing...)
			pod := newGroup(t, p, "web", cgroup.Limits{})
			container := newGroup(t, pod, "main", cgroup.Limits{Pids: 60})
			// A tree that keeps forking, until the limit and after.
			tree := startStage(t, container, "", "sh", "-c", "while :; do sleep 0 & sleep 1000 & sleep 0; done 2>&-")
			other := startMember(t, pod)
			nstest.Eventually(t, 10*time.Second, func() error {
				if n := stats(t, container).Pids; n < 10 {
					return fmt.Errorf("%d processes", n)
				}
				return nil
			})
			for range 2 {
				if err := container.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			tree.killed(t)
			// Until they are waited for, the dead count.
			nstest.Eventually(t, 5*time.Second, func() error {
				if n := stats(t, container).Pids; n != 0 {
					return fmt.Errorf("%d processes left", n)
				}
				return nil
			})
			other.tell(t, "allocate 1")
			other.expect(t, "done")
			folders := append(pod.Folders(), container.Folders()...)
			for range 2 {
				if err := errors.Join(pod.Close(), container.Close(), pod.Kill()); err != nil {
					t.Fatal(err)
				}
			}
			other.killed(t)
			for _, dir := range folders {
				if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is left: %v", dir, err)
				}
			}
			if _, err := pod.New("again", cgroup.Limits{}); err == nil {
				t.Error("a closed pod had a container made")
			}
			newGroup(t, p, "web", cgroup.Limits{})
		})
	}
}

func TestGroupsOfOneNameAreMadeOnce(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	newGroup(t, p, "web", all)
	if _, err := p.New("web", all); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "../a", "_self", "_limit1", strings.Repeat("a", 300)} {
		if _, err := p.New(name, all); err == nil {
			t.Errorf("made a group named %q", name)
		}
	}
	if _, err := p.New("negative", cgroup.Limits{Pids: -1}); err == nil {
		t.Error("made a group with -1 processes")
	}
	g := newGroup(t, p, "none", cgroup.Limits{})
	for _, pid := range []int{0, -1, 1 << 22} {
		if err := g.Add(pid); err == nil {
			t.Errorf("added process %d", pid)
		}
	}
	if err := g.Add(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err == nil || !strings.Contains(err.Error(), "holds the caller") {
		t.Errorf("killed itself: %v", err)
	}
	leave(t, g)
}

// leave takes the test itself out of the group.
func leave(t *testing.T, g *cgroup.Group) {
	for _, dir := range g.Paths() {
		top := strings.Split(dir, "/svcproxy-test-")[0]
		if err := os.WriteFile(filepath.Join(top, "cgroup.procs"), fmt.Append(nil, os.Getpid()), 0); err != nil {
			t.Error(err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	n := nstest.Sized(10, 100)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			pod, err := p.New(fmt.Sprint("pod", i), all)
			if err != nil {
				t.Error(err)
				return
			}
			container, err := pod.New("main", all)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = container.Stats()
			if err := errors.Join(err, container.Set(cgroup.Limits{Memory: 10, MilliCPU: 20}), container.Close(), pod.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A cgroup namespace made after the group was joined has it as its root.
func TestCgroupNamespaceMadeInTheGroupHidesIt(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	g := newGroup(t, p, "web", cgroup.Limits{})
	out, err := io.ReadAll(startStage(t, g, "newns", "cat", "/proc/self/cgroup").out)
	if err != nil || !strings.Contains(string(out), ":memory:/\n") || strings.Contains(string(out), "svcproxy") {
		t.Errorf("%v:\n%s", err, out)
	}
	if out, _ := run(t, g, "cat", "/proc/self/cgroup"); !strings.Contains(out, ":memory:/"+g.Path()) {
		t.Errorf("without a namespace of its own a process sees no %s:\n%s", g.Path(), out)
	}
}

func TestV2RuleOfNoInternalProcesses(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	// A controller that this machine leaves to v2 stands for those that limit.
	data, err := os.ReadFile(filepath.Join(p.Base(""), "cgroup.controllers"))
	if err != nil {
		t.Fatal(err)
	}
	controllers := strings.Fields(string(data))
	if len(controllers) == 0 {
		t.Log("v2 has no controller here")
		return
	}
	p.WithControllerOnV2(controllers[0])
	pod := newGroup(t, p, "web", cgroup.Limits{})
	pause := startMember(t, pod)
	container := newGroup(t, pod, "main", cgroup.Limits{})
	main := startMember(t, container)
	late := startMember(t, pod)
	file := filepath.Join(container.Paths()[""], controllers[0]+".2MB.max")
	if _, err := os.Stat(file); controllers[0] == "hugetlb" && err != nil {
		t.Errorf("the container does not have the controller: %v", err)
	}
	for _, m := range []*process{pause, main, late} {
		path, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", m.Process.Pid))
		want := "0::/" + pod.Path() + "/_self\n"
		if m == main {
			want = "0::/" + container.Path() + "\n"
		}
		if err != nil || !strings.HasSuffix(string(path), want) {
			t.Errorf("process is in %s; want %s; %v", path, want, err)
		}
	}
	if err := pod.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLeftOversOfAKilledProgramAreRemovedAndNothingElse(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	foreign := newGroup(t, p, "web", cgroup.Limits{})
	foreignFolders := foreign.Folders()
	for _, inside := range []bool{false, true} {
		name := parentName(t)
		args := []string{"cgroup-test-crash", name}
		if inside {
			args = append(args, "inside")
		}
		program := start(t, args...)
		program.expect(t, "made <nil>")
		listed := func() bool {
			names, err := cgroup.List(name)
			if err != nil {
				t.Fatal(err)
			}
			return slices.Contains(names, name)
		}
		again, err := cgroup.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.New("web", cgroup.Limits{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a second owner of %s: %v", name, err)
		}
		if inside {
			if err := cgroup.Remove(name); !errors.Is(err, cgroup.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprint("still has ", program.Process.Pid)) {
				t.Errorf("removed with process %d in it: %v", program.Process.Pid, err)
			}
		}
		if !listed() {
			t.Errorf("%s is not listed", name)
		}
		_ = program.Process.Kill()
		program.killed(t)
		for range 2 {
			if err := cgroup.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		if listed() {
			t.Errorf("%s is left", name)
		}
	}
	for _, dir := range foreignFolders {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("somebody else's group: %v", err)
		}
	}
	for _, name := range []string{"", "docker", "svcproxy-", "svcproxy-../x", "/svcproxy-x"} {
		if err := cgroup.Remove(name); name != "svcproxy-" && err == nil {
			t.Errorf("removed %q", name)
		}
	}
	if _, err := cgroup.List("docker"); err == nil {
		t.Error("listed somebody else's groups")
	}
}

func TestOrdinaryUserGetsClearErrors(t *testing.T) {
	p := open(t)
	if p != nil {
		nstest.Unprivileged(t, "^TestOrdinaryUserGetsClearErrors$")
		return
	}
	p, err := cgroup.Open(parentName(t))
	if err != nil {
		t.Fatal(err)
	}
	g := newGroup(t, p, "web", cgroup.Limits{})
	if err := errors.Join(g.Add(os.Getpid()), g.Set(cgroup.Limits{}), g.Kill(), g.Close(), p.Close()); err != nil {
		t.Errorf("a group without any controller: %v", err)
	}
	if err := g.Set(all); err == nil {
		t.Error("a limit was set")
	}
}
