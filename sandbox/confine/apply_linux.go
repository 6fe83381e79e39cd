package confine

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// maxID is the highest user and group id: 2^32-1 means "leave it as it is".
const maxID = 1<<32 - 2

// Check returns an error, which names the field, for a profile that no thread could
// apply: an id out of range, a capability that this kernel does not have, a filter
// that has no translation for this architecture. Whether the ids are mapped only the
// thread in the pod's user namespace can tell.
func (p Profile) Check() error {
	ids := append([]int{p.UID, p.GID}, p.Groups...)
	for i, id := range ids {
		if id < 0 || id > maxID {
			field := [...]string{"UID", "GID", "Groups"}[min(i, 2)]
			return fmt.Errorf("profile: %s: %d is not in 0..%d", field, id, maxID)
		}
	}
	if _, err := p.capabilities(); err != nil {
		return err
	}
	switch p.Seccomp {
	case Unconfined:
	case RuntimeDefault:
		if _, err := defaultFilter(p.Capabilities); err != nil {
			return fmt.Errorf("profile: Seccomp: %s on %s: %w", p.Seccomp, runtime.GOARCH, err)
		}
	default:
		return fmt.Errorf("profile: Seccomp: unknown value %d", p.Seccomp)
	}
	return nil
}

// capabilities are the profile's by number.
func (p Profile) capabilities() (map[capability.Cap]bool, error) {
	supported, err := capability.ListSupported()
	if err != nil {
		return nil, fmt.Errorf("profile: Capabilities: %w", err)
	}
	byName := make(map[string]capability.Cap, len(supported))
	for _, c := range supported {
		byName[capabilityName(c)] = c
	}
	kept := make(map[capability.Cap]bool, len(p.Capabilities))
	for _, name := range p.Capabilities {
		c, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("profile: Capabilities: this kernel has no %q (names are as in CAP_CHOWN)", name)
		}
		kept[c] = true
	}
	return kept, nil
}

func capabilityName(c capability.Cap) string {
	return "CAP_" + strings.ToUpper(c.String())
}

// Apply confines the calling thread, and no other, as the profile says. The thread
// must be locked, needs all capabilities in its user namespace, and should do nothing
// after that but exec, which makes a whole program of it. After an error the thread
// is confined in part and good for nothing.
//
// Until it executes another program the process is not dumpable any more: its other
// threads still have what this one lost, and processes in the pod must not get at them.
func (p Profile) Apply() error {
	if err := p.Check(); err != nil {
		return err
	}
	kept, err := p.capabilities()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process not dumpable: %w", err)
	}
	// Without no_new_privs a filter takes CAP_SYS_ADMIN, so it comes before that is
	// gone (the default profile lets through all that follows); otherwise it comes last.
	if p.AllowPrivilegeEscalation {
		err = p.filter()
	}
	if err == nil {
		err = p.dropBounding(kept)
	}
	if err == nil {
		err = p.become()
	}
	if err == nil {
		err = p.setCapabilities(kept)
	}
	if err != nil || p.AllowPrivilegeEscalation {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return p.filter()
}

func (p Profile) filter() error {
	if p.Seccomp == Unconfined {
		return nil
	}
	filter, err := defaultFilter(p.Capabilities)
	if err != nil {
		return err
	}
	return install(filter)
}

func (p Profile) dropBounding(kept map[capability.Cap]bool) error {
	supported, err := capability.ListSupported()
	if err != nil {
		return err
	}
	for _, c := range supported {
		if kept[c] {
			continue
		}
		if err := capability.DropBound(c); err != nil {
			return fmt.Errorf("drop %s from the bounding set: %w", capabilityName(c), err)
		}
	}
	return nil
}

// become changes the groups and the user. The raw calls change this thread alone;
// those of the standard library change all.
func (p Profile) become() error {
	if err := p.setGroups(); err != nil {
		return err
	}
	gid, uid := uintptr(p.GID), uintptr(p.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return idError("GID", p.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return idError("UID", p.UID, errno)
	}
	return nil
}

func idError(field string, value any, err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("profile: %s: %v: not mapped in this user namespace (one that an ordinary user made maps only him, as 0): %w", field, value, err)
	}
	return fmt.Errorf("profile: %s: %v: %w", field, value, err)
}

// setGroups leaves the groups of an ordinary user, whose namespace cannot change them,
// as they are if the profile has none: nobody in there can name or gain any.
func (p Profile) setGroups() error {
	err := unix.Setgroups(p.Groups)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, unix.EPERM) || !groupsFixed():
		return idError("Groups", p.Groups, err)
	case len(p.Groups) == 0:
		return nil
	}
	return fmt.Errorf("profile: Groups: %v: this user namespace cannot change groups (as one that an ordinary user made): %w", p.Groups, err)
}

// groupsFixed tells whether it is the user namespace that refuses setgroups, not a
// missing capability.
func groupsFixed() bool {
	own, err := capability.NewPid2(0)
	if err != nil {
		return false
	}
	_ = own.Load() // what it fails to read, without /proc, are the sets not asked for here
	return own.Get(capability.EFFECTIVE, capability.CAP_SETGID)
}

// setCapabilities sets all sets but the bounding one. The user has changed, so that
// an ordinary user has lost all; root keeps what the profile says.
func (p Profile) setCapabilities(kept map[capability.Cap]bool) error {
	own, err := capability.NewPid2(0)
	if err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if p.UID == 0 {
		for c := range kept {
			own.Set(capability.PERMITTED|capability.EFFECTIVE, c)
		}
	}
	if err := own.Apply(capability.CAPS); err != nil {
		return fmt.Errorf("profile: Capabilities: %v: the thread does not have them all: %w", p.Capabilities, err)
	}
	if err := own.Apply(capability.AMBS); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	return nil
}
