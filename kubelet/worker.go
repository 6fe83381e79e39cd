package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"svcproxy/sandbox/cgroup"
)

// worker runs one pod, from Apply to Delete.
type worker struct {
	k    *Kubelet
	name types.NamespacedName
	log  *zap.Logger
	dir  string

	volumes    *volumes
	containers []*container // in the order of the records

	// ctx ends when the pod is to be killed at once.
	ctx    context.Context
	cancel context.CancelFunc
	// ending is closed when the pod is to end gracefully, after endGrace was set.
	ending   chan struct{}
	restarts chan restart
	gone     chan struct{} // closed when nothing is left of the pod
	quiet    chan struct{} // and when Changed will not be called any more

	restarting sync.Mutex // one Restart at a time
	resizing   sync.Mutex // one change of limits at a time
	deleting   sync.Once
	refreshing sync.Mutex // one writing of volumes at a time

	mu       sync.Mutex
	state    podState
	endGrace time.Duration
	life     *life
	group    group            // nil until the pod starts, and where there are no cgroups
	groups   map[string]group // of its containers
	events   []Event
	kick     chan struct{} // closed when files changed
	version  uint64        // of the status
	told     uint64        // version that Changed has had
	next     chan struct{} // closed when told grows
	closeErr error

	dirty chan struct{} // holds one token when version is not told
}

func newWorker(k *Kubelet, given *v1.Pod) (*worker, error) {
	pod := given.DeepCopy()
	if pod.UID == "" {
		pod.UID = uuid.NewUUID()
	}
	now := k.clock.Now()
	if pod.CreationTimestamp.IsZero() {
		pod.CreationTimestamp = metav1.NewTime(now)
	}
	if pod.Spec.NodeName == "" {
		pod.Spec.NodeName = k.machine.NodeName()
	}
	name := nameOf(pod)
	w := &worker{
		k: k, name: name, log: k.cfg.Log.With(zap.String("pod", name.String())),
		dir:    filepath.Join(k.cfg.Dir, "pods", name.Namespace+"_"+name.Name),
		ending: make(chan struct{}), restarts: make(chan restart), gone: make(chan struct{}), quiet: make(chan struct{}),
		groups: map[string]group{}, kick: make(chan struct{}), next: make(chan struct{}), dirty: make(chan struct{}, 1),
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.volumes = newVolumes(filepath.Join(w.dir, "volumes"), k.machine, k.cfg.AllowHostPaths)
	w.state = podState{pod: pod, accepted: now, applied: map[string]cgroup.Limits{}}
	for _, ip := range pod.Status.PodIPs {
		w.state.podIPs = append(w.state.podIPs, ip.IP)
	}
	if len(w.state.podIPs) == 0 {
		return nil, errors.New("status.podIPs: the pod has no address")
	}
	for _, addr := range k.machine.NodeAddrs() {
		w.state.hostIPs = append(w.state.hostIPs, addr.String())
	}
	pod.Status = v1.PodStatus{}
	w.addContainers(pod.Spec.InitContainers, true)
	w.addContainers(pod.Spec.Containers, false)
	return w, nil
}

func (w *worker) addContainers(list []v1.Container, init bool) {
	waiting := "ContainerCreating"
	if len(w.state.pod.Spec.InitContainers) > 0 {
		waiting = "PodInitializing"
	}
	for i := range list {
		r := &record{name: list[i].Name, init: init, sidecar: init && isSidecar(&list[i])}
		r.waits(waiting, "")
		w.state.records = append(w.state.records, r)
		w.containers = append(w.containers, &container{
			w: w, rec: r,
			out: newOutput(filepath.Join(w.dir, "logs", r.name), w.k.clock),
		})
	}
}

// begin starts the worker's goroutines.
func (w *worker) begin() {
	w.publish()
	go w.tell()
	go w.run()
}

// run is the pod's life: sandbox after sandbox until the end.
func (w *worker) run() {
	defer close(w.gone)
	stop := w.watch()
	var box podBox
	for ended := false; !ended; {
		if box == nil {
			if box = w.openBox(); box == nil {
				break
			}
		}
		box, ended = w.live(box)
	}
	stop()
	w.clean(box)
	w.k.mu.Lock()
	delete(w.k.workers, w.name)
	w.k.mu.Unlock()
}

// live runs the containers in a sandbox until they have to begin anew, in the sandbox that it returns or in a new one,
// or the pod has ended.
func (w *worker) live(box podBox) (_ podBox, ended bool) {
	l := w.newLife(box)
	defer l.cancel()
	go w.runContainers(l)
	select {
	case <-w.ending:
		w.stop(l, w.grace())
		return box, true
	case <-w.ctx.Done():
		<-l.finished
		return box, true
	case r := <-w.restarts:
		w.stop(l, w.grace())
		close(r.stopped)
		return w.checked(box), false
	case <-box.Done():
		l.cancel()
		<-l.finished
		w.event(v1.EventTypeNormal, "SandboxChanged", "", "Pod sandbox changed, it will be killed and re-created.")
		return w.closeBox(box), false
	case <-l.finished:
		return w.rest(box)
	}
}

// rest waits for what happens to a pod whose containers have all ended for good. Its sandbox is not needed.
func (w *worker) rest(box podBox) (_ podBox, ended bool) {
	box = w.closeBox(box)
	select {
	case <-w.ending:
		return box, true
	case <-w.ctx.Done():
		return box, true
	case r := <-w.restarts:
		w.change(func() { w.state.failed, w.state.failure = "", "" })
		close(r.stopped)
		return box, false
	}
}

// checked is the sandbox, or nil if it has ended.
func (w *worker) checked(box podBox) podBox {
	select {
	case <-box.Done():
		return w.closeBox(box)
	default:
		return box
	}
}

// closeBox removes the sandbox and returns none.
func (w *worker) closeBox(box podBox) podBox {
	if box == nil {
		return nil
	}
	if err := box.Close(); err != nil {
		w.event(v1.EventTypeWarning, "FailedKillPod", "", "%v", err)
	}
	w.change(func() { w.state.sandbox, w.life = false, nil })
	return nil
}

func (w *worker) newLife(box podBox) *life {
	l := &life{box: box, stop: make(chan struct{}), finished: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(w.ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.life = l
	if w.state.failed != "" {
		l.cancel()
	}
	return l
}

// stop ends a life gracefully and waits for its end.
func (w *worker) stop(l *life, grace time.Duration) {
	l.endBy(w.k.clock.Now().Add(grace))
	if grace <= 0 {
		l.cancel()
	}
	close(l.stop)
	<-l.finished
	l.cancel()
}

// grace is how long the pod's containers get to end.
func (w *worker) grace() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.endGrace >= 0 && w.state.pod.DeletionTimestamp != nil {
		return w.endGrace
	}
	return gracePeriod(w.state.pod)
}

func gracePeriod(pod *v1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return v1.DefaultTerminationGracePeriodSeconds * time.Second
}

// openBox makes the pod's volumes, cgroup and sandbox, again and again until that succeeds or the pod is to end, when
// it returns nil.
func (w *worker) openBox() podBox {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		kick := w.kicked()
		box, err := w.tryBox()
		if err == nil {
			w.change(func() { w.state.sandbox = true })
			return box
		}
		w.event(v1.EventTypeWarning, "FailedCreatePodSandBox", "", "Failed to create pod sandbox: %v", err)
		w.change(func() {
			for _, r := range w.state.records {
				if r.state.Waiting != nil && !r.ran {
					r.state.Waiting.Message = err.Error()
				}
			}
		})
		timer := w.k.clock.NewTimer(wait)
		select {
		case <-timer.C():
		case <-kick:
		case r := <-w.restarts:
			close(r.stopped)
		case <-w.ending:
		case <-w.ctx.Done():
		}
		timer.Stop()
		if w.isEnding() {
			return nil
		}
	}
}

func (w *worker) isEnding() bool {
	select {
	case <-w.ending:
		return true
	case <-w.ctx.Done():
		return true
	default:
		return false
	}
}

func (w *worker) tryBox() (podBox, error) {
	if err := os.MkdirAll(w.dir, 0o711); err != nil {
		return nil, err
	}
	src := w.source()
	if err := w.makeVolumes(src); err != nil {
		return nil, err
	}
	if err := w.writeEtc(src); err != nil {
		return nil, err
	}
	if err := w.makePodGroup(); err != nil {
		return nil, err
	}
	return w.k.machine.Pod(podSetup{
		Name: w.name.String(), Addrs: parseAddrs(src.podIPs), Hostname: kernelHostname(src.pod, w.k.cfg.DNS.Domain), Sysctls: sysctls(src.pod),
		ShareProcesses: isTrue(src.pod.Spec.ShareProcessNamespace),
	})
}

func (w *worker) makePodGroup() error {
	w.resizing.Lock()
	defer w.resizing.Unlock()
	if w.group != nil || w.k.machine.Limits() != nil {
		return nil
	}
	g, err := w.k.machine.Group(w.name.Namespace+"_"+w.name.Name, podLimits(w.podNow()))
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	w.mu.Lock()
	w.group = g
	w.mu.Unlock()
	return nil
}

// clean removes all that the pod had on the machine.
func (w *worker) clean(box podBox) {
	var errs []error
	if box != nil {
		errs = append(errs, box.Close())
	}
	w.cancel()
	for _, name := range sortedKeys(w.groups) {
		errs = append(errs, w.groups[name].Close())
	}
	if w.group != nil {
		errs = append(errs, w.group.Close())
	}
	w.refreshing.Lock()
	errs = append(errs, w.volumes.close())
	w.refreshing.Unlock()
	if errs[len(errs)-1] == nil {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closeErr = errors.Join(errs...)
}
