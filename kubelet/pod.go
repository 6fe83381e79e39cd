package kubelet

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// runContainers starts the init containers one after the other, then all others, and closes l.finished when none runs
// and none will.
func (w *worker) runContainers(l *life) {
	defer close(l.finished)
	w.reset()
	var sidecars []*sidecar
	ok := true
	for _, c := range w.containers {
		if !ok || !c.rec.init {
			break
		}
		if !c.rec.sidecar {
			ok = c.loop(l, l.stop)
			continue
		}
		s := &sidecar{c: c, stop: make(chan struct{}), done: make(chan struct{})}
		sidecars = append(sidecars, s)
		go s.run(l)
		ok = s.started(l)
	}
	if ok {
		w.change(func() {
			for _, r := range w.state.records {
				if !r.init && r.state.Waiting != nil && r.state.Waiting.Reason == "PodInitializing" {
					r.state.Waiting.Reason = "ContainerCreating"
				}
			}
		})
		var group sync.WaitGroup
		for _, c := range w.containers {
			if !c.rec.init {
				group.Go(func() { c.loop(l, l.stop) })
			}
		}
		group.Wait()
	}
	w.stopSidecars(l, sidecars)
	w.publish()
}

// stopSidecars ends them in the reverse of their order, within what is left of the grace period.
func (w *worker) stopSidecars(l *life, sidecars []*sidecar) {
	if !ended(l, l.stop) {
		l.endBy(w.k.clock.Now().Add(w.grace())) // the pod's work is done
	}
	for _, s := range slices.Backward(sidecars) {
		close(s.stop)
		<-s.done
	}
}

// sidecar is an init container that goes on running beside the others.
type sidecar struct {
	c          *container
	stop, done chan struct{}
}

func (s *sidecar) run(l *life) {
	defer close(s.done)
	s.c.loop(l, s.stop)
}

// started waits until the sidecar counts as started; false is the end of the life.
func (s *sidecar) started(l *life) bool {
	for {
		w := s.c.w
		w.mu.Lock()
		started, next := s.c.rec.started, w.next
		w.mu.Unlock()
		if started {
			return true
		}
		select {
		case <-next:
		case <-s.done:
			return false
		case <-l.stop:
			return false
		case <-l.ctx.Done():
			return false
		}
	}
}

// reset begins another life of the containers: the init containers run again.
func (w *worker) reset() {
	waiting := "ContainerCreating"
	if w.containers[0].rec.init {
		waiting = "PodInitializing"
	}
	w.change(func() {
		for _, r := range w.state.records {
			r.passed = false
			if r.state.Waiting == nil || r.state.Waiting.Message != "" {
				r.waits(waiting, "")
			}
		}
	})
	for _, c := range w.containers {
		c.failed, c.pace = time.Time{}, backoff{}
	}
}

// change changes what the status is computed from and publishes what becomes of it.
func (w *worker) change(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	w.publish()
}

// publish computes the status, and has Changed told if it is another.
func (w *worker) publish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.state.pod.DeepCopy()
	pod.Status = w.state.status(w.k.clock.Now())
	w.state.pod = pod
	w.version++
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// tell gives changes to Changed, one after the other, until the pod is gone.
func (w *worker) tell() {
	defer close(w.quiet)
	var last *v1.Pod
	for {
		select {
		case <-w.dirty:
		case <-w.gone:
			w.hasTold(^uint64(0))
			return
		}
		w.mu.Lock()
		pod, version := w.state.pod, w.version
		w.mu.Unlock()
		if last == nil || !apiequality.Semantic.DeepEqual(last, pod) {
			w.k.cfg.Changed(pod.DeepCopy())
		}
		last = pod
		w.hasTold(version)
	}
}

// hasTold wakes those who wait for a change to be told.
func (w *worker) hasTold(version uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = version
	close(w.next)
	w.next = make(chan struct{})
}

// flush waits until Changed has had all changes until now.
func (w *worker) flush() {
	w.mu.Lock()
	want := w.version
	for w.told < want {
		next := w.next
		w.mu.Unlock()
		select {
		case <-next:
		case <-w.quiet:
			return
		}
		w.mu.Lock()
	}
	w.mu.Unlock()
}

// podNow is a copy of the pod with its status.
func (w *worker) podNow() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.pod.DeepCopy()
}

// spec is the container's spec now. It is not to be changed.
func (w *worker) spec(name string) *v1.Container {
	w.mu.Lock()
	defer w.mu.Unlock()
	return containerOf(w.state.pod, name)
}

func (w *worker) policy() v1.RestartPolicy {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.pod.Spec.RestartPolicy
}

func (w *worker) addresses() []string { return w.state.podIPs } // never change

func (w *worker) endedAt(r *record) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return r.endedAt()
}

func (w *worker) restartsOf(r *record) int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return r.restarts
}

func (w *worker) groupOf(name string) group {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.groups[name]
}

// kicked is closed when files change the next time.
func (w *worker) kicked() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kick
}

// containerNamed is the name of a container; the only one's, or the default container's, if none is given.
func (w *worker) containerNamed(name string) (string, error) {
	pod := w.podNow()
	if name == "" {
		name = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	if name == "" {
		name = pod.Spec.Containers[0].Name
	}
	if containerOf(pod, name) == nil {
		return "", fmt.Errorf("pod %s: container %q: %w", w.name, name, ErrNotFound)
	}
	return name, nil
}

func (w *worker) container(name string) (*container, error) {
	name, err := w.containerNamed(name)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(w.containers, func(c *container) bool { return c.rec.name == name })
	return w.containers[i], nil
}

func (w *worker) containerDir(name string) string { return filepath.Join(w.dir, "containers", name) }
func (w *worker) terminationFile(name string) string {
	return filepath.Join(w.containerDir(name), "termination-log")
}
func (w *worker) etc() string { return filepath.Join(w.dir, "etc") }

// source is what variables and files are computed from, now.
func (w *worker) source() *source {
	pod := w.podNow()
	return &source{
		pod: pod, nodeName: pod.Spec.NodeName, hostIPs: w.state.hostIPs, podIPs: w.state.podIPs,
		capacity: w.k.machine.Capacity(), files: w.k.filesNow(), token: w.k.tokens,
	}
}

func (w *worker) makeVolumes(src *source) error {
	w.refreshing.Lock()
	defer w.refreshing.Unlock()
	return w.volumes.prepare(src)
}

// refreshFiles rewrites the volumes of files of a pod that has them already, and wakes containers that wait for some.
func (w *worker) refreshFiles() {
	w.mu.Lock()
	close(w.kick)
	w.kick = make(chan struct{})
	sandbox := w.state.sandbox
	w.mu.Unlock()
	if !sandbox {
		return // they are made with the sandbox
	}
	w.refreshing.Lock()
	defer w.refreshing.Unlock()
	if w.isGone() {
		return
	}
	if err := w.volumes.update(w.source()); err != nil {
		w.event(v1.EventTypeWarning, "FailedMount", "", "%v", err)
	}
}

func (w *worker) isGone() bool { return w.ctx.Err() != nil }

func (w *worker) writeEtc(src *source) error {
	resolv, warnings := w.k.cfg.DNS.resolvConf(src.pod)
	for _, text := range warnings {
		w.event(v1.EventTypeWarning, "DNSConfigForming", "", "%s", text)
	}
	return writeEtc(w.etc(), w.k.machine, map[string]string{
		"resolv.conf": resolv,
		"hostname":    hostname(src.pod) + "\n",
		"hosts":       etcHosts(src.pod, src.podIPs, w.k.cfg.DNS.Domain),
	})
}

func sysctls(pod *v1.Pod) map[string]string {
	out := map[string]string{}
	if pod.Spec.SecurityContext != nil {
		for _, s := range pod.Spec.SecurityContext.Sysctls {
			out[s.Name] = s.Value
		}
	}
	return out
}

func parseAddrs(ips []string) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip); err == nil {
			out = append(out, addr)
		}
	}
	return out
}
