package proxier

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/plan"
)

// fakeFlows is a connection tracking table in memory.
type fakeFlows struct {
	all      []conntrack.Flow
	fail     error
	failOwn  error
	readings int
}

func (f *fakeFlows) Open() (conntrack.Table, error) { return f, f.fail }
func (f *fakeFlows) Close() error                   { return nil }

func (f *fakeFlows) Own(context.Context, model.Family) ([]netip.Prefix, error) { return nil, f.failOwn }

func (f *fakeFlows) Flows(_ context.Context, _ model.Family, _ model.Protocol, yield func(conntrack.Flow) bool) error {
	f.readings++
	for _, flow := range f.all {
		if !yield(flow) {
			break
		}
	}
	return nil
}

func (f *fakeFlows) Delete(_ context.Context, _ model.Family, gone []conntrack.Flow) (int, error) {
	kept := f.all[:0:0]
	for _, flow := range f.all {
		stays := true
		for _, g := range gone {
			stays = stays && g != flow
		}
		if stays {
			kept = append(kept, flow)
		}
	}
	deleted := len(f.all) - len(kept)
	f.all = kept
	return deleted, nil
}

// udp makes a Service and its slice those of UDP port 53.
func udp(s *model.Service, slices ...*model.Slice) []any {
	s.Ports = []model.ServicePort{{Protocol: model.UDP, Port: 53}}
	objects := []any{s}
	for _, sl := range slices {
		sl.Ports[0].Protocol = model.UDP
		objects = append(objects, sl)
	}
	return objects
}

// to is a client's flow to 10.96.0.ip:53 that leads to 10.244.0.endpoint:53.
func to(ip, endpoint byte) conntrack.Flow {
	at := func(b, host byte, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, b, 0, host}), port)
	}
	client := at(244, 99, 4000)
	return conntrack.Flow{Protocol: model.UDP, Original: conntrack.Tuple{Source: client, Dest: at(96, ip, 53)},
		Reply: conntrack.Tuple{Source: at(244, endpoint, 53), Dest: client}, ID: uint32(ip)<<8 + uint32(endpoint)}
}

// cleanRig is a rig with a table of flows.
type cleanRig struct {
	*rig
	table *fakeFlows
	logs  *observer.ObservedLogs
}

func newCleanRig(objects ...any) *cleanRig {
	core, logs := observer.New(zap.DebugLevel)
	r := &cleanRig{rig: newRig(objects...), table: &fakeFlows{}, logs: logs}
	r.flows = newFlows(&Options{Conntrack: r.table, Clock: r.clock}, model.IPv4, zap.New(core), r.metrics)
	return r
}

// run syncs and cleans up, as the loop does.
func (r *cleanRig) run(t *testing.T, full bool) error {
	t.Helper()
	report, err := r.sync(t.Context(), full)
	if err == nil {
		r.flows.clean(t.Context(), r.pipeline, report.full)
	}
	return err
}

func (r *cleanRig) left(t *testing.T, want ...conntrack.Flow) {
	t.Helper()
	if len(r.table.all) != len(want) {
		t.Fatalf("left: %v, want %v", r.table.all, want)
	}
	for i := range want {
		if r.table.all[i] != want[i] {
			t.Fatalf("left: %v, want %v", r.table.all, want)
		}
	}
}

func TestFlowsAreCleanedByWhatWasAcknowledged(t *testing.T) {
	r := newCleanRig(udp(service("a", 1), slice("a", 53, 1, 2))...)
	r.table.all = []conntrack.Flow{to(1, 1), to(1, 9)}
	if err := r.run(t, false); err != nil {
		t.Fatal(err)
	}
	r.left(t, to(1, 1))

	r.store.Update(update(udp(service("a", 1), slice("a", 53, 2))...))
	r.kernel.fail = func(plan.Change) error { return errors.New("no buffer space") }
	if err := r.run(t, false); err == nil {
		t.Fatal("the sync did not fail")
	}
	r.left(t, to(1, 1)) // the old rules may stand
	r.kernel.fail = func(plan.Change) error { return nil }
	if err := r.run(t, false); err != nil {
		t.Fatal(err)
	}
	r.left(t)
}

// The kernel may have taken a change that failed, as when its answer was lost, and flows are made by it.
func TestFlowsOfAServiceThatWentBeforeItWasAcknowledgedGo(t *testing.T) {
	r := newCleanRig(udp(service("a", 1), slice("a", 53, 1))...)
	if err := r.run(t, false); err != nil {
		t.Fatal(err)
	}
	r.kernel.fail = func(plan.Change) error { return errors.New("no buffer space") }
	r.store.Update(update(udp(service("b", 2), slice("b", 53, 2))...))
	if err := r.run(t, false); err == nil {
		t.Fatal("the sync did not fail")
	}
	r.table.all = []conntrack.Flow{to(1, 1), to(2, 2), to(3, 3)}
	r.kernel.fail = func(plan.Change) error { return nil }
	r.store.Update(Objects{Services: map[model.ServiceName]*model.Service{service("b", 2).Name: nil}})
	if err := r.run(t, false); err != nil {
		t.Fatal(err)
	}
	r.left(t, to(1, 1), to(3, 3))
}

func TestFlowsOfAServiceInQuarantineStay(t *testing.T) {
	r := newCleanRig(udp(service("a", 1), slice("a", 53, 1))...)
	if err := r.run(t, false); err != nil {
		t.Fatal(err)
	}
	r.kernel.unrenderable = func(s *plan.Service) bool { return s.Name.Name == "a" }
	r.store.Update(update(udp(service("a", 1), slice("a", 53, 2))...))
	r.table.all = []conntrack.Flow{to(1, 1)}
	if err := r.run(t, true); err != nil {
		t.Fatal(err)
	}
	r.left(t, to(1, 1)) // its last good rules lead there
}

func TestCleanUpIsSkippedWhenThereIsNothingToFind(t *testing.T) {
	r := newCleanRig(udp(service("a", 1), slice("a", 53, 1))...)
	for step, want := range []int{1, 1, 1, 2, 3} {
		switch step {
		case 2: // one more endpoint
			r.store.Update(update(udp(service("a", 1), slice("a", 53, 1, 2))...))
		case 3: // and one less
			r.store.Update(update(udp(service("a", 1), slice("a", 53, 2))...))
		}
		if err := r.run(t, step == 4); err != nil {
			t.Fatal(err)
		}
		if r.table.readings != want {
			t.Errorf("step %d: %d readings, want %d", step, r.table.readings, want)
		}
	}
}

func TestCleanUpThatFailsIsSaidOnceAndTriedAgain(t *testing.T) {
	r := newCleanRig(udp(service("a", 1), slice("a", 53, 1))...)
	r.table.all = []conntrack.Flow{to(1, 9)}
	r.table.fail = conntrack.ErrNotPermitted
	for range 3 {
		if err := r.run(t, false); err != nil {
			t.Fatalf("the sync failed: %v", err)
		}
	}
	if n := r.logs.FilterLevelExact(zap.WarnLevel).Len(); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
	if at := r.flows.nextTry(time.Time{}); at != start.Add(4*flowsRetryFirst) {
		t.Errorf("next try at %v, want 40 s from %v", at, start)
	}
	if sooner := start.Add(time.Second); r.flows.nextTry(sooner) != sooner {
		t.Error("a sooner trial is put off")
	}
	r.table.fail = nil
	if err := r.run(t, false); err != nil {
		t.Fatal(err)
	}
	r.left(t)
	if n := r.logs.FilterMessageSnippet("clean again").Len(); n != 1 || !r.flows.nextTry(time.Time{}).IsZero() {
		t.Errorf("its end was said %d times; next try at %v", n, r.flows.nextTry(time.Time{}))
	}
	for name, want := range map[string]float64{
		"svcproxy_conntrack_errors_total": 3, "kubeproxy_conntrack_reconciler_deleted_entries_total": 1,
	} {
		if got := r.counted(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// With node ports the node's addresses are looked at even if nothing else asks for a clean-up.
func TestFailureToFindThatThereIsNothingToCleanEnds(t *testing.T) {
	objects := udp(service("a", 1), slice("a", 53, 1))
	objects[0].(*model.Service).Ports[0].NodePort = 30053
	r := newCleanRig(objects...)
	for _, fail := range []error{nil, errors.New("no addresses"), nil} {
		r.table.failOwn = fail
		if err := r.run(t, false); err != nil {
			t.Fatal(err)
		}
		if at := r.flows.nextTry(time.Time{}); at.IsZero() != (fail == nil) {
			t.Errorf("failure %v: next try at %v", fail, at)
		}
	}
	if r.table.readings != 1 {
		t.Errorf("%d readings, want 1", r.table.readings)
	}
	if n := r.logs.FilterMessageSnippet("clean again").Len(); n != 1 {
		t.Errorf("its end was said %d times", n)
	}
}

// counted returns the value of the only counter of a name.
func (r *cleanRig) counted(t *testing.T, name string) float64 {
	t.Helper()
	families, err := r.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.Metric) == 1 {
			return f.Metric[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no %s, or several", name)
	return 0
}

func TestWithoutConntrackNothingIsCleaned(t *testing.T) {
	r := newRig(udp(service("a", 1), slice("a", 53, 1))...)
	r.mustSync(t)
	r.flows.clean(t.Context(), r.pipeline, true)
	if at := r.flows.nextTry(start); at != start {
		t.Errorf("next try at %v", at)
	}
}
