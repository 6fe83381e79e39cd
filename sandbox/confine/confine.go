// Package confine takes from a thread, just before it becomes a program in a pod, what
// the program must not have: another user's identity, capabilities, the gain of
// privileges by files, and system calls that pods have no use for.
package confine

import "slices"

// Seccomp names the filter of system calls.
type Seccomp int

const (
	// RuntimeDefault refuses what moby's default profile refuses for a program
	// with the Profile's capabilities.
	RuntimeDefault Seccomp = iota
	// Unconfined lets all system calls through.
	Unconfined
)

func (s Seccomp) String() string {
	switch s {
	case RuntimeDefault:
		return "RuntimeDefault"
	case Unconfined:
		return "Unconfined"
	}
	return "unknown"
}

// Profile says what a program in a pod may do. Its zero value is root without
// capabilities, under the default filter.
type Profile struct {
	// UID, GID and Groups are the program's user, group and supplementary groups,
	// as the user namespace around it numbers them.
	UID, GID int
	Groups   []int
	// Capabilities, such as "CAP_CHOWN", are the bounding set, and of root also
	// the permitted and effective set. Inheritable and ambient are none, so that
	// an ordinary user has none in effect.
	Capabilities []string
	// AllowPrivilegeEscalation leaves out no_new_privs: files with the setuid bit
	// or with capabilities give these, up to the bounding set.
	AllowPrivilegeEscalation bool
	Seccomp                  Seccomp
}

// DefaultCapabilities are those of a container in containerd and docker, whose list
// this is, sorted.
func DefaultCapabilities() []string { return slices.Clone(defaultCapabilities) }

var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}
