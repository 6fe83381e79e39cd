package kubelet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"

	v1 "k8s.io/api/core/v1"

	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
	"svcproxy/sandbox/confine"
)

// machine is what the kubelet asks of the kernel. The real one is in machine_linux.go; tests of the life cycle
// have one that obeys them. Users and groups are those that the pod sees.
type machine interface {
	// Image fetches what a container's image field names. errImageName tells that no retry will help.
	Image(ctx context.Context, reference string) (*imageInfo, error)
	// Pod starts a pod without containers, its sandbox.
	Pod(podSetup) (podBox, error)
	// Group makes a pod's cgroup, unless Limits is an error.
	Group(name string, l cgroup.Limits) (group, error)
	// Dial connects from the node's network namespace.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	// MountMemory mounts a file system in memory at a folder, of at most size bytes unless 0.
	MountMemory(dir string, size int64) error
	Unmount(dir string) error
	// Own gives a file or folder to the pod's user and group, not following a link.
	Own(path string, uid, gid int) error
	// CheckUser says why a user or group can't exist in a pod, and CheckLimits why a limit can't be kept.
	CheckUser(id int64) error
	CheckLimits(l cgroup.Limits) error
	// Limits says why there are no cgroups.
	Limits() error
	// NodeName, NodeAddrs and Capacity describe the node.
	NodeName() string
	NodeAddrs() []netip.Addr
	Capacity() v1.ResourceList
}

// imageInfo is an image that is there, with the defaults that it gives to containers.
type imageInfo struct {
	ID                   string
	Layers               []string
	Entrypoint, Cmd, Env []string
	WorkingDir, User     string
	Lookup               func(user string) (identity, error)
}

// identity is a user as the image's own files know it.
type identity struct {
	UID, GID int
	Groups   []int
	Home     string
}

// group is a cgroup; Close removes it with what is in it.
type group interface {
	New(name string, l cgroup.Limits) (group, error)
	Set(cgroup.Limits) error
	Stats() (cgroup.Stats, error)
	OOMKillCount() uint64
	// OOMKills delivers the count whenever the kernel killed something in the group for want of memory, until ctx ends.
	OOMKills(ctx context.Context) <-chan uint64
	Path() string
	Paths() map[string]string
	Limits() cgroup.Limits
	Close() error
}

// podSetup is what a sandbox is made of.
type podSetup struct {
	Name           string
	Addrs          []netip.Addr
	Hostname       string
	Sysctls        map[string]string
	ShareProcesses bool
}

// podBox is a running sandbox: the pod's namespaces with a pause process in them.
type podBox interface {
	Start(containerSetup) (task, error)
	// Dial connects inside the pod.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	// Done is closed when the pause process is gone, and all of the pod's processes with it.
	Done() <-chan struct{}
	// Link is the node's end of the pod's link.
	Link() string
	inspect(*Inspection) error
	inspectContainer(*ContainerInspection) error
	Close() error
}

// mount is one thing mounted in a container.
type mount struct {
	Source, Target string
	SubPath        string // below Source, found without leaving it
	ReadOnly       bool
}

// containerSetup is what a container is made of. What it prints goes to the writers, all to Stdout with a terminal.
type containerSetup struct {
	Name           string
	Layers         []string
	Upper          string
	ReadOnlyRoot   bool
	Mounts         []mount
	Group          group
	Args, Env      []string
	Dir            string
	Profile        confine.Profile
	Terminal       bool
	Stdin          bool // whether there is a standard input to attach to
	Stdout, Stderr io.Writer
}

// task is a running container.
type task interface {
	PID() int
	Signal(os.Signal) error
	Done() <-chan struct{}
	Status() sandbox.ExitStatus
	// Input is the standard input or the terminal; nil if there is none.
	Input() io.WriteCloser
	Resize(sandbox.Window) error
	Exec(sandbox.ExecConfig) (*sandbox.Process, error)
	// Output runs a program to its end, or kills it at the end of ctx, and returns the beginning of what it printed.
	// A program that fails is an error.
	Output(ctx context.Context, setup sandbox.ExecConfig) ([]byte, error)
	// Close kills all that is left in the container and waits for its end and the end of its output.
	Close() error
}
