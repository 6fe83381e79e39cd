package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// memoryV1 is where a group's memory is counted and limited on v1. Both are the same until a limit is set below
// usage, which the kernel refuses. Then the processes go to a fresh group below home, which is theirs from then on. What they
// had stays charged to home, so that usage and peak of home are those of the whole.
type memoryV1 struct {
	home, current string
	moves         int
}

func (g *Group) setMemory() error {
	if g.memory.home == "" {
		if g.dirs[unified] == "" {
			return nil
		}
		limit := orNone(g.limits.Memory)
		// Equal limits of memory and of both together: no swap.
		return g.setV2(&cgroups.Resources{Memory: limit, MemorySwap: limit})
	}
	err := writeMemoryV1(g.memory.current, g.limits.Memory)
	if errors.Is(err, unix.EBUSY) {
		return g.moveMemory()
	}
	if err != nil || g.memory.current == g.memory.home {
		return err
	}
	// With what was left behind the whole may still be above the limit; then it stays without one.
	if err := writeMemoryV1(g.memory.home, g.limits.Memory); !errors.Is(err, unix.EBUSY) {
		return err
	}
	return writeMemoryV1(g.memory.home, 0)
}

// moveMemory puts the processes of the group and of all below it into fresh groups with the limits as they are
// now. Groups first, limits next, processes last: a group's own memory is charged to the one above, so
// none can be made below a limit that is used up.
func (g *Group) moveMemory() error {
	home, old := g.memory.home, g.memory.current
	if err := writeMemoryV1(home, 0); err != nil {
		return err
	}
	g.memory.moves++
	fresh := filepath.Join(home, "_limit"+strconv.Itoa(g.memory.moves))
	if err := g.makeMemory(fresh); err != nil {
		return errors.Join(err, cgroups.RemovePath(fresh))
	}
	moves := []move{{g, []string{old}, fresh}}
	g.memory.current = fresh
	for _, child := range g.children {
		moves = append(moves, child.follow(filepath.Join(fresh, child.name))...)
	}
	for _, m := range moves {
		if err := writeLeastV1(m.to, m.group.limits.Memory); err != nil {
			return err
		}
	}
	for _, m := range moves {
		for _, from := range m.from {
			if err := moveProcesses(from, m.to); err != nil {
				return err
			}
		}
	}
	// From below, as a folder goes only when nothing is in it.
	for _, m := range slices.Backward(moves) {
		for _, from := range m.from {
			if from != home {
				m.group.forget(from)
			}
		}
	}
	return nil
}

// move is what is to happen to one group's processes.
type move struct {
	group *Group
	from  []string // the inner before the outer
	to    string
}

// makeMemory makes a folder for the group, and in it those for the groups below.
func (g *Group) makeMemory(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, child := range g.children {
		if err := child.makeMemory(filepath.Join(dir, child.name)); err != nil {
			return err
		}
	}
	return nil
}

// follow makes a folder the group's home, and those in it of the groups below.
func (g *Group) follow(home string) []move {
	moves := []move{{g, unique(g.memory.current, g.memory.home), home}}
	g.memory = memoryV1{home: home, current: home}
	g.dirs["memory"] = home
	for _, child := range g.children {
		moves = append(moves, child.follow(filepath.Join(home, child.name))...)
	}
	return moves
}

// forget keeps the counts of a folder without processes, and removes it. What is still charged to it
// goes to the group above. If it cannot be removed now it goes with the group.
func (g *Group) forget(dir string) {
	g.past.oomKills += oomKillsV1(dir)
	g.past.limitHits += number(dir, "memory.failcnt")
	_ = cgroups.RemovePath(dir)
}

func unique(a, b string) []string {
	if a == b {
		return []string{a}
	}
	return []string{a, b}
}

// writeMemoryV1 limits memory, and memory and swap together to a page more: of two limits reached at once the kernel
// counts neither hit (Linux 6.18). It wants the second never below the first, so their order depends on the direction.
func writeMemoryV1(dir string, limit int64) error {
	const memory, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	values := map[string]int64{memory: -1, both: -1}
	if limit != 0 {
		values = map[string]int64{memory: limit, both: limit + int64(os.Getpagesize())}
	}
	files := []string{memory, both}
	if limit == 0 || uint64(limit) > number(dir, memory) {
		files = []string{both, memory}
	}
	for _, file := range files {
		err := cgroups.WriteFile(dir, file, strconv.FormatInt(values[file], 10))
		if file == both && errors.Is(err, unix.ENOENT) {
			continue // a kernel without accounting of swap
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, file), err)
		}
	}
	return nil
}

// writeLeastV1 limits a group without processes. What the kernel itself keeps for groups below is charged to it, so
// that the limit may have to be that.
func writeLeastV1(dir string, limit int64) error {
	err := writeMemoryV1(dir, limit)
	for try := 0; try < 10 && errors.Is(err, unix.EBUSY); try++ {
		err = writeMemoryV1(dir, max(limit, int64(number(dir, "memory.usage_in_bytes"))))
	}
	return err
}

// oomKillsV1 is the count of the folder alone: v1 does not add up what is below.
func oomKillsV1(dir string) uint64 {
	return keyed(dir, "memory.oom_control", "oom_kill")
}

// OOMKillCount is the number of processes of the group and those below it that the kernel killed for
// lack of memory, whichever of them they were and whosever limit it was. A killed process is counted before it
// ends: who saw it die sees the count. It can be asked for after Close too.
func (g *Group) OOMKillCount() uint64 {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	return g.oomKills()
}

func (g *Group) oomKills() uint64 {
	count := g.past.oomKills
	if g.closed {
		return count
	}
	if g.memory.home == "" {
		return count + keyed(g.dirs[unified], "memory.events", "oom_kill")
	}
	for _, dir := range unique(g.memory.home, g.memory.current) {
		count += oomKillsV1(dir)
	}
	for _, child := range g.children {
		count += child.oomKills()
	}
	return count
}

// limitHits is how often the group's own limit was reached.
func (g *Group) limitHits() uint64 {
	count := g.past.limitHits
	if g.closed {
		return count
	}
	if g.memory.home == "" {
		return count + keyed(g.dirs[unified], "memory.events.local", "max")
	}
	for _, dir := range unique(g.memory.home, g.memory.current) {
		count += number(dir, "memory.failcnt")
	}
	return count
}

// number reads a file of one number; 0 if there is none.
func number(dir, file string) uint64 {
	if dir == "" {
		return 0
	}
	text, err := cgroups.ReadFile(dir, file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return n
}

// keyed reads a number from lines of "key number"; 0 if there is none.
func keyed(dir, file, key string) uint64 {
	if dir == "" {
		return 0
	}
	text, err := cgroups.ReadFile(dir, file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			n, _ := strconv.ParseUint(value, 10, 64)
			return n
		}
	}
	return 0
}

// orNone is a limit as the libraries take it: -1 is none.
func orNone(limit int64) int64 {
	if limit == 0 {
		return -1
	}
	return limit
}
