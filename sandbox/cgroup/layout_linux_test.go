package cgroup

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
)

// mounts of machines, as /proc/self/mountinfo has them.
const (
	hybridMounts = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:32 / /mnt/memory rw,relatime - cgroup cgroup rw,memory
`
	v2Mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	// In a container without a cgroup namespace.
	partMounts = "30 23 0:26 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n"
)

func TestHierarchiesOfMachines(t *testing.T) {
	for name, tc := range map[string]struct {
		mounts string
		own    map[string]string
		layout Layout
		want   []hierarchy
	}{
		"hybrid": {
			hybridMounts, map[string]string{"cpu": "/", "cpuacct": "/", "memory": "/user/1", "pids": "/", "": "/a"}, Hybrid,
			[]hierarchy{
				{[]string{"cpu", "cpuacct"}, "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"},
				{[]string{"memory"}, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/user/1"},
				{[]string{"pids"}, "/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids"},
				{[]string{""}, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/a"},
			},
		},
		"v2": {
			v2Mounts, map[string]string{"": "/user.slice/s"}, V2,
			[]hierarchy{{[]string{""}, "/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/s"}},
		},
		"v2, with the caller outside of its cgroup namespace": {
			v2Mounts, map[string]string{"": "/../../elsewhere"}, V2,
			[]hierarchy{{[]string{""}, "/sys/fs/cgroup", "/sys/fs/cgroup"}},
		},
		"part of v1": {
			partMounts, map[string]string{"memory": "/docker/abc/in"}, V1,
			[]hierarchy{{[]string{"memory"}, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/in"}},
		},
		"part of v1, with the caller elsewhere": {
			partMounts, map[string]string{"memory": "/docker/other"}, V1,
			[]hierarchy{{[]string{"memory"}, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory"}},
		},
		"nothing": {"31 23 0:28 / / rw - tmpfs tmpfs rw\n", nil, None, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := findHierarchies(strings.NewReader(tc.mounts), tc.own)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(hierarchy{})); diff != "" {
				t.Error(diff)
			}
			if layoutOf(got) != tc.layout {
				t.Errorf("layout %q, want %q", layoutOf(got), tc.layout)
			}
		})
	}
}

// folder makes files of a made-up tree of cgroups.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	cgroups.TestMode = true
	t.Cleanup(func() { cgroups.TestMode = false })
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// treeV2 is /, /a, and /a/own, which is the caller's.
func treeV2(changes map[string]string) map[string]string {
	files := map[string]string{}
	for _, dir := range []string{"", "a", "a/own"} {
		for file, text := range map[string]string{
			"cgroup.procs": "", "cgroup.subtree_control": "memory pids\n", "cgroup.controllers": "cpuset cpu io memory pids\n",
			"memory.max": "max\n", "memory.high": "max\n", "memory.swap.max": "max\n", "cpu.max": "max 100000\n", "pids.max": "max\n", "cgroup.type": "domain\n",
		} {
			files[filepath.Join(dir, file)] = text
		}
	}
	for _, file := range []string{"memory.max", "memory.high", "memory.swap.max", "cpu.max", "pids.max", "cgroup.type"} {
		delete(files, file) // the root has none
	}
	files["cgroup.procs"], files["a/own/cgroup.procs"] = "1\n2\n", "77\n"
	for name, text := range changes {
		files[name] = text
		if text == "-" {
			delete(files, name)
		}
	}
	return files
}

func TestPlaceOnV2(t *testing.T) {
	for name, tc := range map[string]struct {
		changes map[string]string
		want    string // below the mount
		err     string
	}{
		"the root":                              {nil, ".", ""},
		"a subtree was delegated":               {map[string]string{"cgroup.procs": "-"}, "a", ""},
		"a container's root holds processes":    {map[string]string{"cgroup.type": "domain\n"}, "a", ""},
		"the caller's group has a memory limit": {map[string]string{"a/own/memory.max": "1000000\n"}, "", "holds processes itself"},
		"a group above the caller has a limit":  {map[string]string{"a/cpu.max": "20000 100000\n"}, "a", ""},
		"nothing was delegated":                 {map[string]string{"cgroup.procs": "-", "a/cgroup.procs": "-", "a/own/cgroup.procs": "-"}, "", "a/own/cgroup.procs"},
		"the caller's group is threaded":        {map[string]string{"cgroup.procs": "-", "a/cgroup.procs": "-", "a/own/cgroup.type": "threaded\n"}, "", `of type "threaded"`},
	} {
		t.Run(name, func(t *testing.T) {
			root := folder(t, treeV2(tc.changes))
			h := hierarchy{[]string{unified}, root, filepath.Join(root, "a/own")}
			got, err := h.place()
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%q, %v; want an error with %q", got, err, tc.err)
				}
				if p := openIn("svcproxy-x", []hierarchy{h}); p.Supported().Memory.Error() != err.Error() {
					t.Errorf("memory is supported: %v", p.Supported().Memory)
				}
				return
			}
			if err != nil || got != filepath.Join(root, tc.want) {
				t.Errorf("%q, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestSupportNamesWhatIsMissing(t *testing.T) {
	root := folder(t, treeV2(map[string]string{"cgroup.controllers": "cpu pids hugetlb\n"}))
	s := openIn("svcproxy-x", []hierarchy{{[]string{unified}, root, root}}).Supported()
	if s.CPU != nil || s.Pids != nil || s.Memory == nil {
		t.Errorf("%+v", s)
	}
	err := s.Check(Limits{Memory: MinMemory, MilliCPU: 100})
	if err == nil || !strings.Contains(err.Error(), "memory limit cannot be kept here: memory is not among the controllers of "+root) {
		t.Errorf("%v", err)
	}
	if err := s.Check(Limits{MilliCPU: 100, Pids: 1}); err != nil {
		t.Error(err)
	}
	none := openIn("svcproxy-x", nil).Supported()
	if none.Layout != None || none.CPU == nil || none.CPU.Error() != "no cpu cgroups are mounted" {
		t.Errorf("%+v", none)
	}
}

func TestLimitsAndStatisticsOfV2(t *testing.T) {
	dir := folder(t, map[string]string{
		"cgroup.controllers": "cpu memory pids\n",
		"memory.max":         "max\n", "memory.swap.max": "max\n", "memory.current": "4096000\n", "memory.peak": "8192000\n",
		"memory.swap.current": "0\n", "memory.swap.peak": "0\n", "memory.stat": "anon 4096\nfile 0\n",
		"memory.events":       "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 0\n",
		"memory.events.local": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 0\n",
		"cpu.max":             "max 100000\n",
		"cpu.stat":            "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 20\nnr_throttled 15\nthrottled_usec 900000\n",
		"pids.max":            "max\n", "pids.current": "3\n",
		"cgroup.procs": "", "cpu.pressure": "", "memory.pressure": "",
	})
	g := newGroup(&Parent{onV2: wanted}, nil, "svcproxy-x")
	g.dirs[unified] = dir
	for _, tc := range []struct {
		limits Limits
		want   map[string]string
	}{
		{Limits{Memory: 64 << 20, MilliCPU: 500, Pids: 100}, map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "100"}},
		{Limits{Memory: 10, MilliCPU: 1, Pids: 100}, map[string]string{"memory.max": "10", "memory.swap.max": "0", "cpu.max": "1000 100000", "pids.max": "100"}},
		{Limits{}, map[string]string{"memory.max": "max", "memory.swap.max": "max", "cpu.max": "max 100000", "pids.max": "max"}},
	} {
		if err := g.Set(tc.limits); err != nil {
			t.Fatal(err)
		}
		got := maps.Clone(tc.want)
		for file := range got {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			got[file] = strings.TrimSpace(string(text))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%+v: %s", tc.limits, diff)
		}
	}
	if err := g.Set(Limits{Memory: 64 << 20, MilliCPU: 250, Pids: 100}); err != nil {
		t.Fatal(err)
	}
	got, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want := Stats{
		Memory: 4096000, MemoryPeak: 8192000, MemoryLimit: 64 << 20, LimitHits: 7, OOMKills: 3,
		CPU: 1500e6, CPULimit: 250, Periods: 20, ThrottledPeriods: 15, Throttled: 900e6, Pids: 3, PidsLimit: 100,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUnlimited(t *testing.T) {
	for text, want := range map[string]bool{
		"max\n": true, "max 100000\n": true, "-1\n": true, "9223372036854771712\n": true, "": true,
		"0\n": false, "10\n": false, "50000 100000\n": false,
	} {
		if got := unlimited(text); got != want {
			t.Errorf("unlimited(%q) = %v", text, got)
		}
	}
	for text, want := range map[string]int64{"50000 100000": 500, "max 100000": Unlimited, "-1 100000": Unlimited, "1000 0": Unlimited, "": Unlimited} {
		if got := cpuLimit(text); got != want {
			t.Errorf("cpuLimit(%q) = %d, want %d", text, got, want)
		}
	}
}
