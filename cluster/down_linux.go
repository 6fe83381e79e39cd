package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"svcproxy/sandbox/cgroup"
)

const (
	// politeTimeout is how long a supervisor may take to end after it was asked to.
	politeTimeout = 20 * time.Second
	// killTimeout is how long killed processes may take to go.
	killTimeout = 10 * time.Second
)

// Down removes a sandbox: its processes, and with them all of its namespaces, links and mounts; its cgroups; its
// folder. It works the same after a crash, and does nothing if there is no such sandbox; it tells which it was.
func Down(ctx context.Context, root, name, version string) (removed bool, err error) {
	f, err := folderOf(root, name)
	if err != nil {
		return false, err
	}
	held, err := f.lock(false, lockTimeout)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer held.Close()
	polite, cancel := context.WithTimeout(ctx, politeTimeout)
	defer cancel()
	if alive, err := f.alive(); err != nil {
		return false, err
	} else if alive {
		c := &Client{folder: f, version: version}
		if err := c.shutdown(polite); err == nil {
			f.awaitDeath(polite)
		}
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return true, f.demolish(ctx)
}

// demolish ends by force what is left of a sandbox and removes its folder.
func (f folder) demolish(ctx context.Context) error {
	if err := f.sweep(ctx); err != nil {
		return fmt.Errorf("sandbox %s: %w", f.name(), err)
	}
	return f.remove()
}

// sweep kills what is left of the supervisor's processes and removes the cgroups. The folder stays.
func (f folder) sweep(ctx context.Context) error {
	r, err := f.readRecord()
	if err != nil {
		return err
	}
	if r == nil {
		// The record is the first thing that a supervisor makes.
		if alive, err := f.alive(); err != nil || !alive {
			return err
		}
		return fmt.Errorf("its supervisor runs, but %s does not exist", f.file(recordFile))
	}
	if err := f.killAll(r); err != nil {
		return err
	}
	if r.Cgroup != "" {
		if err := removeGroups(ctx, r.Cgroup); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", r.Cgroup, err)
		}
	}
	return os.Remove(f.file(recordFile))
}

// removeGroups removes the cgroups. What was in them has been killed, and may take a moment more to go.
func removeGroups(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	for {
		err := cgroup.Remove(name)
		if !errors.Is(err, cgroup.ErrBusy) || ctx.Err() != nil {
			return err
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// killAll kills the processes of a record, none of another's, and waits until all that they had in their
// namespaces is gone.
func (f folder) killAll(r *record) error {
	if !r.here() {
		if alive, err := f.alive(); err != nil || !alive {
			return err
		}
		return errors.New("its supervisor runs in another PID namespace: take it down from there")
	}
	processes := r.Processes
	if len(processes) == 1 {
		if now, err := findProcess(processes[0].PID); err == nil && now == processes[0] {
			processes = family(now)
		}
	}
	var open []*os.File
	defer func() { closeAll(open) }()
	for _, p := range processes {
		pidfd, err := p.open()
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return err
		}
		open = append(open, pidfd)
	}
	for _, pidfd := range open {
		if err := kill(pidfd); err != nil {
			return fmt.Errorf("kill the supervisor: %w", err)
		}
	}
	deadline := time.Now().Add(killTimeout)
	for _, pidfd := range open {
		if !awaitEnd(pidfd, deadline) {
			return fmt.Errorf("the supervisor outlived SIGKILL for %v", killTimeout)
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if !f.awaitDeath(ctx) {
		return fmt.Errorf("processes of the supervisor outlived it by %v", killTimeout)
	}
	return nil
}

// awaitDeath waits until no process of the supervisor is left.
func (f folder) awaitDeath(ctx context.Context) bool {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if alive, err := f.alive(); err == nil && !alive {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-poll.C:
		}
	}
}
