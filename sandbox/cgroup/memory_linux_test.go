package cgroup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"svcproxy/sandbox/cgroup"
	"svcproxy/test/nstest"
)

const mib = 1 << 20

func TestOOMKillIsCountedWhereItHappened(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	pod := newGroup(t, p, "web", cgroup.Limits{})
	small := newGroup(t, pod, "small", cgroup.Limits{Memory: 48 * mib})
	other := newGroup(t, pod, "other", cgroup.Limits{Memory: 48 * mib})
	counts := small.OOMKills(t.Context())
	first, bystander := startMember(t, small), startMember(t, other)
	execed := startMember(t, small)
	execed.tell(t, fmt.Sprint("allocate ", 200*mib))
	execed.killed(t)
	for group, want := range map[*cgroup.Group]uint64{small: 1, other: 0, pod: 1} {
		if got := group.OOMKillCount(); got != want {
			t.Errorf("%s counts %d OOM kills, want %d", group.Path(), got, want)
		}
	}
	if got := <-counts; got != 1 {
		t.Errorf("told of %d OOM kills, want 1", got)
	}
	if small, pod := stats(t, small), stats(t, pod); small.LimitHits == 0 || pod.LimitHits != 0 {
		t.Errorf("the container's limit was hit %d times, the pod's, which has none, %d times", small.LimitHits, pod.LimitHits)
	}
	for _, alive := range []*process{first, bystander} {
		alive.tell(t, "allocate 1")
		alive.expect(t, "done")
	}
	if err := small.Close(); err != nil {
		t.Fatal(err)
	}
	if small.OOMKillCount() != 1 || pod.OOMKillCount() != 1 {
		t.Errorf("after Close %d OOM kills in the container and %d in the pod, want 1 and 1", small.OOMKillCount(), pod.OOMKillCount())
	}
	if n, open := <-counts; open {
		t.Errorf("told of %d OOM kills after Close", n)
	}
}

func TestPodLimitKillsInContainerWithoutOne(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	pod := newGroup(t, p, "web", cgroup.Limits{Memory: 48 * mib})
	container := newGroup(t, pod, "main", cgroup.Limits{})
	hog := startMember(t, container)
	hog.tell(t, fmt.Sprint("allocate ", 200*mib))
	hog.killed(t)
	if container.OOMKillCount() != 1 || pod.OOMKillCount() != 1 {
		t.Errorf("OOM kills: container %d, pod %d; want 1 and 1", container.OOMKillCount(), pod.OOMKillCount())
	}
	if c, p := stats(t, container), stats(t, pod); c.LimitHits != 0 || p.LimitHits == 0 {
		t.Errorf("container's limit hit %d times, pod's %d; want the pod's alone", c.LimitHits, p.LimitHits)
	}
}

func TestSetMemoryToTenBytesAndBack(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	pod := newGroup(t, p, "web", cgroup.Limits{})
	for _, tc := range []struct {
		name   string
		lowers *cgroup.Group
		runs   *cgroup.Group
		least  int64
	}{
		{"the container's own limit", nil, newGroup(t, pod, "main", cgroup.Limits{Memory: 100 * mib}), 0},
		{"the pod's limit", pod, newGroup(t, pod, "side", cgroup.Limits{}), mib},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lowers := tc.lowers
			if lowers == nil {
				lowers = tc.runs
			}
			// Smaller than the stage, since the kernel kills the largest (with so small a limit oom_score_adj
			// makes no difference), and a shell, which while it waits asks for no memory, unlike a program in Go.
			main := startStage(t, tc.runs, "", "sh", "-c",
				"x=$(head -c 1000000 /dev/zero | tr '\\0' a); echo done; read y; echo done; read y; y=$x$x; sleep 0")
			main.expect(t, "done")
			paths := tc.runs.Path()
			for round := range 2 {
				before := tc.runs.OOMKillCount()
				set(t, lowers, cgroup.Limits{Memory: 10})
				// A pod's limit is at least what the kernel itself keeps for the groups in it.
				if s := stats(t, lowers); s.MemoryLimit > tc.least || s.Memory < 1_000_000 {
					t.Errorf("limit %d, usage %d; want next to nothing, and what was charged before", s.MemoryLimit, s.Memory)
				}
				if out, status := run(t, tc.runs, "ls", "/"); status.Signal() != syscall.SIGKILL {
					t.Errorf("round %d: ls with 10 bytes ended with %v: %s", round, status, out)
				}
				if got := tc.runs.OOMKillCount() - before; got != 1 {
					t.Errorf("round %d: %d OOM kills counted, want 1", round, got)
				}
				set(t, lowers, cgroup.Limits{Memory: 100 * mib})
				if s := stats(t, lowers); s.MemoryLimit != 100*mib {
					t.Errorf("limit %d after raising it", s.MemoryLimit)
				}
				if out, status := run(t, tc.runs, "ls", "/"); status != 0 || !strings.Contains(out, "proc") {
					t.Errorf("round %d: ls with memory again: %v: %s", round, status, out)
				}
			}
			main.tell(t, "")
			main.expect(t, "done")
			if tc.runs.Path() != paths {
				t.Errorf("the group became %s", tc.runs.Path())
			}
			set(t, lowers, cgroup.Limits{Memory: 10})
			main.tell(t, "")
			main.killed(t)
			set(t, lowers, cgroup.Limits{})
			if s := stats(t, lowers); s.MemoryLimit != cgroup.Unlimited {
				t.Errorf("limit %d, want none", s.MemoryLimit)
			}
		})
	}
}

// A process that forks while the others move leaves nobody behind.
func TestSetMemoryBelowUsageCatchesWhatForks(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	g := newGroup(t, p, "web", cgroup.Limits{Pids: 200})
	home := g.Paths()["memory"]
	tree := startStage(t, g, "", "sh", "-c", "x=$(head -c 5000000 /dev/zero | tr '\\0' a); echo grown; while :; do sleep 0 & sleep 0; done 2>&-")
	tree.expect(t, "grown")
	for range nstest.Sized(5, 50) {
		set(t, g, cgroup.Limits{Pids: 200})
		before := stats(t, g)
		set(t, g, cgroup.Limits{Pids: 200, Memory: before.Memory / 2})
		current := g.Paths()["memory"]
		if current == home {
			t.Fatalf("with %d bytes in use a limit of half was accepted in place", before.Memory)
		}
		if left, err := os.ReadFile(filepath.Join(home, "cgroup.procs")); err != nil || len(left) != 0 {
			t.Fatalf("processes stayed behind: %s%v", left, err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	tree.killed(t)
}

func TestLeastMemoryRunsAProgram(t *testing.T) {
	p := open(t)
	if p == nil {
		return
	}
	_, err := p.New("tiny", cgroup.Limits{Memory: cgroup.MinMemory - 1})
	if err == nil || !strings.Contains(err.Error(), "6291455 bytes is below the least") || !strings.Contains(err.Error(), "6 MiB") {
		t.Errorf("a limit below the least: %v", err)
	}
	g := newGroup(t, p, "least", cgroup.Limits{Memory: cgroup.MinMemory})
	if out, status := run(t, g, "sh", "-c", "ls /; ls /proc"); status != 0 {
		t.Errorf("ended with %v: %s", status, out)
	}
}
