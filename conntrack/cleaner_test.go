package conntrack

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// started returns a cleaner that has seen a world's plan be acknowledged.
func (w *world) started(k Kernel) (*Cleaner, *plan.Plan) {
	c, p := NewCleaner(w.f, k), w.plan()
	c.Acknowledged(plan.Change{Config: w.config, Full: true, Services: p.Services}, nil)
	return c, p
}

// acknowledge tells a cleaner of the world as it is now.
func (w *world) acknowledge(c *Cleaner, was *plan.Plan) *plan.Plan {
	p := w.plan()
	changed := map[model.ServiceName]*plan.Service{}
	for name := range was.Services {
		changed[name] = p.Services[name]
	}
	c.Acknowledged(plan.Change{Config: w.config, Services: changed}, was.Services)
	return p
}

func (w *world) kernel(flows ...Flow) *fakeKernel {
	return &fakeKernel{flows: flows, own: []netip.Prefix{netip.PrefixFrom(nodeAddr(w.f), w.f.Bits())}}
}

func clean(t *testing.T, c *Cleaner, p *plan.Plan) Report {
	t.Helper()
	report, err := c.Clean(t.Context(), Occasion{Plan: *p})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestRestartWithoutClearingHealthyFlows(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var healthy []Flow
		for _, frontend := range w.frontends() {
			healthy = append(healthy, flow(w.f, frontend, w.pod(3)), flow(w.f, frontend, w.pod(4)))
		}
		k := w.kernel(append(healthy, flow(w.f, w.to(96, 10, 53), w.pod(9)), flow(w.f, w.to(96, 77, 53), w.pod(3)))...)
		c, p := w.started(k)
		if r := clean(t, c, p); r.Deleted != 2 || len(k.flows) != len(healthy) {
			t.Errorf("%+v, %d flows left; want 2 deleted of %d", r, len(k.flows), len(healthy)+2)
		}
		if r := clean(t, c, p); !r.Skipped || k.readings != 1 {
			t.Errorf("%+v after %d readings: there was nothing to find", r, k.readings)
		}
		if r, err := c.Clean(t.Context(), Occasion{Plan: *p, Full: true}); r.Skipped || err != nil {
			t.Errorf("a full one: %+v, %v", r, err)
		}
	})
}

func TestRangesCountOnceAllIsProgrammed(t *testing.T) {
	w := newWorld(model.IPv4)
	k := w.kernel(flow(w.f, w.to(96, 77, 53), w.pod(3)))
	c, p := w.started(k)
	for _, partial := range []bool{true, true, false} {
		if len(k.flows) != 1 {
			t.Fatal("a flow that may be of a Service that is not programmed is gone")
		}
		if _, err := c.Clean(t.Context(), Occasion{Plan: *p, Partial: partial}); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.flows) != 0 {
		t.Errorf("left: %v", k.flows)
	}
	k.flows = []Flow{flow(w.f, w.to(96, 77, 53), w.pod(3))}
	if _, err := c.Clean(t.Context(), Occasion{Plan: *p, Full: true}); err != nil || len(k.flows) != 1 {
		t.Errorf("%v; %d flows left, want 1: after the start, what is not a Service's is others'", err, len(k.flows))
	}
}

// An API server may give its ServiceCIDRs after Services and slices, and each by itself.
func TestRangesThatBecomeKnownLaterCountToo(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		all := w.config.ServiceCIDRs
		k := w.kernel(flow(w.f, w.to(96, 77, 53), w.pod(3)))
		w.config.ServiceCIDRs = nil
		c, p := w.started(k)
		if r := clean(t, c, p); r.Skipped || r.Deleted != 0 {
			t.Errorf("%+v while no range is known", r)
		}
		if r := clean(t, c, p); !r.Skipped {
			t.Errorf("%+v though no range came", r)
		}
		p.Config.ServiceCIDRs = all
		if r := clean(t, c, p); r.Deleted != 1 || len(k.flows) != 0 {
			t.Errorf("%+v, left: %v", r, k.flows)
		}
		p.Config.ServiceCIDRs = nil
		if r := clean(t, c, p); !r.Skipped {
			t.Errorf("%+v though a range went", r)
		}
		p.Config.ServiceCIDRs = all
		if r := clean(t, c, p); !r.Skipped {
			t.Errorf("%+v though the range was searched before", r)
		}
	})
}

func TestTombstonesLastUntilACleanUpSucceeds(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		k := w.kernel()
		c, p := w.started(k)
		clean(t, c, p)
		k.flows = []Flow{flow(w.f, w.to(50, 1, 53), w.pod(3)), flow(w.f, w.to(18, 2, 30053), w.pod(4))}
		w.service = nil
		p = w.acknowledge(c, p)
		refused := errors.New("refused")
		for _, fail := range []func(){
			func() { k.open = func() error { return refused } },
			func() { k.open, k.list = nil, func(int) error { return refused } },
			func() { k.list, k.remove = nil, func([]Flow) error { return refused } },
		} {
			fail()
			if _, err := c.Clean(t.Context(), Occasion{Plan: *p}); !errors.Is(err, refused) {
				t.Fatalf("error %v, want %v", err, refused)
			}
		}
		k.remove = nil
		if r := clean(t, c, p); r.Deleted != 2 || len(k.flows) != 0 {
			t.Errorf("%+v; left: %v", r, k.flows)
		}
		if r := clean(t, c, p); !r.Skipped {
			t.Errorf("%+v though there are no tombstones any more", r)
		}
		if k.left != 0 {
			t.Errorf("%d tables were not closed", k.left)
		}
	})
}

// Where the table can't be read, a node port that comes and goes must not fill the memory.
func TestTombstonesAreAsManyAsFrontends(t *testing.T) {
	w := newWorld(model.IPv4)
	c, p := w.started(w.kernel())
	service, frontends := w.service, len(w.frontends())
	for range 10 {
		w.service = nil
		gone := w.acknowledge(c, p)
		c.Acknowledged(plan.Change{Config: w.config, Services: p.Services}, gone.Services)
		w.service = service
	}
	if got := len(c.journal.tombstones); got != frontends {
		t.Errorf("%d tombstones, want %d", got, frontends)
	}
	for key, places := range c.journal.tombstones {
		if len(places) > 1 {
			t.Errorf("%v: %d places, want 1", key, len(places))
		}
	}
}

// While the table is listed an endpoint is replaced, and the kernel ends the list before its end. The rules are
// as they were until the next sync, and so are the flows they make.
func TestEndpointsChangedDuringADump(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var healthy, stale []Flow
		for range 200 {
			healthy = append(healthy, flow(w.f, w.to(96, 10, 53), w.pod(3)))
			stale = append(stale, flow(w.f, w.to(96, 10, 53), w.pod(9)))
		}
		var all []Flow
		for i := range healthy {
			all = append(all, healthy[i], stale[i])
		}
		k := w.kernel(all...)
		c, p := w.started(k)
		k.list = func(listed int) error {
			if listed == 150 && k.readings == 1 {
				w.slice.Endpoints[0] = *w.endpoint(7, "node-a") // the API says so; nothing is programmed
				k.flows = append(k.flows, flow(w.f, w.to(96, 10, 53), w.pod(4)))
				return ErrInterrupted
			}
			return nil
		}
		r := clean(t, c, p)
		if k.readings != 2 || r.Deleted != len(stale) {
			t.Errorf("%d readings, %+v; want 2, and %d deleted", k.readings, r, len(stale))
		}
		if len(k.flows) != len(healthy)+1 {
			t.Errorf("%d flows left, want %d", len(k.flows), len(healthy)+1)
		}
		p = w.acknowledge(c, p)
		k.flows = append(k.flows, flow(w.f, w.to(96, 10, 53), w.pod(7)))
		if r := clean(t, c, p); r.Deleted != len(healthy) || len(k.flows) != 2 {
			t.Errorf("%+v, %d flows left; want %d deleted and 2 left", r, len(k.flows), len(healthy))
		}
	})
}

func TestListThatIsAlwaysInterruptedIsAnError(t *testing.T) {
	w := newWorld(model.IPv4)
	k := w.kernel(flow(w.f, w.to(96, 10, 53), w.pod(9)), flow(w.f, w.to(96, 10, 53), w.pod(3)))
	k.list = func(listed int) error {
		if listed == len(k.flows) {
			return kernelError(-int32(syscall.EINTR))
		}
		return nil
	}
	c, p := w.started(k)
	r, err := c.Clean(t.Context(), Occasion{Plan: *p})
	if !errors.Is(err, ErrInterrupted) || k.readings != maxReadings || r.Deleted != 1 || len(k.flows) != 1 {
		t.Errorf("%v after %d readings, %+v, %d flows left", err, k.readings, r, len(k.flows))
	}
	k.list = nil
	if r := clean(t, c, p); r.Skipped {
		t.Error("not tried again")
	}
}

func TestChurnOfTCPReadsNothing(t *testing.T) {
	w := newWorld(model.IPv4)
	w.service.Ports[0].Protocol, w.slice.Ports[0].Protocol = model.TCP, model.TCP
	k := w.kernel()
	c, p := w.started(k)
	clean(t, c, p)
	w.slice.Endpoints = w.slice.Endpoints[:1]
	p = w.acknowledge(c, p)
	w.service = nil
	p = w.acknowledge(c, p)
	if r := clean(t, c, p); !r.Skipped || k.readings != 1 {
		t.Errorf("%+v, %d readings", r, k.readings)
	}
}

func TestAddressThatTheNodeGainsMayHideStaleFlows(t *testing.T) {
	w := newWorld(model.IPv4)
	k := w.kernel()
	c, p := w.started(k)
	clean(t, c, p)
	to := w.to(18, 3, 30053)
	k.flows = []Flow{flow(w.f, to, to)}
	if r := clean(t, c, p); !r.Skipped {
		t.Errorf("%+v without a reason", r)
	}
	k.own = append(k.own, netip.PrefixFrom(to.Addr(), w.f.Bits()))
	if r := clean(t, c, p); r.Deleted != 1 {
		t.Errorf("%+v, want 1 deleted", r)
	}
}

// endless lists n flows, every thousandth of them stale, without keeping any.
type endless struct {
	*world
	n, deleted int
}

func (e *endless) Open() (Table, error) { return e, nil }

func (e *endless) Flows(_ context.Context, _ model.Family, _ model.Protocol, yield func(Flow) bool) error {
	f := flow(e.f, e.to(96, 10, 53), e.pod(3))
	healthy, stale := e.pod(3), e.pod(9)
	for i := range e.n {
		f.Reply.Source, f.ID = healthy, uint32(i)
		if i%1000 == 0 {
			f.Reply.Source = stale
		}
		if !yield(f) {
			return nil
		}
	}
	return nil
}

func (e *endless) Delete(_ context.Context, _ model.Family, flows []Flow) (int, error) {
	e.deleted += len(flows)
	return len(flows), nil
}

func (e *endless) Own(context.Context, model.Family) ([]netip.Prefix, error) { return nil, nil }
func (e *endless) Close() error                                              { return nil }

// allocated returns how many bytes fn allocates.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestAMillionFlowsCostNoMemory(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		k := &endless{world: w, n: 1_000_000}
		c, p := w.started(k)
		var r Report
		bytes := allocated(func() { r = clean(t, c, p) })
		if r.Read != k.n || r.Deleted != k.n/1000 || k.deleted != r.Deleted {
			t.Errorf("%+v, %d deleted of %d", r, k.deleted, k.n)
		}
		if bytes > 64<<10 {
			t.Errorf("%d bytes were allocated", bytes)
		}
	})
}
