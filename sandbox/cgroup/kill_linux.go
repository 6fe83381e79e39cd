package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"golang.org/x/sys/unix"
)

// killTimeout bounds how long Kill waits for what it killed: longer than the kernel takes to free a large process on a busy
// machine. A process in uninterruptible sleep can outlast it.
const killTimeout = 10 * time.Second

// Kill kills every process in the group and below, and returns when none is left (who started them has
// still to wait for them). It is idempotent.
func (g *Group) Kill() error {
	g.p.mu.Lock()
	dirs := maps.Clone(g.dirs)
	g.p.mu.Unlock()
	deadline := time.Now().Add(killTimeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		left, err := members(dirs)
		if err != nil {
			return fmt.Errorf("kill cgroup %s: %w", g.Path(), err)
		}
		if len(left) == 0 {
			return nil
		}
		if slices.Contains(left, os.Getpid()) {
			return fmt.Errorf("kill cgroup %s: it holds the caller", g.Path())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill cgroup %s: still there after %v: processes %v", g.Path(), killTimeout, left)
		}
		if err := killMembers(dirs); err != nil {
			return fmt.Errorf("kill cgroup %s: %w", g.Path(), err)
		}
		<-time.After(pause)
	}
}

// killMembers kills all that it finds: by v2's cgroup.kill, which no fork escapes, and then, for what v2 has not or is not
// in v2, one by one while v1's freezer keeps them from forking.
func killMembers(dirs map[string]string) error {
	if dir := dirs[unified]; dir != "" {
		err := cgroups.WriteFile(dir, "cgroup.kill", "1")
		// Kernels before 5.14 have no such file, and open it as if to create.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	freezer := dirs["freezer"]
	left, err := members(dirs)
	if err != nil || len(left) == 0 {
		return err
	}
	if freezer != "" {
		// If not all can be frozen, killing goes on all the same, and again.
		_ = (&fs.FreezerGroup{}).Set(freezer, &cgroups.Resources{Freezer: cgroups.Frozen})
		defer func() { _ = (&fs.FreezerGroup{}).Set(freezer, &cgroups.Resources{Freezer: cgroups.Thawed}) }()
		if left, err = members(dirs); err != nil {
			return err
		}
	}
	return killAll(left, func() ([]int, error) { return members(dirs) })
}

// killAll kills those processes that are still members once they are held by a descriptor: a number may have
// passed to a stranger since it was read.
func killAll(pids []int, stillMembers func() ([]int, error)) error {
	held := map[int]int{}
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			held[pid] = fd
		}
	}
	left, err := stillMembers()
	if err != nil {
		return err
	}
	for _, pid := range left {
		fd, ok := held[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return nil
}

// members are the processes in these folders and below, in any of the hierarchies.
func members(dirs map[string]string) ([]int, error) {
	var pids []int
	for _, dir := range dirs {
		found, err := cgroups.GetAllPids(dir)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		pids = append(pids, found...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// checkEmpty tells which processes are in a folder or below. One of a PID namespace that we cannot see into is 0 on v2; on
// v1 it is not listed, and the kernel will refuse to remove its group.
func checkEmpty(dir string) error {
	pids, err := members(map[string]string{"": dir})
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("%w: %s still has %s", ErrBusy, dir, strings.Trim(fmt.Sprint(pids), "[]"))
	}
	return nil
}
