package proxier

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// hostile is a Service that the fake kernel is told to refuse.
func hostile(s *plan.Service) bool {
	return slices.ContainsFunc(s.Ports, func(p plan.ServicePort) bool {
		return slices.ContainsFunc(p.Endpoints, func(e plan.Endpoint) bool { return e.Port == 6666 })
	})
}

func (r *rig) names() []string {
	var names []string
	for name := range r.kernel.programmed() {
		names = append(names, name.Name)
	}
	slices.Sort(names)
	return names
}

func (r *rig) quarantinedNames() []string {
	var names []string
	for _, q := range r.status().Quarantined {
		names = append(names, q.Service.Name)
	}
	return names
}

func expect[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestFirstSyncIsFullAndLaterOnesAreNot(t *testing.T) {
	r := newRig(service("a", 1), slice("a", 8080, 1))
	if !r.mustSync(t).full {
		t.Error("the first sync was not full")
	}
	r.store.Update(update(service("b", 2)))
	if r.mustSync(t).full {
		t.Error("the second sync was full")
	}
	last := r.kernel.applied[len(r.kernel.applied)-1]
	if len(last.Services) != 1 || last.Services[named("b")] == nil {
		t.Errorf("changing b sent %v", slices.Collect(maps.Keys(last.Services)))
	}
	r.kernel.obeyed(t)
}

func TestAFailedApplyLosesNoChange(t *testing.T) {
	r := newRig(service("a", 1), service("b", 2))
	r.mustSync(t)
	r.store.Update(update(named("a"), service("c", 3), slice("b", 8080, 7)))
	r.kernel.fail = func(plan.Change) error { return fmt.Errorf("send: %w", syscall.ENOBUFS) }
	if _, err := r.sync(t.Context(), false); !errors.Is(err, syscall.ENOBUFS) {
		t.Fatalf("got %v", err)
	}
	if r.tracker.Pending() != 3 {
		t.Errorf("%d Services are dirty, want 3", r.tracker.Pending())
	}
	r.kernel.fail = func(plan.Change) error { return nil }
	r.store.Update(update(service("d", 4)))
	if !r.mustSync(t).full {
		t.Error("the sync after a failure was not full")
	}
	if !maps.EqualFunc(r.kernel.programmed(), r.wanted(), sameDecision) {
		t.Errorf("the kernel holds %v", r.names())
	}
	r.kernel.obeyed(t)
}

func TestNoServiceIsAtFaultForWantOfPermissionOrMemory(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ENOMEM, syscall.ENOBUFS} {
		r := newRig(service("a", 1), service("b", 2))
		r.kernel.fail = func(plan.Change) error { return errno }
		for range 5 {
			if _, err := r.sync(t.Context(), false); !errors.Is(err, errno) {
				t.Errorf("got %v, want %v", err, errno)
			}
		}
		expect(t, "quarantined after "+errno.Error(), r.quarantinedNames(), nil)
	}
}

func TestTheKernelRefusingEverythingIsNobodysFault(t *testing.T) {
	r := newRig(service("a", 1), service("b", 2))
	r.kernel.fail = func(plan.Change) error { return &plan.RefusedError{Err: syscall.ENOENT} }
	if _, err := r.sync(t.Context(), false); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v", err)
	}
	expect(t, "quarantined", r.quarantinedNames(), nil)
}

func TestARefusedServiceIsFoundAtTheStart(t *testing.T) {
	r := newRig()
	for i := range 100 {
		port := uint16(8080)
		if i == 37 || i == 80 {
			port = 6666
		}
		name := fmt.Sprintf("s%02d", i)
		r.store.Update(update(service(name, byte(i)), slice(name, port, byte(i))))
	}
	r.kernel.refuses = hostile
	r.mustSync(t)
	expect(t, "quarantined", r.quarantinedNames(), []string{"s37", "s80"})
	if got := len(r.names()); got != 98 {
		t.Errorf("%d Services are programmed, want 98", got)
	}
	if r.kernel.tries > 60 {
		t.Errorf("it took %d attempts", r.kernel.tries)
	}
	r.kernel.obeyed(t)
}

func TestARefusedChangeLeavesTheLastGoodRules(t *testing.T) {
	r := newRig(service("a", 1), slice("a", 8080, 1), service("b", 2), slice("b", 8080, 2))
	r.kernel.refuses = hostile
	r.mustSync(t)
	good := r.kernel.programmed()[named("a")]
	r.store.Update(update(slice("a", 6666, 1), slice("b", 8081, 2), service("c", 3)))
	r.mustSync(t)
	expect(t, "programmed", r.names(), []string{"a", "b", "c"})
	expect(t, "quarantined", r.quarantinedNames(), []string{"a"})
	if !sameDecision(r.kernel.programmed()[named("a")], good) {
		t.Error("a lost its last good rules")
	}
	if got := r.kernel.programmed()[named("b")].Ports[0].Endpoints[0].Port; got != 8081 {
		t.Errorf("b's change was not programmed: port %d", got)
	}
	for _, c := range r.kernel.applied[1:] {
		if c.Full && !c.Hold[named("a")] {
			t.Error("a full change did not hold a")
		}
	}
	r.kernel.obeyed(t)
}

func TestAnUnrenderableServiceIsQuarantinedAtOnce(t *testing.T) {
	r := newRig(service("a", 1), slice("a", 6666, 1), service("b", 2))
	r.kernel.unrenderable = hostile
	r.mustSync(t)
	expect(t, "programmed", r.names(), []string{"b"})
	if r.kernel.tries != 2 {
		t.Errorf("it took %d attempts, want 2", r.kernel.tries)
	}
	r.kernel.obeyed(t)
}

func TestQuarantineEndsWhenTheServiceChanges(t *testing.T) {
	r := newRig(service("a", 1), slice("a", 6666, 1), service("b", 2))
	r.kernel.refuses = hostile
	r.mustSync(t)
	r.store.Update(update(slice("a", 8080, 1)))
	r.mustSync(t)
	expect(t, "quarantined", r.quarantinedNames(), nil)
	expect(t, "programmed", r.names(), []string{"a", "b"})
	r.kernel.obeyed(t)
}

func TestQuarantineIsRetriedWithBackoff(t *testing.T) {
	r := newRig(service("a", 1), slice("a", 6666, 1), service("b", 2))
	r.kernel.refuses = hostile
	r.mustSync(t)
	wait := quarantineFirst
	for range 8 {
		at, _ := r.nextRetry()
		if got := at.Sub(r.clock.Now()); got != wait {
			t.Fatalf("the next trial is in %v, want %v", got, wait)
		}
		r.clock.Step(wait - time.Second)
		tries := r.kernel.tries
		if r.mustSync(t); r.kernel.tries != tries {
			t.Fatal("a trial before its time")
		}
		r.clock.Step(time.Second)
		r.mustSync(t)
		expect(t, "quarantined", r.quarantinedNames(), []string{"a"})
		wait = min(2*wait, quarantineMost)
	}
	r.kernel.refuses = func(*plan.Service) bool { return false }
	r.clock.Step(quarantineMost)
	r.mustSync(t)
	expect(t, "quarantined", r.quarantinedNames(), nil)
	expect(t, "programmed", r.names(), []string{"a", "b"})
	r.kernel.obeyed(t)
}

func TestAServiceThatIsGoneLeavesQuarantineAndKernel(t *testing.T) {
	r := newRig(service("a", 1), slice("a", 8080, 1), service("b", 2))
	r.kernel.refuses = hostile
	r.mustSync(t)
	r.store.Update(update(slice("a", 6666, 1)))
	r.mustSync(t)
	expect(t, "quarantined", r.quarantinedNames(), []string{"a"})
	r.store.Update(update(named("a")))
	r.mustSync(t)
	expect(t, "quarantined", r.quarantinedNames(), nil)
	expect(t, "programmed", r.names(), []string{"b"})
	r.kernel.obeyed(t)
}

func TestQuarantineDoesNotKeepAFrontendFromItsNewHolder(t *testing.T) {
	r := newRig(service("a", 1), slice("a", 8080, 1))
	r.kernel.refuses = hostile
	r.mustSync(t)
	r.store.Update(update(service("a", 9), slice("a", 6666, 1), service("b", 1)))
	r.mustSync(t)
	expect(t, "programmed", r.names(), []string{"b"})
	expect(t, "quarantined", r.quarantinedNames(), []string{"a"})
	r.kernel.obeyed(t)
}

func TestServicesThatSwapAddressesAreNotAtFault(t *testing.T) {
	r := newRig(service("a", 1), service("b", 2), service("c", 3))
	r.kernel.refuses = hostile
	r.mustSync(t)
	r.store.Update(update(service("a", 2), service("b", 1), slice("c", 6666, 1)))
	r.mustSync(t)
	expect(t, "quarantined", r.quarantinedNames(), []string{"c"})
	if !sameDecision(r.kernel.programmed()[named("a")], r.wanted()[named("a")]) {
		t.Error("a was not moved")
	}
	r.kernel.obeyed(t)
}

func TestDriftIsReportedAndOwnFailuresAreNot(t *testing.T) {
	r := newRig(service("a", 1), service("b", 2))
	r.mustSync(t)
	r.kernel.disturb(named("a"))
	report, err := r.sync(t.Context(), true)
	if err != nil || report.drift != 1 || report.example == "" {
		t.Errorf("got %+v, %v", report, err)
	}
	r.store.Update(update(named("a"), named("b")))
	r.kernel.fail = func(plan.Change) error { return syscall.ENOBUFS }
	_, _ = r.sync(t.Context(), false)
	r.kernel.fail = func(plan.Change) error { return nil }
	if report := r.mustSync(t); report.drift != 0 {
		t.Errorf("what a failed apply left counts as drift: %+v", report)
	}
}

func TestARefusalForDriftQuarantinesNobody(t *testing.T) {
	r := newRig(service("a", 1), service("b", 2))
	r.mustSync(t)
	r.kernel.disturb(named("a"))
	r.store.Update(update(slice("a", 8080, 4)))
	if report := r.mustSync(t); !report.full || report.drift != 1 {
		t.Errorf("got %+v", report)
	}
	expect(t, "quarantined", r.quarantinedNames(), nil)
	expect(t, "programmed", r.names(), []string{"a", "b"})
}

func TestInterferenceDuringTheSearchQuarantinesNobody(t *testing.T) {
	r := newRig(service("a", 1), service("b", 2), service("c", 3))
	r.kernel.refuses = hostile
	r.mustSync(t)
	r.store.Update(update(slice("a", 6666, 1), slice("b", 8080, 2), slice("c", 8080, 3)))
	r.kernel.fail = func(c plan.Change) error {
		if !c.Full && len(c.Services) == 1 {
			delete(r.kernel.holds, named("b"))
			delete(r.kernel.holds, named("c"))
		}
		return nil
	}
	if _, err := r.sync(t.Context(), false); !errors.Is(err, errInterfered) {
		t.Errorf("got %v", err)
	}
	expect(t, "quarantined", r.quarantinedNames(), nil)
	r.kernel.fail = func(plan.Change) error { return nil }
	r.mustSync(t)
	expect(t, "quarantined", r.quarantinedNames(), []string{"a"})
	r.kernel.obeyed(t)
}

func TestServiceCIDRsAreAppliedInFull(t *testing.T) {
	r := newRig(service("a", 1))
	r.mustSync(t)
	u := *NewObjects()
	u.ServiceCIDRs["kubernetes"] = mustPrefixes("10.96.0.0/16", "fd00::/112")
	r.store.Update(u)
	if !r.mustSync(t).full {
		t.Error("a new ServiceCIDR was not applied in full")
	}
	expect(t, "ServiceCIDRs", r.kernel.config.ServiceCIDRs, mustPrefixes("10.96.0.0/16"))
	if c := r.kernel.config; c.Family != model.IPv4 || c.MasqueradeMark != plan.DefaultMasqueradeMark {
		t.Errorf("configured as %+v", c)
	}
	r.kernel.obeyed(t)
}
