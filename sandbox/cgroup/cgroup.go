// Package cgroup limits memory, CPU and number of processes of pods and containers, counts
// what they use, tells which were killed for memory, and kills and removes them whole. It works
// on cgroup v1, v2 and hybrid, without systemd.
//
// A Parent is one sandbox's group; below it are Groups for pods and, nested, for containers.
// Processes are put into a Group by Add; what they fork stays in it.
//
// # Where groups are made
//
// For each controller as near to the top of its hierarchy as the caller may write, but never
// above a group on the way to the caller's own that has a limit: nobody gets out of his limits
// by a sandbox. So the place does not depend on the terminal that a command was typed in. On v2
// an ordinary user has the subtree that was delegated to him; a group that holds processes itself
// cannot give controllers to others (cgroups(7), "no internal processes"), and Supported says so.
// On v1 an ordinary user has nothing; Supported names the folder that refused.
//
// # Memory limits below usage
//
// Set takes any limit. On v2 the kernel accepts memory.max below usage, reclaims, and kills at once if
// that was not enough. On v1 it refuses (EBUSY); then the processes move to a
// fresh group inside the old one, which has the new limit: what they had stays charged to the
// old group, what they ask for next counts against the new limit. Either way the next allocation
// that does not fit ends in an OOM kill, and the Group, its statistics and its count of OOM kills
// stay the same. There is no swap beyond the limit.
//
// # Cgroup namespaces
//
// /proc/PID/cgroup shows paths relative to the group that the process which made the cgroup
// namespace was in at that moment. One made by clone before Add shows the program where it is on the
// host ("/../svcproxy-default/web/main", or the whole path). So a container's stage is best put
// into its group first, and calls unshare(CLONE_NEWCGROUP) after, on the thread that execs: then it sees "/". On v1 the memory line
// becomes "/_limit1" after a container's Set below usage, and a path up and down again after its pod's.
//
// # Who is killed
//
// The kernel kills the process of the group that holds most memory, wherever that is charged. With a limit of
// a few bytes oom_score_adj makes no difference (it is a share of the limit), save -1000, which exempts. So a
// program that starts in a group at such a limit is killed if it, or the stage that becomes it, is the largest there,
// and otherwise the largest goes first.
//
// # What was never run
//
// The kernels that this was tested on have the memory, cpu and pids controllers on v1, in a hybrid layout. Run
// there: v1 and hybrid, whole; v1 alone, by leaving v2 out; of v2 cgroup.kill, nesting, removal and the
// rule of no internal processes (with a controller that is left on v2). Only against files of a made-up tree: memory.max,
// memory.swap.max, memory.events, cpu.max, cpu.stat's throttling, pids.max, and delegation to an
// ordinary user. Never: swap.
package cgroup

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// MinMemory is the least memory limit in bytes that a group can be made with: 6 MiB, as in docker
// (linuxMinMemory of its daemon), for below it the kernel may kill the runtime's own stage
// before the program starts. Set takes less.
const MinMemory = 6 << 20

// MinMilliCPU is the least CPU limit that has an effect, in thousandths of a CPU: the kernel takes no quota under 1 ms, and
// the period is 100 ms. A smaller limit becomes this one, as in Kubernetes (MinQuotaPeriod).
const MinMilliCPU = 10

// ErrBusy is in the error of Remove when processes are in the groups. After a program was killed its processes may take
// a moment to end: then Remove works a little later.
var ErrBusy = errors.New("cgroup holds processes")

// Limits of a group and all below it. Zero is no limit of its own; an ancestor's holds all the same.
type Limits struct {
	Memory   int64 // bytes; the kernel rounds down to pages
	MilliCPU int64 // thousandths of a CPU; see MinMilliCPU
	Pids     int64 // processes and threads
}

func (l Limits) check() error {
	for _, f := range []struct {
		name  string
		value int64
	}{{"memory", l.Memory}, {"CPU", l.MilliCPU}, {"pids", l.Pids}} {
		if f.value < 0 {
			return fmt.Errorf("%s limit %d is negative", f.name, f.value)
		}
	}
	return nil
}

// checkNew also refuses what a container cannot start with.
func (l Limits) checkNew() error {
	if l.Memory > 0 && l.Memory < MinMemory {
		return fmt.Errorf("memory limit of %d bytes is below the least that a container can be created with, %d bytes (%d MiB)",
			l.Memory, int64(MinMemory), MinMemory>>20)
	}
	return l.check()
}

// period of the CPU quota: Kubernetes' and the kernel's default.
const period = 100 * time.Millisecond

// quota of a CPU limit, in microseconds a period; -1 is none.
func quota(milliCPU int64) int64 {
	if milliCPU == 0 {
		return -1
	}
	return max(milliCPU, MinMilliCPU) * period.Microseconds() / 1000
}

// Layout is how the machine has its cgroups mounted.
type Layout string

// Hybrid is v1 for the controllers beside a v2 hierarchy without them (or with a few).
const (
	None   Layout = "none"
	V1     Layout = "v1"
	V2     Layout = "v2"
	Hybrid Layout = "hybrid"
)

// Support says per controller whether groups can have it: nil, or the reason why not.
type Support struct {
	Layout            Layout
	Memory, CPU, Pids error
}

// Check tells whether groups with these limits can be made, naming the first limit that cannot
// be kept.
func (s Support) Check(l Limits) error {
	var errs []error
	for _, c := range []struct {
		limit  int64
		name   string
		reason error
	}{{l.Memory, "memory", s.Memory}, {l.MilliCPU, "CPU", s.CPU}, {l.Pids, "pids", s.Pids}} {
		if c.limit != 0 && c.reason != nil {
			errs = append(errs, fmt.Errorf("%s limit cannot be kept here: %w", c.name, c.reason))
		}
	}
	return errors.Join(errs...)
}

// Stats of a group and all below it. What the group has no controller for is zero.
type Stats struct {
	Memory      int64 // bytes in use, caches included
	MemoryPeak  int64 // the most ever in use
	MemoryLimit int64 // bytes as the kernel has it, rounded to pages: 10 bytes is 0; Unlimited if none
	// LimitHits is how often memory was asked for beyond this group's own limit (v1: failcnt, v2: max), which
	// tells its limit's OOM kills from an ancestor's.
	LimitHits uint64
	OOMKills  uint64 // processes killed for lack of memory, whichever limit or machine lacked it

	CPU              time.Duration // time used
	CPULimit         int64         // thousandths of a CPU, as the kernel has it; Unlimited if none
	Periods          uint64        // of 100 ms, in which something ran
	ThrottledPeriods uint64        // in which the limit was reached
	Throttled        time.Duration // time spent waiting for the next period, summed over CPUs

	Pids      int64 // processes and threads
	PidsLimit int64 // Unlimited if none
}

// Unlimited is the value of a limit in Stats that is not set.
const Unlimited int64 = -1

// prefix of every parent's name: Remove must not be able to touch anybody else's groups.
const prefix = "svcproxy-"

// names of groups: no slash and no leading dot or underscore, which are this package's own.
var names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@:-]{0,199}$`)

func checkName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("cgroup name %q: want letters, digits and . _ @ : - after a letter or digit, at most 200", name)
	}
	return nil
}

func checkParentName(name string) error {
	if !strings.HasPrefix(name, prefix) {
		return fmt.Errorf("cgroup name %q: want %s…", name, prefix)
	}
	return checkName(name)
}
