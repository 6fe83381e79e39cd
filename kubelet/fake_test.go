package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
)

// fakeMachine obeys and remembers. In a synctest bubble its time is the test's.
type fakeMachine struct {
	mu     sync.Mutex
	log    []string // what happened, in order
	tasks  map[string]*fakeTask
	boxes  []*fakeBox
	groups map[string]*fakeGroup

	image  func(reference string) error
	pod    func() error
	start  func(s containerSetup) error
	output func(container string, args []string) error
	onTerm func(t *fakeTask) // what a program does with SIGTERM; nil: it exits with 0
}

func newFake() *fakeMachine {
	return &fakeMachine{tasks: map[string]*fakeTask{}, groups: map[string]*fakeGroup{}}
}

func (f *fakeMachine) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf(format, args...))
}

func (f *fakeMachine) Image(_ context.Context, reference string) (*imageInfo, error) {
	if f.image != nil {
		if err := f.image(reference); err != nil {
			return nil, err
		}
	}
	return &imageInfo{ID: "id-of-" + reference, Cmd: []string{"main"}, Lookup: func(user string) (identity, error) {
		var id identity
		_, err := fmt.Sscan(user+" 0", &id.UID)
		return id, err
	}}, nil
}

func (f *fakeMachine) Pod(s podSetup) (podBox, error) {
	if f.pod != nil {
		if err := f.pod(); err != nil {
			return nil, err
		}
	}
	b := &fakeBox{f: f, setup: s, done: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boxes = append(f.boxes, b)
	return b, nil
}

func (f *fakeMachine) Group(name string, l cgroup.Limits) (group, error) {
	return (&fakeGroup{f: f}).New(name, l)
}

func (f *fakeMachine) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("connection refused")
}
func (f *fakeMachine) MountMemory(string, int64) error   { return nil }
func (f *fakeMachine) Unmount(string) error              { return nil }
func (f *fakeMachine) Own(string, int, int) error        { return nil }
func (f *fakeMachine) CheckUser(int64) error             { return nil }
func (f *fakeMachine) CheckLimits(l cgroup.Limits) error { return nil }
func (f *fakeMachine) Limits() error                     { return nil }
func (f *fakeMachine) NodeName() string                  { return "node" }
func (f *fakeMachine) NodeAddrs() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("172.18.0.2")}
}
func (f *fakeMachine) Capacity() v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("4Gi")}
}

type fakeGroup struct {
	f      *fakeMachine
	path   string
	mu     sync.Mutex
	limits cgroup.Limits
	kills  uint64
	told   chan uint64
}

func (g *fakeGroup) New(name string, l cgroup.Limits) (group, error) {
	n := &fakeGroup{f: g.f, path: g.path + "/" + name, limits: l, told: make(chan uint64, 10)}
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	if g.f.groups[n.path] != nil {
		return nil, fmt.Errorf("cgroup %s exists", n.path)
	}
	g.f.groups[n.path] = n
	return n, nil
}

func (g *fakeGroup) Set(l cgroup.Limits) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limits = l
	return nil
}

func (g *fakeGroup) Stats() (cgroup.Stats, error) {
	return cgroup.Stats{OOMKills: g.OOMKillCount()}, nil
}
func (g *fakeGroup) OOMKillCount() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.kills
}
func (g *fakeGroup) OOMKills(context.Context) <-chan uint64 { return g.told }
func (g *fakeGroup) Path() string                           { return g.path }
func (g *fakeGroup) Paths() map[string]string               { return nil }
func (g *fakeGroup) Limits() cgroup.Limits                  { return g.limits }
func (g *fakeGroup) Close() error {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	delete(g.f.groups, g.path)
	return nil
}

// oom is what the kernel does when memory is out.
func (g *fakeGroup) oom() {
	g.mu.Lock()
	g.kills++
	n := g.kills
	g.mu.Unlock()
	g.told <- n
}

type fakeBox struct {
	f     *fakeMachine
	setup podSetup
	once  sync.Once
	done  chan struct{}
}

func (b *fakeBox) Start(s containerSetup) (task, error) {
	if b.f.start != nil {
		if err := b.f.start(s); err != nil {
			return nil, err
		}
	}
	b.f.note("start %s", s.Name)
	t := &fakeTask{f: b.f, box: b, setup: s, done: make(chan struct{})}
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	b.f.tasks[s.Name] = t
	return t, nil
}

func (b *fakeBox) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("connection refused")
}
func (b *fakeBox) Done() <-chan struct{}                       { return b.done }
func (b *fakeBox) Link() string                                { return "veth" }
func (b *fakeBox) inspect(*Inspection) error                   { return nil }
func (b *fakeBox) inspectContainer(*ContainerInspection) error { return nil }
func (b *fakeBox) die() {
	b.once.Do(func() { close(b.done) })
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	for _, t := range b.f.tasks {
		if t.box == b {
			go t.exit(sandbox.ExitStatus{Code: 137, Signal: syscall.SIGKILL})
		}
	}
}
func (b *fakeBox) Close() error { b.die(); return nil }

type fakeTask struct {
	f      *fakeMachine
	box    *fakeBox
	setup  containerSetup
	once   sync.Once
	status sandbox.ExitStatus
	done   chan struct{}
}

func (t *fakeTask) exit(s sandbox.ExitStatus) {
	t.once.Do(func() {
		t.f.note("end %s", t.setup.Name)
		t.status = s
		close(t.done)
	})
}

func (t *fakeTask) PID() int { return 42 }
func (t *fakeTask) Signal(s os.Signal) error {
	t.f.note("%v %s", s, t.setup.Name)
	if s == syscall.SIGTERM {
		if t.f.onTerm != nil {
			t.f.onTerm(t)
		} else {
			t.exit(sandbox.ExitStatus{})
		}
	}
	return nil
}
func (t *fakeTask) Done() <-chan struct{}       { return t.done }
func (t *fakeTask) Status() sandbox.ExitStatus  { <-t.done; return t.status }
func (t *fakeTask) Input() io.WriteCloser       { return nil }
func (t *fakeTask) Resize(sandbox.Window) error { return nil }
func (t *fakeTask) Exec(sandbox.ExecConfig) (*sandbox.Process, error) {
	return nil, errors.New("no exec here")
}
func (t *fakeTask) Output(_ context.Context, cfg sandbox.ExecConfig) ([]byte, error) {
	t.f.note("exec %s %v", t.setup.Name, cfg.Args)
	if t.f.output != nil {
		return nil, t.f.output(t.setup.Name, cfg.Args)
	}
	return nil, nil
}
func (t *fakeTask) Close() error {
	t.exit(sandbox.ExitStatus{Code: 137, Signal: syscall.SIGKILL})
	return nil
}

// world is a kubelet on a fake machine, in a synctest bubble.
type world struct {
	*testing.T
	f    *fakeMachine
	k    *Kubelet
	mu   sync.Mutex
	seen []*v1.Pod // what Changed was given
}

// inWorld runs a test in a bubble, in which time passes only when everything waits. A goroutine that is left over fails
// the test.
func inWorld(t *testing.T, f *fakeMachine, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, f: f}
		k, err := newKubelet(Config{
			Dir: t.TempDir(),
			Withdraw: func(context.Context, *v1.Pod) error {
				f.note("withdraw")
				return nil
			},
			Changed: func(pod *v1.Pod) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.seen = append(w.seen, pod)
			},
		}, f)
		if err != nil {
			t.Fatal(err)
		}
		w.k = k
		defer func() {
			if err := k.Close(); err != nil {
				t.Error(err)
			}
			if left, _ := os.ReadDir(k.cfg.Dir + "/pods"); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.groups) > 0 {
				t.Errorf("cgroups left over: %v", f.groups)
			}
		}()
		test(w)
	})
}

// pass lets time pass and everything settle.
func (w *world) pass(d time.Duration) {
	w.Helper()
	if d > 0 {
		<-time.After(d)
	}
	synctest.Wait()
}

var podName = types.NamespacedName{Namespace: "default", Name: "web"}

// aPod has one container main, and what change adds.
func aPod(change ...func(*v1.Pod)) *v1.Pod {
	pod := &v1.Pod{}
	pod.Namespace, pod.Name = podName.Namespace, podName.Name
	pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	pod.Spec.Containers = []v1.Container{{Name: "main", Image: "host:main"}}
	pod.Status.PodIPs = []v1.PodIP{{IP: "10.244.0.2"}}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func (w *world) apply(pod *v1.Pod) {
	w.Helper()
	if err := w.k.Apply(pod); err != nil {
		w.Fatal(err)
	}
	w.pass(0)
}

func (w *world) pod() *v1.Pod {
	w.Helper()
	pod, ok := w.k.Pod(podName)
	if !ok {
		w.Fatal("the pod is gone")
	}
	return pod
}

func (w *world) main() v1.ContainerStatus {
	w.Helper()
	return w.pod().Status.ContainerStatuses[0]
}

// exit ends a container's program by itself.
func (w *world) exit(container string, code int) {
	w.Helper()
	w.f.mu.Lock()
	t := w.f.tasks[container]
	w.f.mu.Unlock()
	t.exit(sandbox.ExitStatus{Code: code})
	w.pass(0)
}

func (w *world) wantPhase(want v1.PodPhase) {
	w.Helper()
	if got := w.pod().Status.Phase; got != want {
		w.Errorf("phase %s, want %s", got, want)
	}
}

func (w *world) wantCondition(kind v1.PodConditionType, want v1.ConditionStatus) {
	w.Helper()
	for _, c := range w.pod().Status.Conditions {
		if c.Type == kind && c.Status != want {
			w.Errorf("%s is %s (%s), want %s", kind, c.Status, c.Message, want)
		}
	}
}

func (w *world) happened() []string {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	out := w.f.log
	w.f.log = nil
	return out
}
