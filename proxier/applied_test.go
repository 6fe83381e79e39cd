package proxier

import (
	"context"
	"errors"
	"strings"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// appliedIn calls Applied and lets time pass until it returns.
func (r *running) appliedIn(t *testing.T, ctx context.Context) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Applied(ctx) }()
	var err error
	r.pass(t, "Applied returned", func() bool {
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	return err
}

func TestAppliedWaitsForBothFamilies(t *testing.T) {
	r := run(t, func(*Options, *running) {})
	for i := range byte(20) {
		name := string(rune('a' + i))
		r.store.Update(update(service(name, i+1), slice(name, 8080, i+1)))
		if err := r.appliedIn(t, t.Context()); err != nil {
			t.Fatal(err)
		}
		for family, k := range r.kernels {
			if k.programmed()[named(name)] == nil {
				t.Fatalf("%s: %s is not programmed after Applied", family, name)
			}
		}
	}
}

func TestAppliedReturnsAtOnceWhenNothingChanged(t *testing.T) {
	r := run(t, func(*Options, *running) {})
	r.store.Update(update(service("a", 1)))
	if err := r.appliedIn(t, t.Context()); err != nil {
		t.Fatal(err)
	}
	tries := r.kernels[model.IPv4].attempts()
	r.store.Update(update(service("a", 1)))
	if err := r.Applied(t.Context()); err != nil { // no time passes
		t.Fatal(err)
	}
	if n := r.kernels[model.IPv4].attempts(); n != tries {
		t.Errorf("%d attempts for no change", n-tries)
	}
}

func TestAppliedWaitsForTheRetryOfAFailedSync(t *testing.T) {
	failures := 3
	r := run(t, func(_ *Options, r *running) {
		r.kernels[model.IPv6].fail = func(plan.Change) error {
			if failures--; failures >= 0 {
				return errors.New("out of memory")
			}
			return nil
		}
	})
	r.store.Update(update(service("a", 1)))
	if err := r.appliedIn(t, t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.kernels[model.IPv6].programmed()[named("a")] == nil {
		t.Error("not programmed after Applied")
	}
}

func TestAppliedSaysWhyItCouldNotBe(t *testing.T) {
	r := run(t, func(_ *Options, r *running) {
		r.kernels[model.IPv6].fail = func(plan.Change) error { return errors.New("out of memory") }
	})
	r.store.Update(update(service("a", 1)))
	r.pass(t, "a failure", func() bool { return r.Status().Families[model.IPv6].Err != nil })
	r.pass(t, "IPv4 programmed", func() bool { return len(r.kernels[model.IPv4].programmed()) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := r.Applied(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "IPv6") || !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("got %v", err)
	}
}

func TestAppliedNamesTheServicesHeldBack(t *testing.T) {
	r := run(t, func(_ *Options, r *running) {
		for _, k := range r.kernels {
			k.refuses = hostile
		}
	})
	r.store.Update(update(service("good", 1), slice("good", 8080, 1), service("evil", 2), slice("evil", 6666, 2)))
	err := r.appliedIn(t, t.Context())
	var held *HeldBackError
	if !errors.As(err, &held) || len(held.Families[model.IPv4]) != 1 || held.Families[model.IPv4][0].Service != named("evil") ||
		!strings.Contains(err.Error(), "evil") || strings.Contains(err.Error(), "good") {
		t.Fatalf("got %v", err)
	}
	if r.kernels[model.IPv4].programmed()[named("good")] == nil {
		t.Error("the good Service is not programmed")
	}
	r.store.Update(update(slice("evil", 8080, 2)))
	if err := r.appliedIn(t, t.Context()); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}

func TestAppliedEndsWithTheProxy(t *testing.T) {
	p, err := New(Options{
		Log: newRig().log, Backends: map[model.Family]Backend{model.IPv4: newFakeKernel()},
		Source: sourceFunc(func(context.Context, Sink) error { return errors.New("no objects") }),
	})
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan error, 1)
	go func() { waits <- p.Applied(t.Context()) }()
	if err := p.Run(t.Context()); err == nil {
		t.Error("the source's error is lost")
	}
	if err := <-waits; err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("got %v", err)
	}
}
