package cgroup

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// unified is the key of v2 among v1's controllers, as in /proc/PID/cgroup.
const unified = ""

// wanted are the controllers that limit and count; on v1 also cpuacct, which counts CPU time, and freezer, which
// holds a group still while it is killed.
var (
	wanted   = []string{"memory", "cpu", "pids"}
	wantedV1 = append(slices.Clone(wanted), "cpuacct", "freezer")
)

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	controllers []string // those of wantedV1 that it has; on v2 unified
	mount       string   // its mount point
	own         string   // the caller's group
}

// findHierarchies reads /proc/self/mountinfo and /proc/self/cgroup.
func findHierarchies(mounts io.Reader, own map[string]string) ([]hierarchy, error) {
	infos, err := mountinfo.GetMountsFromReader(mounts, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var found []hierarchy
	seen := map[string]bool{}
	for _, info := range infos {
		options := []string{unified}
		if info.FSType == "cgroup" {
			options = strings.Split(info.VFSOptions, ",")
		}
		h := hierarchy{mount: info.Mountpoint}
		for _, c := range append(slices.Clone(wantedV1), unified) {
			// The first mount counts: a second one is the same tree.
			if slices.Contains(options, c) && !seen[c] {
				seen[c] = true
				h.controllers = append(h.controllers, c)
			}
		}
		if len(h.controllers) == 0 {
			continue
		}
		h.own = ownFolder(info, own[h.controllers[0]])
		found = append(found, h)
	}
	return found, nil
}

// ownFolder is where a path of /proc/self/cgroup is below the mount. A caller whose group is not below it
// (a container that sees a part of the tree) has the mount itself.
func ownFolder(info *mountinfo.Info, path string) string {
	below, err := filepath.Rel(info.Root, path)
	if err != nil || !filepath.IsLocal(below) || strings.HasPrefix(path, "/..") {
		return info.Mountpoint
	}
	return filepath.Join(info.Mountpoint, below)
}

func layoutOf(found []hierarchy) Layout {
	v1 := slices.ContainsFunc(found, func(h hierarchy) bool { return !h.isV2() })
	v2 := slices.ContainsFunc(found, hierarchy.isV2)
	switch {
	case v1 && v2:
		return Hybrid
	case v1:
		return V1
	case v2:
		return V2
	}
	return None
}

func (h hierarchy) isV2() bool { return slices.Contains(h.controllers, unified) }

// place is the folder in which the caller's groups are made: the topmost that he may write and from
// which no limit of his is escaped.
func (h hierarchy) place() (string, error) {
	folders := []string{h.own}
	for dir := h.own; dir != h.mount; {
		dir = filepath.Dir(dir)
		folders = append(folders, dir)
	}
	var reason error
	for i := len(folders) - 1; i >= 0; i-- {
		if slices.ContainsFunc(folders[:i], limited) {
			reason = fmt.Errorf("a group at %s would escape the limits of %s", folders[i], h.own)
			continue
		}
		if reason = h.usable(folders[i]); reason == nil {
			return folders[i], nil
		}
	}
	return "", reason
}

func (h hierarchy) usable(dir string) error {
	files := []string{""}
	if h.isV2() {
		// cgroups(7), "delegation": moving a process needs cgroup.procs of the common ancestor.
		files = []string{"", "cgroup.procs", "cgroup.subtree_control"}
	}
	for _, file := range files {
		path := filepath.Join(dir, file)
		if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
			return fmt.Errorf("%w: %s", err, path)
		}
	}
	if !h.isV2() || len(controllersV2(dir)) == 0 {
		return nil
	}
	return canGiveControllers(dir)
}

// canGiveControllers is v2's rule of no internal processes.
func canGiveControllers(dir string) error {
	kind, err := cgroups.ReadFile(dir, "cgroup.type")
	if errors.Is(err, unix.ENOENT) {
		return nil // the root of the tree, which the rule excepts
	}
	if err != nil {
		return err
	}
	if kind = strings.TrimSpace(kind); kind != "domain" {
		return fmt.Errorf("%s is of type %q, which cannot have memory limits below it", dir, kind)
	}
	procs, err := cgroups.ReadFile(dir, "cgroup.procs")
	if err != nil {
		return err
	}
	if strings.TrimSpace(procs) != "" {
		return fmt.Errorf("%s holds processes itself, so it can give no controllers to groups below it "+
			"(start this in a group below a delegated one, such as a service of systemd with Delegate=yes and DelegateSubgroup=)", dir)
	}
	return nil
}

// controllersV2 are the wanted controllers that groups below a folder of v2 can have.
func controllersV2(dir string) []string {
	text, err := cgroups.ReadFile(dir, "cgroup.controllers")
	if err != nil {
		return nil
	}
	return intersect(wanted, strings.Fields(text))
}

func intersect(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

// limited tells whether a group has a limit that a group beside it would not have.
func limited(dir string) bool {
	for _, file := range []string{
		"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us", // v1
		"memory.max", "memory.high", "memory.swap.max", "cpu.max", // v2
		"pids.max", // both
	} {
		text, err := cgroups.ReadFile(dir, file)
		if err == nil && !unlimited(text) {
			return true
		}
	}
	return false
}

// unlimited tells "no limit" of a limit file: max, max 100000, -1, or v1's number near 1<<63.
func unlimited(text string) bool {
	fields := strings.Fields(text)
	if len(fields) == 0 || fields[0] == "max" || fields[0] == "-1" {
		return true
	}
	n, err := strconv.ParseUint(fields[0], 10, 64)
	return err == nil && n >= 1<<62
}
