package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Group is the cgroup of a pod or a container. Its methods are safe for concurrent use.
type Group struct {
	p      *Parent
	parent *Group // nil for the parent's own
	name   string
	done   chan struct{} // closed by Close

	// Guarded by p.mu.
	limits   Limits
	dirs     map[string]string // by controller
	leaf     bool              // on v2: processes are in the folder selfLeaf, as there are groups below
	memory   memoryV1
	cpu      int64 // the limit that was written, on v1
	past     past
	children map[string]*Group
	closed   bool
}

// past is what was counted in folders that are gone.
type past struct{ oomKills, limitHits uint64 }

// selfLeaf holds a group's own processes on v2 once there are groups below it. No group can have this name.
const selfLeaf = "_self"

func newGroup(p *Parent, parent *Group, name string) *Group {
	return &Group{p: p, parent: parent, name: name, done: make(chan struct{}), dirs: map[string]string{}, children: map[string]*Group{}}
}

// New makes a container's group in a pod's; see Parent.New.
func (g *Group) New(name string, l Limits) (*Group, error) {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	return g.make(name, l)
}

func (g *Group) make(name string, l Limits) (*Group, error) {
	child := newGroup(g.p, g, name)
	if g.closed {
		return nil, fmt.Errorf("cgroup %s: %s is closed", child.Path(), g.Path())
	}
	if err := errors.Join(checkName(name), l.checkNew(), g.p.support.Check(l)); err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", child.Path(), err)
	}
	if g.children[name] != nil {
		return nil, fmt.Errorf("cgroup %s: %w", child.Path(), fs.ErrExist)
	}
	if err := g.makeRoom(); err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", child.Path(), err)
	}
	parents := maps.Clone(g.dirs)
	if g.memory.current != "" {
		parents["memory"] = g.memory.current
	}
	if err := child.makeFolders(parents); err != nil {
		return nil, err
	}
	g.children[name] = child
	if err := child.set(l); err != nil {
		delete(g.children, name)
		return nil, errors.Join(fmt.Errorf("cgroup %s: %w", child.Path(), err), child.removeFolders())
	}
	return child, nil
}

// makeRoom lets groups below have controllers on v2, for which the group's own processes step aside.
func (g *Group) makeRoom() error {
	dir := g.dirs[unified]
	if dir == "" || g.leaf || len(g.p.onV2) == 0 {
		return nil
	}
	if pids, err := cgroups.GetPids(dir); err != nil {
		return err
	} else if len(pids) > 0 {
		leaf := filepath.Join(dir, selfLeaf)
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := moveProcesses(dir, leaf); err != nil {
			return err
		}
		g.leaf = true
	}
	return giveControllers(dir, g.p.onV2)
}

// makeFolders makes the group's folder in each hierarchy; cpu and cpuacct may share one.
func (g *Group) makeFolders(parents map[string]string) error {
	made := map[string]bool{}
	for _, controller := range slices.Sorted(maps.Keys(parents)) {
		dir := filepath.Join(parents[controller], g.name)
		if !made[dir] {
			if err := os.Mkdir(dir, 0o755); err != nil {
				if errors.Is(err, unix.ENOMEM) {
					err = fmt.Errorf("%w: the memory limit of a group above is used up", err)
				}
				return errors.Join(fmt.Errorf("make cgroup %s: %w", g.Path(), err), g.removeFolders())
			}
			made[dir] = true
		}
		g.dirs[controller] = dir
	}
	g.memory = memoryV1{home: g.dirs["memory"], current: g.dirs["memory"]}
	return nil
}

// Add moves a process, with all its threads, into the group.
func (g *Group) Add(pid int) error {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	if g.closed {
		return fmt.Errorf("cgroup %s is closed", g.Path())
	}
	for _, dir := range g.processFolders() {
		if err := writeProcess(dir, pid); err != nil {
			return fmt.Errorf("add process %d to cgroup %s: %w", pid, g.Path(), err)
		}
	}
	return nil
}

// processFolders are those that the group's own processes are in, each once.
func (g *Group) processFolders() []string {
	var dirs []string
	for _, controller := range slices.Sorted(maps.Keys(g.dirs)) {
		dir := g.dirs[controller]
		switch {
		case controller == "memory":
			dir = g.memory.current
		case controller == unified && (g.leaf || len(g.children) > 0 && len(g.p.onV2) > 0):
			dir = filepath.Join(dir, selfLeaf)
			if err := os.Mkdir(dir, 0o755); err == nil {
				g.leaf = true
			}
		}
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Set changes the limits of a running group, to any value; see the package comment for memory below
// usage. If it fails, some may have been set: Stats tells.
func (g *Group) Set(l Limits) error {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	if g.closed {
		return fmt.Errorf("cgroup %s is closed", g.Path())
	}
	if err := errors.Join(l.check(), g.p.support.Check(l)); err != nil {
		return fmt.Errorf("cgroup %s: %w", g.Path(), err)
	}
	if err := g.set(l); err != nil {
		return fmt.Errorf("cgroup %s: %w", g.Path(), err)
	}
	return nil
}

// set writes what differs. A limit that could not be set counts as it was, so that setting it again tries again.
func (g *Group) set(l Limits) error {
	// Memory last: it may kill at once whoever would have been helped by the others.
	if err := change(&g.limits.Pids, l.Pids, g.setPids); err != nil {
		return fmt.Errorf("set pids limit %d: %w", l.Pids, err)
	}
	if err := change(&g.limits.MilliCPU, l.MilliCPU, g.setCPU); err != nil {
		return fmt.Errorf("set CPU limit %dm: %w", l.MilliCPU, err)
	}
	if err := change(&g.limits.Memory, l.Memory, g.setMemory); err != nil {
		return fmt.Errorf("set memory limit %d: %w", l.Memory, err)
	}
	return nil
}

func change(limit *int64, to int64, write func() error) error {
	old := *limit
	if to == old {
		return nil
	}
	*limit = to
	err := write()
	if err != nil {
		*limit = old
	}
	return err
}

// Limits are those last set, as they were given.
func (g *Group) Limits() Limits {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	return g.limits
}

// OOMKills sends OOMKillCount each time that it has grown since the call, within about 100 ms, until ctx
// ends or the group is closed; then the channel is closed, after a last value if it had grown.
func (g *Group) OOMKills(ctx context.Context) <-chan uint64 {
	counts := make(chan uint64)
	last := g.OOMKillCount()
	go func() {
		defer close(counts)
		// Not the event that the kernel has for this: v1's comes before the kill and leaves out the machine's own lack
		// of memory, and v2's is another file. The count is true on both.
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for closed := false; !closed; {
			select {
			case <-ctx.Done():
				return
			case <-g.done:
				closed = true
			case <-ticker.C:
			}
			now := g.OOMKillCount()
			if now <= last {
				continue
			}
			select {
			case counts <- now:
				last = now
			case <-ctx.Done():
				return
			}
		}
	}()
	return counts
}

// Close kills what is in the group and below, waits for it, and removes the groups. It is
// idempotent; after an error it can be called again.
func (g *Group) Close() error {
	if err := g.Kill(); err != nil {
		return err
	}
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	g.retire()
	if err := g.removeFolders(); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.Path(), err)
	}
	if g.parent != nil && g.parent.children[g.name] == g {
		delete(g.parent.children, g.name)
	}
	return nil
}

// retire keeps the counts of this group and those below, whose folders are about to go.
func (g *Group) retire() {
	if g.closed {
		return
	}
	for _, child := range g.children {
		child.retire()
	}
	kills, hits := g.oomKills(), g.limitHits()
	g.past = past{oomKills: kills, limitHits: hits}
	g.closed = true
	close(g.done)
	if g.parent != nil {
		g.parent.past.oomKills += kills
		delete(g.parent.children, g.name)
	}
}

// removeFolders removes with all below, retrying for a second or two where the kernel is not done with what died.
func (g *Group) removeFolders() error {
	var errs []error
	for controller, dir := range g.dirs {
		if err := cgroups.RemovePath(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(g.dirs, controller)
	}
	return errors.Join(errs...)
}

// Path is the group's path below where the parent is, such as "svcproxy-default/web/main".
func (g *Group) Path() string {
	if g.parent == nil {
		return g.name
	}
	return filepath.Join(g.parent.Path(), g.name)
}

// Paths are the folders that the group's processes are in, by controller; "" is v2's.
func (g *Group) Paths() map[string]string {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	paths := maps.Clone(g.dirs)
	if g.memory.current != "" && paths["memory"] != "" {
		paths["memory"] = g.memory.current
	}
	if g.leaf && paths[unified] != "" {
		paths[unified] = filepath.Join(paths[unified], selfLeaf)
	}
	return paths
}

// writeProcess moves a process. To the kernel 0 is the writer, and -1 is nobody to the library; a list shows 0 for a
// process of a PID namespace that we cannot see into.
func writeProcess(dir string, pid int) error {
	if pid <= 0 {
		return unix.ESRCH
	}
	return cgroups.WriteCgroupProc(dir, pid)
}

// moveProcesses empties a group into another. A process that forks meanwhile leaves a child behind: so again until
// none is left, which ends since what was moved forks elsewhere.
func moveProcesses(from, to string) error {
	for range 1000 {
		pids, err := cgroups.GetPids(from)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if pid == 0 {
				return fmt.Errorf("%s holds a process of another PID namespace", from)
			}
			if err := writeProcess(to, pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %d: %w", pid, err)
			}
		}
	}
	return fmt.Errorf("processes appear in %s faster than they can be moved", from)
}

// ownedByCaller tells whether the caller made the folder, or could have.
func ownedByCaller(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
