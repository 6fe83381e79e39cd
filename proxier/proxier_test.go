package proxier

import (
	"context"
	"errors"
	"maps"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	clocktesting "k8s.io/utils/clock/testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// sourceFunc is a source.
type sourceFunc func(context.Context, Sink) error

func (f sourceFunc) Run(ctx context.Context, sink Sink) error { return f(ctx, sink) }

// running is a Proxier at work with fake kernels and a fake clock.
type running struct {
	*Proxier
	clock   *clocktesting.FakeClock
	kernels map[model.Family]*fakeKernel
	metrics *Metrics
	logs    *observer.ObservedLogs
}

func run(t *testing.T, prepare func(*Options, *running)) *running {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	r := &running{
		clock:   clocktesting.NewFakeClock(start),
		kernels: map[model.Family]*fakeKernel{model.IPv4: newFakeKernel(), model.IPv6: newFakeKernel()},
		metrics: NewMetrics(),
		logs:    logs,
	}
	o := Options{
		Log: zap.New(core), Clock: r.clock, Metrics: r.metrics, BackendName: "nftables", MinSync: DefaultMinSync, NodeName: "node",
		Backends: map[model.Family]Backend{model.IPv4: r.kernels[model.IPv4], model.IPv6: r.kernels[model.IPv6]},
		Source: sourceFunc(func(ctx context.Context, sink Sink) error {
			sink.Synced()
			<-ctx.Done()
			return ctx.Err()
		}),
	}
	prepare(&o, r)
	var err error
	if r.Proxier, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
		for family, k := range r.kernels {
			k.obeyed(t)
			if !k.closed {
				t.Errorf("the backend of %s was not closed", family)
			}
		}
	})
	return r
}

// pass lets time pass in steps, until a condition holds.
func (r *running) pass(t *testing.T, what string, holds func() bool) {
	t.Helper()
	eventually(t, what, func() bool {
		r.clock.Step(50 * time.Millisecond)
		return holds()
	})
}

func (r *running) metric(t *testing.T, line string) bool {
	t.Helper()
	w := httptest.NewRecorder()
	r.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return strings.Contains(w.Body.String(), line)
}

func TestNothingIsProgrammedBeforeTheSourceHasSynced(t *testing.T) {
	given, synced := make(chan struct{}), make(chan struct{})
	r := run(t, func(o *Options, _ *running) {
		o.Source = sourceFunc(func(ctx context.Context, sink Sink) error {
			sink.Update(update(service("a", 1)))
			close(given)
			<-synced
			sink.Synced()
			<-ctx.Done()
			return ctx.Err()
		})
	})
	<-given
	r.clock.Step(time.Hour)
	if n := r.kernels[model.IPv4].attempts(); n > 0 {
		t.Errorf("%d attempts before Synced", n)
	}
	close(synced)
	eventually(t, "programmed", func() bool { return len(r.kernels[model.IPv4].programmed()) == 1 })
}

func TestAFamilyThatFailsDoesNotBlockTheOther(t *testing.T) {
	r := run(t, func(_ *Options, r *running) {
		r.kernels[model.IPv6].fail = func(plan.Change) error { return errors.New("no IPv6") }
	})
	r.store.Update(update(service("a", 1)))
	r.pass(t, "IPv4 programmed", func() bool { return len(r.kernels[model.IPv4].programmed()) == 1 })
	r.pass(t, "IPv6 retried", func() bool { return r.kernels[model.IPv6].attempts() > 3 })
	if s := r.Status(); s.Families[model.IPv4].Err != nil || s.Families[model.IPv6].Err == nil || s.Families[model.IPv4].Synced.IsZero() {
		t.Errorf("status %+v", s)
	}
	if !r.metric(t, `svcproxy_sync_errors_total{backend="nftables",family="IPv6"}`) {
		t.Error("the failures are not counted")
	}
}

func TestDriftIsRepairedLoggedAndCounted(t *testing.T) {
	r := run(t, func(*Options, *running) {})
	k := r.kernels[model.IPv4]
	r.store.Update(update(service("a", 1), service("b", 2)))
	r.pass(t, "programmed", func() bool { return len(k.programmed()) == 2 })
	k.disturb(named("a"))
	k.drifted <- "somebody deleted a rule"
	before := r.clock.Now()
	r.pass(t, "repaired", func() bool { return len(k.programmed()) == 2 })
	if took := r.clock.Since(before); took > 10*time.Second {
		t.Errorf("the repair took %v", took) // the fake clock runs ahead of goroutines
	}
	eventually(t, "logged and counted", func() bool {
		return r.logs.FilterMessage("repaired what somebody else had changed").Len() == 1 &&
			r.metric(t, `svcproxy_drift_repaired_total{backend="nftables",family="IPv4"} 1`)
	})
}

func TestAFightIsReportedAndBackedOff(t *testing.T) {
	r := run(t, func(*Options, *running) {})
	k := r.kernels[model.IPv4]
	r.store.Update(update(service("a", 1)))
	r.pass(t, "programmed", func() bool { return len(k.programmed()) == 1 })
	r.pass(t, "a fight", func() bool {
		k.disturb(named("a"))
		k.drifted <- "a second proxy"
		return r.Status().Families[model.IPv4].Fighting
	})
	if !r.metric(t, `svcproxy_fighting{backend="nftables",family="IPv4"} 1`) {
		t.Error("the fight is not in the metrics")
	}
	eventually(t, "peace", func() bool {
		r.clock.Step(10 * time.Second)
		return !r.Status().Families[model.IPv4].Fighting && len(k.programmed()) == 1
	})
}

func TestAWatchThatEndsIsRestartedAndEverythingCompared(t *testing.T) {
	r := run(t, func(*Options, *running) {})
	k := r.kernels[model.IPv4]
	r.store.Update(update(service("a", 1)))
	r.pass(t, "programmed", func() bool { return len(k.programmed()) == 1 })
	k.disturb(named("a"))
	k.drifted <- "" // ends the watch
	r.pass(t, "repaired", func() bool { return len(k.programmed()) == 1 })
}

func TestAFullComparisonComesByItself(t *testing.T) {
	r := run(t, func(*Options, *running) {})
	k := r.kernels[model.IPv4]
	r.store.Update(update(service("a", 1)))
	r.pass(t, "programmed", func() bool { return len(k.programmed()) == 1 })
	k.disturb(named("a"))
	eventually(t, "repaired", func() bool {
		r.clock.Step(10 * time.Second)
		return len(k.programmed()) == 1
	})
}

func TestASourceThatFailsEndsTheProxier(t *testing.T) {
	broken := errors.New("broken")
	p, err := New(Options{
		Log: zap.NewNop(), Backends: map[model.Family]Backend{model.IPv4: newFakeKernel()},
		Source: sourceFunc(func(context.Context, Sink) error { return broken }),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Run returned %v", err)
	}
}

func TestConcurrentChangesAllArrive(t *testing.T) {
	r := run(t, func(o *Options, _ *running) { o.MinSync = 0 })
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 200 {
				name := string(rune('a'+w)) + string(rune('a'+i%20))
				r.store.Update(update(service(name, byte(w*20+i%20)), slice(name, uint16(8000+i), byte(1+i%200))))
				_ = r.Status()
			}
		})
	}
	writers.Wait()
	batch := r.store.Tracker(model.IPv4).Take()
	want := plan.Build(Settings{}.Config(model.IPv4, batch.Node, nil), batch.Inputs).Services
	eventually(t, "everything programmed", func() bool {
		return maps.EqualFunc(r.kernels[model.IPv4].programmed(), want, sameDecision)
	})
}
