// Package kubelet runs Kubernetes' Pods in a sandbox as a node's kubelet does: it builds them, starts their containers
// again with a growing pause, probes them, ends them gracefully, keeps their logs, and tells their status. Words,
// defaults and numbers are those of Kubernetes 1.37's kubelet where nothing else is said.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
	"svcproxy/sandbox/image"
)

// HostPathFlag is the flag that errors name where a pod wants a folder of the machine.
const HostPathFlag = "allow-host-path"

// Config is what a Kubelet works with.
type Config struct {
	Node   *sandbox.Node
	Images *image.Store
	// Cgroups is nil where there are none. Then a pod that asks for limits is refused, or, with IgnoreLimits, runs
	// without them.
	Cgroups      *cgroup.Parent
	IgnoreLimits bool
	// Users is the range that pods' users are mapped to.
	Users sandbox.UserRange
	// Dir is the kubelet's own folder, made if need be: volumes, files that containers write, logs.
	Dir   string
	Log   *zap.Logger      // nil: none
	Clock clock.WithTicker // nil: the real one
	DNS   DNS
	// AllowHostPaths are the folders of the machine that pods may mount, with all below them.
	AllowHostPaths []string
	// Withdraw returns when no new connection goes to a pod that is to be stopped. The pod's status, or its
	// deletionTimestamp, was given to Changed before. It may be nil.
	Withdraw func(ctx context.Context, pod *v1.Pod) error
	// Changed is given a copy of a pod whose status changed, in order for each pod, and without locks; it must not
	// wait for Delete, Restart or Close. It may be nil.
	Changed func(pod *v1.Pod)
	// ReadyTimeout is how long Restart waits for a pod to be ready; 0 is 2 minutes.
	ReadyTimeout time.Duration
}

// Kubelet runs pods. Its methods may be used by several goroutines at once.
type Kubelet struct {
	cfg     Config
	machine machine
	clock   clock.WithTicker
	tokens  *tokenMaker

	mu      sync.Mutex
	closed  bool
	workers map[types.NamespacedName]*worker
	files   *files
}

// New makes a kubelet without pods. What an earlier one left in Config.Dir is removed.
func New(cfg Config) (*Kubelet, error) {
	m, err := newMachine(cfg)
	if err != nil {
		return nil, err
	}
	return newKubelet(cfg, m)
}

func newKubelet(cfg Config, m machine) (*Kubelet, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Withdraw == nil {
		cfg.Withdraw = func(context.Context, *v1.Pod) error { return nil }
	}
	if cfg.Changed == nil {
		cfg.Changed = func(*v1.Pod) {}
	}
	if cfg.ReadyTimeout == 0 {
		cfg.ReadyTimeout = 2 * time.Minute
	}
	if cfg.DNS.Domain == "" {
		cfg.DNS.Domain = "cluster.local"
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("kubelet: folder %q is not absolute", cfg.Dir)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(cfg.Dir, "pods")), os.MkdirAll(filepath.Join(cfg.Dir, "pods"), 0o711)); err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	tokens, err := newTokenMaker(cfg.Clock)
	if err != nil {
		return nil, err
	}
	return &Kubelet{
		cfg: cfg, machine: m, clock: cfg.Clock, tokens: tokens,
		workers: map[types.NamespacedName]*worker{}, files: &files{},
	}, nil
}

// Check tells what is wrong with a pod that was never started, naming the field: limits that the machine can't keep, users
// that can't exist, folders of the machine that are not allowed.
func (k *Kubelet) Check(pod *v1.Pod) error {
	if err := k.check(pod); err != nil {
		return fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	k.mu.Lock()
	w := k.workers[nameOf(pod)]
	k.mu.Unlock()
	if w != nil {
		return checkUpdate(w.podNow(), pod)
	}
	return nil
}

func (k *Kubelet) check(pod *v1.Pod) error {
	var errs []error
	for i := range pod.Spec.Volumes {
		if h := pod.Spec.Volumes[i].HostPath; h != nil {
			if _, err := allowedHostPath(h.Path, k.cfg.AllowHostPaths); err != nil {
				errs = append(errs, fmt.Errorf("spec.volumes[%d].hostPath: %w", i, err))
			}
		}
	}
	return errors.Join(append(errs, k.checkLimits(pod), k.checkUsers(pod))...)
}

// Apply runs a pod, or changes one that runs: labels, annotations, limits and images in place. A change of anything else
// is ErrImmutable, as for the API server; the same pod again is no change. The pod's addresses are its status.podIPs, and
// stay as they are. The pod is copied.
func (k *Kubelet) Apply(pod *v1.Pod) error {
	name := nameOf(pod)
	k.mu.Lock()
	w, closed := k.workers[name], k.closed
	k.mu.Unlock()
	if closed {
		return fmt.Errorf("pod %s: the kubelet is closed", name)
	}
	if w != nil {
		return w.update(pod)
	}
	if err := k.check(pod); err != nil {
		return fmt.Errorf("pod %s: %w", name, err)
	}
	w, err := newWorker(k, pod)
	if err != nil {
		return fmt.Errorf("pod %s: %w", name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.workers[name] != nil {
		return fmt.Errorf("pod %s: applied twice at once, or the kubelet is closed", name)
	}
	k.workers[name] = w
	w.begin()
	return nil
}

func nameOf(pod *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

func (k *Kubelet) worker(name types.NamespacedName) (*worker, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.workers[name]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("pod %s: %w", name, ErrNotFound)
}

// ErrNotFound is in the error about a pod that is not there.
var ErrNotFound = errors.New("not found")

func (k *Kubelet) all() []*worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*worker, 0, len(k.workers))
	for _, w := range k.workers {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *worker) int { return strings.Compare(a.name.String(), b.name.String()) })
	return out
}

// Pods are copies of all pods with their status, by name.
func (k *Kubelet) Pods() []*v1.Pod {
	var out []*v1.Pod
	for _, w := range k.all() {
		out = append(out, w.podNow())
	}
	return out
}

// Pod is a copy of a pod with its status.
func (k *Kubelet) Pod(name types.NamespacedName) (*v1.Pod, bool) {
	w, err := k.worker(name)
	if err != nil {
		return nil, false
	}
	return w.podNow(), true
}

// Delete ends a pod gracefully and removes it: it is marked as deleted, withdrawn, its containers get their preStop hooks,
// SIGTERM and, after the pod's grace period, SIGKILL. When ctx ends first, what is left is killed at once.
func (k *Kubelet) Delete(ctx context.Context, name types.NamespacedName) error {
	return k.DeleteWithin(ctx, name, -1)
}

// DeleteWithin is Delete with another grace period; less than 0 is the pod's own. It also shortens that of a Delete that
// is under way.
func (k *Kubelet) DeleteWithin(ctx context.Context, name types.NamespacedName, grace time.Duration) error {
	w, err := k.worker(name)
	if err != nil {
		return err
	}
	if err := w.delete(ctx, grace); err != nil {
		return fmt.Errorf("pod %s: %w", name, err)
	}
	return nil
}

// SetFiles gives the config maps and secrets that pods' volumes and variables name, and the Services that they are told
// of: all there are. Volumes follow at once, variables at the next start of a container.
func (k *Kubelet) SetFiles(configMaps []*v1.ConfigMap, secrets []*v1.Secret, services []*v1.Service) {
	f := &files{configMaps: map[types.NamespacedName]*v1.ConfigMap{}, secrets: map[types.NamespacedName]*v1.Secret{}, services: services}
	for _, m := range configMaps {
		f.configMaps[types.NamespacedName{Namespace: m.Namespace, Name: m.Name}] = m
	}
	for _, m := range secrets {
		f.secrets[types.NamespacedName{Namespace: m.Namespace, Name: m.Name}] = m
	}
	k.mu.Lock()
	k.files = f
	k.mu.Unlock()
	for _, w := range k.all() {
		w.refreshFiles()
	}
}

func (k *Kubelet) filesNow() *files {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files
}

// Close kills and removes all pods, all at once.
func (k *Kubelet) Close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	workers := k.all()
	errs := make(chan error, len(workers))
	for _, w := range workers {
		go func() { errs <- w.kill() }()
	}
	var all []error
	for range workers {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}
