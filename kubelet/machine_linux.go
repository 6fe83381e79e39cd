package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
	"svcproxy/sandbox/image"
)

// linux is the machine that this program runs on.
type linux struct {
	node    *sandbox.Node
	images  *image.Store
	cgroups *cgroup.Parent
	users   sandbox.UserRange
}

func newMachine(cfg Config) (machine, error) {
	if cfg.Node == nil || cfg.Images == nil {
		return nil, errors.New("kubelet: it needs a node and an image store")
	}
	return &linux{cfg.Node, cfg.Images, cfg.Cgroups, cfg.Users}, nil
}

func (m *linux) Image(ctx context.Context, reference string) (*imageInfo, error) {
	r, err := image.ParseReference(reference)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errImageName, err)
	}
	i, err := m.images.Get(ctx, r)
	if err != nil {
		return nil, err
	}
	return &imageInfo{
		ID: i.ID, Layers: i.Layers, Entrypoint: i.Config.Entrypoint, Cmd: i.Config.Cmd, Env: i.Config.Env,
		WorkingDir: i.Config.WorkingDir, User: i.Config.User,
		Lookup: func(user string) (identity, error) {
			uid, gid, groups, home, err := i.LookupUser(user)
			return identity{uid, gid, groups, home}, err
		},
	}, nil
}

func (m *linux) Pod(s podSetup) (podBox, error) {
	pod, err := m.node.AddPod(sandbox.PodConfig{Name: s.Name, Addrs: s.Addrs, Pause: &sandbox.PauseConfig{
		Hostname: s.Hostname, Sysctls: s.Sysctls, ShareProcesses: s.ShareProcesses, Users: m.users,
	}})
	if err != nil {
		return nil, err
	}
	return &linuxPod{pod}, nil
}

func (m *linux) Group(name string, l cgroup.Limits) (group, error) {
	create := l
	if create.Memory < cgroup.MinMemory {
		create.Memory = 0
	}
	g, err := m.cgroups.New(name, create)
	if err == nil && create != l {
		err = g.Set(l)
	}
	if err != nil {
		return nil, err
	}
	return linuxGroup{g}, nil
}

func (m *linux) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return m.node.Dial(ctx, network, address)
}

func (m *linux) MountMemory(dir string, size int64) error {
	options := "mode=0777"
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount memory at %s: %w", dir, err)
	}
	return nil
}

func (m *linux) Unmount(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

func (m *linux) Own(path string, uid, gid int) error {
	if m.users.Size == 0 {
		return nil // only the caller exists, who owns it
	}
	return os.Lchown(path, m.users.Base+uid, m.users.Base+gid)
}

func (m *linux) CheckUser(id int64) error {
	switch {
	case m.users.Size == 0 && id != 0:
		return fmt.Errorf("%d does not exist: an ordinary user's pods have user and group 0 only", id)
	case m.users.Size > 0 && (id < 0 || id >= int64(m.users.Size)):
		return fmt.Errorf("%d does not exist: a pod's users and groups are 0 to %d", id, m.users.Size-1)
	}
	return nil
}

func (m *linux) CheckLimits(l cgroup.Limits) error {
	if l == (cgroup.Limits{}) {
		return nil
	}
	if m.cgroups == nil {
		return errNoCgroups
	}
	return m.cgroups.Supported().Check(l)
}

var errNoCgroups = errors.New("this machine gives no cgroups to keep limits with")

// Limits is nil if any limit can be kept.
func (m *linux) Limits() error {
	if m.cgroups == nil {
		return errNoCgroups
	}
	s := m.cgroups.Supported()
	if s.Memory != nil && s.CPU != nil && s.Pids != nil {
		return fmt.Errorf("%w: %w", errNoCgroups, errors.Join(s.Memory, s.CPU, s.Pids))
	}
	return nil
}

func (m *linux) NodeName() string        { return m.node.Name }
func (m *linux) NodeAddrs() []netip.Addr { return m.node.Addrs }

func (m *linux) Capacity() v1.ResourceList {
	var info unix.Sysinfo_t
	out := v1.ResourceList{v1.ResourceCPU: *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI)}
	if unix.Sysinfo(&info) == nil {
		out[v1.ResourceMemory] = *resource.NewQuantity(int64(info.Totalram)*int64(info.Unit), resource.BinarySI)
	}
	return out
}

type linuxGroup struct{ *cgroup.Group }

func (g linuxGroup) New(name string, l cgroup.Limits) (group, error) {
	inner, err := g.Group.New(name, l)
	if err != nil {
		return nil, err
	}
	return linuxGroup{inner}, nil
}

type linuxPod struct{ *sandbox.Pod }

func (p *linuxPod) Link() string { return p.Interface }

func (p *linuxPod) Start(s containerSetup) (_ task, err error) {
	cfg := sandbox.ContainerConfig{
		Name: s.Name, Layers: s.Layers, Upper: s.Upper, ReadOnlyRoot: s.ReadOnlyRoot,
		Args: s.Args, Env: s.Env, Dir: s.Dir, Profile: s.Profile, Terminal: s.Terminal,
	}
	for _, m := range s.Mounts {
		cfg.Mounts = append(cfg.Mounts, sandbox.Mount{Kind: sandbox.Bind, Source: m.Source, Target: m.Target, SubPath: m.SubPath, ReadOnly: m.ReadOnly})
	}
	if g, ok := s.Group.(linuxGroup); ok {
		cfg.Cgroup = g.Group
	}
	t := &linuxTask{}
	if !s.Terminal {
		var theirs []*os.File
		defer func() { closeAll(theirs) }()
		if theirs, err = t.pipes(&cfg, s); err != nil {
			return nil, err
		}
	}
	if t.Container, err = p.StartContainer(cfg); err != nil {
		closeAll(t.ours)
		return nil, err
	}
	if s.Terminal {
		t.input = t.Terminal()
		t.ours = []*os.File{t.Terminal()}
		t.copy(s.Stdout, t.Terminal())
		return t, nil
	}
	t.copy(s.Stdout, t.ours[0])
	t.copy(s.Stderr, t.ours[1])
	return t, nil
}

// linuxTask is a container with the other ends of its streams.
type linuxTask struct {
	*sandbox.Container
	ours   []*os.File
	input  *os.File
	copies sync.WaitGroup
}

// pipes makes the container's streams and returns its ends of them.
func (t *linuxTask) pipes(cfg *sandbox.ContainerConfig, s containerSetup) (theirs []*os.File, err error) {
	for _, stream := range []**os.File{&cfg.Stdout, &cfg.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(t.ours)
			return theirs, err
		}
		*stream = w
		t.ours, theirs = append(t.ours, r), append(theirs, w)
	}
	if s.Stdin {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(t.ours)
			return theirs, err
		}
		cfg.Stdin, t.input = r, w
		t.ours, theirs = append(t.ours, w), append(theirs, r)
	}
	return theirs, nil
}

func (t *linuxTask) copy(to io.Writer, from io.Reader) {
	t.copies.Go(func() { _, _ = io.Copy(to, from) })
}

func (t *linuxTask) Input() io.WriteCloser {
	if t.input == nil {
		return nil
	}
	if t.input == t.Terminal() {
		return keptOpen{t.input} // it is the output, too
	}
	return t.input
}

type keptOpen struct{ io.Writer }

func (keptOpen) Close() error { return nil }

// Close also ends the reading of output, should anything outside of the container still hold its other end.
func (t *linuxTask) Close() error {
	err := t.Container.Close()
	for _, f := range t.ours {
		_ = f.SetReadDeadline(time.Now().Add(outputGrace))
	}
	t.copies.Wait()
	closeAll(t.ours)
	return err
}

// outputGrace is how long a program's output is still read after all of the program has ended.
const outputGrace = 100 * time.Millisecond

// maxOutput is how much of a probe's or a hook's output is of interest.
const maxOutput = 10 << 10

func (t *linuxTask) Output(ctx context.Context, setup sandbox.ExecConfig) ([]byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	setup.Stdout, setup.Stderr = w, w
	process, err := t.Exec(setup)
	w.Close()
	if err != nil {
		return nil, err
	}
	output := make(chan []byte, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(r, maxOutput))
		output <- text
		_, _ = io.Copy(io.Discard, r)
	}()
	select {
	case <-process.Done():
	case <-ctx.Done():
		_ = process.Signal(unix.SIGKILL)
		<-process.Done()
	}
	// What the command left running may hold the pipe for as long as it likes.
	_ = r.SetReadDeadline(time.Now().Add(outputGrace))
	text := <-output
	if code := process.Status().Code; code != 0 {
		return text, fmt.Errorf("command exited with %d", code)
	}
	return text, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
