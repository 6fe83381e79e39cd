package proxier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	clocktesting "k8s.io/utils/clock/testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// fakeKernel is a backend and a kernel as strict as a real one: it takes no two holders of a frontend, no
// incremental change where it doesn't hold what was acknowledged, and none before a full one.
type fakeKernel struct {
	mu     sync.Mutex
	holds  map[model.ServiceName]*plan.Service
	acked  map[model.ServiceName]*plan.Service
	config plan.Config
	ever   bool // a full change was acknowledged
	broken bool // an error left it in an unknown state

	// refuses tells which Services the kernel refuses, unrenderable which the backend can't render.
	refuses, unrenderable func(*plan.Service) bool
	// fail is called before a change and may fail it.
	fail func(plan.Change) error
	// broke are the rules of the Backend contract that were broken.
	broke   []string
	applied []plan.Change
	tries   int
	closed  bool
	drifted chan string
}

func newFakeKernel() *fakeKernel {
	never := func(*plan.Service) bool { return false }
	return &fakeKernel{
		holds: map[model.ServiceName]*plan.Service{}, acked: map[model.ServiceName]*plan.Service{},
		refuses: never, unrenderable: never,
		fail:    func(plan.Change) error { return nil },
		drifted: make(chan string),
	}
}

func (k *fakeKernel) Apply(_ context.Context, c plan.Change) (plan.Result, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tries++
	k.check(c)
	if err := k.fail(c); err != nil {
		k.broken = true
		for name, s := range c.Services { // some of it may have been taken
			if k.put(name, s); len(name.Name)%2 == 0 {
				break
			}
		}
		return plan.Result{}, err
	}
	for name, s := range c.Services {
		if s != nil && k.unrenderable(s) {
			return plan.Result{}, fmt.Errorf("render: %w", &plan.ServiceError{Service: name, Err: errors.New("odd")})
		}
	}
	next, result := k.next(c)
	if err := k.refuse(c, next); err != nil {
		return plan.Result{}, fmt.Errorf("commit: %w", &plan.RefusedError{Err: err})
	}
	k.holds, k.acked, k.config = next, maps.Clone(next), c.Config
	if c.Full {
		k.ever, k.broken = true, false
	}
	k.applied = append(k.applied, c)
	return result, nil
}

// check notes how a change breaks the contract.
func (k *fakeKernel) check(c plan.Change) {
	if !c.Full && (!k.ever || k.broken) {
		k.broke = append(k.broke, "an incremental change where a full one is needed")
	}
	if !c.Full && !c.Config.Equal(k.config) {
		k.broke = append(k.broke, "an incremental change with another configuration")
	}
	if !c.Full && len(c.Hold) > 0 {
		k.broke = append(k.broke, "an incremental change that holds")
	}
	for name := range c.Hold {
		if _, both := c.Services[name]; both {
			k.broke = append(k.broke, "a held Service in Services")
		}
	}
}

// next returns what the kernel would hold after a change.
func (k *fakeKernel) next(c plan.Change) (map[model.ServiceName]*plan.Service, plan.Result) {
	next := map[model.ServiceName]*plan.Service{}
	var result plan.Result
	if !c.Full {
		next = maps.Clone(k.holds)
	} else {
		for name := range c.Hold {
			if s := k.acked[name]; s != nil {
				next[name] = s
			}
		}
		result.Drift = k.drift()
		if result.Drift > 0 {
			result.Example = "a rule"
		}
	}
	for name, s := range c.Services {
		if s == nil {
			delete(next, name)
		} else {
			next[name] = s
		}
		result.Writes++
	}
	return next, result
}

func (k *fakeKernel) drift() int {
	if !k.ever {
		return 0
	}
	n := 0
	for name, s := range k.acked {
		if !sameDecision(k.holds[name], s) {
			n++
		}
	}
	for name := range k.holds {
		if k.acked[name] == nil {
			n++
		}
	}
	return n
}

func (k *fakeKernel) refuse(c plan.Change, next map[model.ServiceName]*plan.Service) error {
	holder := map[plan.FrontendKey]model.ServiceName{}
	for name, s := range next {
		for key := range frontends(s) {
			if other, taken := holder[key]; taken {
				return fmt.Errorf("file exists: %v of %s and %s", key, name, other)
			}
			holder[key] = name
		}
	}
	for name, s := range c.Services {
		if s != nil && k.refuses(s) {
			return errors.New("invalid argument")
		}
		if !c.Full && !sameDecision(k.holds[name], k.acked[name]) {
			return errors.New("no such file or directory")
		}
	}
	return nil
}

func (k *fakeKernel) put(name model.ServiceName, s *plan.Service) {
	if s == nil {
		delete(k.holds, name)
	} else {
		k.holds[name] = s
	}
}

func (k *fakeKernel) Watch(ctx context.Context, drifted func(string)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case what := <-k.drifted:
			if what == "" {
				return errors.New("no buffer space available")
			}
			drifted(what)
		}
	}
}

func (k *fakeKernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

// programmed returns the names that the kernel holds.
func (k *fakeKernel) programmed() map[model.ServiceName]*plan.Service {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.holds)
}

// disturb changes the kernel behind the backend's back.
func (k *fakeKernel) disturb(name model.ServiceName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.holds, name)
}

func (k *fakeKernel) attempts() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tries
}

// obeyed fails the test if the contract of Backend was broken.
func (k *fakeKernel) obeyed(t testing.TB) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, what := range k.broke {
		t.Errorf("the pipeline asked for %s", what)
	}
}

func named(name string) model.ServiceName { return model.ServiceName{Namespace: "default", Name: name} }

// service makes a Service at 10.96.0.ip:80.
func service(name string, ip byte) *model.Service {
	return &model.Service{
		Name:       named(name),
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, ip})},
		Ports:      []model.ServicePort{{Protocol: model.TCP, Port: 80}},
	}
}

// slice makes a Service's slice with ready endpoints 10.244.0.x.
func slice(of string, port uint16, endpoints ...byte) *model.Slice {
	s := &model.Slice{
		Name: model.SliceName{Namespace: "default", Name: of + "-1"}, Service: named(of), Family: model.IPv4,
		Ports: []model.SlicePort{{Protocol: model.TCP, Port: port}},
	}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 244, 0, e}), Ready: true, Serving: true})
	}
	return s
}

// update makes an update that sets Services and slices.
func update(objects ...any) Objects {
	u := *NewObjects()
	for _, o := range objects {
		switch o := o.(type) {
		case *model.Service:
			u.Services[o.Name] = o
		case *model.Slice:
			u.Slices[o.Name] = o
		case model.ServiceName:
			u.Services[o] = nil
		case model.SliceName:
			u.Slices[o] = nil
		}
	}
	return u
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// rig is a pipeline with a fake kernel and a fake clock.
type rig struct {
	*pipeline
	store  *Store
	kernel *fakeKernel
	clock  *clocktesting.FakeClock
}

func newRig(objects ...any) *rig {
	store, kernel, clock := NewStore("node"), newFakeKernel(), clocktesting.NewFakeClock(start)
	o := &Options{Log: zap.NewNop(), Clock: clock, Metrics: NewMetrics(), BackendName: "nftables", FullSync: DefaultFullSync}
	r := &rig{pipeline: newLoop(o, store, model.IPv4, kernel, &noteLog{log: o.Log}).pipeline, store: store, kernel: kernel, clock: clock}
	store.Update(update(objects...))
	return r
}

// mustSync syncs without full comparison and fails the test on an error.
func (r *rig) mustSync(t testing.TB) syncReport {
	t.Helper()
	report, err := r.sync(t.Context(), false)
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	return report
}

// wanted returns what the kernel should hold.
func (r *rig) wanted() map[model.ServiceName]*plan.Service {
	batch := r.store.Tracker(model.IPv4).Take()
	return plan.Build(r.settings.Config(model.IPv4, batch.Node, batch.ServiceCIDRs), batch.Inputs).Services
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
