package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
)

// Stats reads what the group and those below it use, and the limits as the kernel has them.
// After Close only the counts of OOM kills and limit hits are left, and an error.
func (g *Group) Stats() (Stats, error) {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	s := Stats{OOMKills: g.oomKills(), LimitHits: g.limitHits(), MemoryLimit: Unlimited, CPULimit: Unlimited, PidsLimit: Unlimited}
	if g.closed {
		return s, fmt.Errorf("cgroup %s is closed", g.Path())
	}
	if err := errors.Join(g.readV1(&s), g.readV2(&s)); err != nil {
		return s, fmt.Errorf("statistics of cgroup %s: %w", g.Path(), err)
	}
	return s, nil
}

func (g *Group) readV1(s *Stats) error {
	dirs := maps.Clone(g.dirs)
	maps.DeleteFunc(dirs, func(controller, _ string) bool {
		return !slices.Contains([]string{"memory", "cpu", "cpuacct", "pids"}, controller)
	})
	m, err := fs.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, dirs)
	if err != nil {
		return err
	}
	read, err := m.GetStats()
	if err != nil {
		return err
	}
	if dirs["memory"] != "" {
		s.addMemory(read)
		// The limit in force is that of the processes, which may have moved.
		s.MemoryLimit = limitOf(number(g.memory.current, "memory.limit_in_bytes"))
	}
	if dirs["cpuacct"] != "" {
		s.CPU = time.Duration(read.CpuStats.CpuUsage.TotalUsage)
	}
	if dirs["cpu"] != "" {
		s.addThrottling(read)
		text, err := cgroups.ReadFile(dirs["cpu"], "cpu.cfs_quota_us")
		if err != nil {
			return err
		}
		s.CPULimit = cpuLimit(text + " " + strconv.FormatUint(number(dirs["cpu"], "cpu.cfs_period_us"), 10))
	}
	if dirs["pids"] != "" {
		s.addPids(read)
	}
	return nil
}

// controllersOf are the library's names of what to read on v2.
var controllersOf = map[string]cgroups.Controller{"memory": cgroups.Memory, "cpu": cgroups.CPU, "pids": cgroups.Pids}

func (g *Group) readV2(s *Stats) error {
	dir := g.dirs[unified]
	var which cgroups.Controller
	for _, c := range g.p.onV2 {
		which |= controllersOf[c]
	}
	if dir == "" || which == 0 {
		return nil
	}
	m, err := fs2.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, dir)
	if err != nil {
		return err
	}
	read, err := m.Stats(&cgroups.StatsOptions{Controllers: which})
	if err != nil {
		return err
	}
	if which&cgroups.Memory != 0 {
		s.addMemory(read)
		s.MemoryLimit = limitOf(read.MemoryStats.Usage.Limit)
	}
	if which&cgroups.CPU != 0 {
		s.CPU = time.Duration(read.CpuStats.CpuUsage.TotalUsage)
		s.addThrottling(read)
		text, err := cgroups.ReadFile(dir, "cpu.max")
		if err != nil {
			return err
		}
		s.CPULimit = cpuLimit(text)
	}
	if which&cgroups.Pids != 0 {
		s.addPids(read)
	}
	return nil
}

func (s *Stats) addMemory(read *cgroups.Stats) {
	s.Memory = int64(read.MemoryStats.Usage.Usage)
	s.MemoryPeak = int64(read.MemoryStats.Usage.MaxUsage)
}

func (s *Stats) addThrottling(read *cgroups.Stats) {
	t := read.CpuStats.ThrottlingData
	s.Periods, s.ThrottledPeriods, s.Throttled = t.Periods, t.ThrottledPeriods, time.Duration(t.ThrottledTime)
}

func (s *Stats) addPids(read *cgroups.Stats) {
	s.Pids = int64(read.PidsStats.Current)
	if limit := read.PidsStats.Limit; limit != 0 && limit != math.MaxUint64 {
		s.PidsLimit = int64(limit)
	}
}

// limitOf is a memory limit of the kernel: v1's none is the most pages there can be, v2's the most bytes.
func limitOf(n uint64) int64 {
	if n >= 1<<62 {
		return Unlimited
	}
	return int64(n)
}

// cpuLimit is thousandths of a CPU, of "quota period".
func cpuLimit(text string) int64 {
	var quota, period int64
	fields := strings.Fields(text)
	if len(fields) != 2 || unlimited(fields[0]) {
		return Unlimited
	}
	quota, err := strconv.ParseInt(fields[0], 10, 64)
	period, err2 := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || err2 != nil || period == 0 {
		return Unlimited
	}
	return quota * 1000 / period
}
