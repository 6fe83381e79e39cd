package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

func (g *Group) setPids() error {
	limit := orNone(g.limits.Pids)
	r := &cgroups.Resources{PidsLimit: &limit}
	if dir := g.dirs["pids"]; dir != "" {
		return (&fs.PidsGroup{}).Set(dir, r)
	}
	return g.setV2(r)
}

// setCPU writes the group's quota. On v1 the kernel refuses (EINVAL) a quota above an ancestor's, so there each group gets the
// least of its own and its ancestors' limits, written from below when lowered and from above when raised.
func (g *Group) setCPU() error {
	if g.dirs["cpu"] == "" {
		return g.setV2(resourcesCPU(g.limits.MilliCPU))
	}
	limit := g.effectiveCPU()
	lower := limit != 0 && (g.cpu == 0 || limit < g.cpu)
	if !lower {
		if err := g.writeCPU(limit); err != nil {
			return err
		}
	}
	for _, child := range g.children {
		if err := child.setCPU(); err != nil {
			return err
		}
	}
	if lower {
		return g.writeCPU(limit)
	}
	return nil
}

func (g *Group) writeCPU(limit int64) error {
	if err := (&fs.CpuGroup{}).Set(g.dirs["cpu"], resourcesCPU(limit)); err != nil {
		return err
	}
	g.cpu = limit
	return nil
}

func (g *Group) effectiveCPU() int64 {
	var least int64
	for ; g != nil; g = g.parent {
		if l := g.limits.MilliCPU; l != 0 && (least == 0 || l < least) {
			least = l
		}
	}
	return least
}

func resourcesCPU(milliCPU int64) *cgroups.Resources {
	return &cgroups.Resources{CpuQuota: quota(milliCPU), CpuPeriod: uint64(period.Microseconds())}
}

// setV2 sets on v2, where a group may have no limits at all.
func (g *Group) setV2(r *cgroups.Resources) error {
	dir := g.dirs[unified]
	if dir == "" {
		return nil
	}
	m, err := fs2.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, dir)
	if err != nil {
		return err
	}
	return m.Set(r)
}

// giveControllers lets the groups below a folder of v2 have these controllers.
func giveControllers(dir string, controllers []string) error {
	text, err := cgroups.ReadFile(dir, "cgroup.subtree_control")
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if slices.Contains(strings.Fields(text), c) {
			continue
		}
		if err := cgroups.WriteFile(dir, "cgroup.subtree_control", "+"+c); err != nil {
			if errors.Is(err, unix.EBUSY) {
				err = fmt.Errorf("%w: it holds processes itself", err)
			}
			return fmt.Errorf("enable %s in %s: %w", c, filepath.Join(dir, "cgroup.subtree_control"), err)
		}
	}
	return nil
}
