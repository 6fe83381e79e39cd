package proxier

import (
	"maps"
	"net/netip"
	"strconv"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/plan"
)

func mustPrefixes(all ...string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, s := range all {
		prefixes = append(prefixes, netip.MustParsePrefix(s))
	}
	return prefixes
}

// Whatever changes, fails, is refused or is disturbed: after every sync that succeeds the kernel holds
// exactly the plan, Services at fault apart, and nobody else is in quarantine.
func TestRandomChangesAndFailuresConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig()
		var disturbed bool
		next := &struct{ err error }{}
		r.kernel.refuses = hostile
		r.kernel.fail = func(plan.Change) error { err := next.err; next.err = nil; return err }
		some := rapid.IntRange(0, 5)
		name := func() string { return "s" + strconv.Itoa(some.Draw(t, "name")) }
		ctx := t.Context()

		sync := func(full bool) {
			report, err := r.sync(ctx, full)
			disturbed = disturbed && (err != nil || !report.full)
			if err == nil && !disturbed {
				checkConverged(t, r)
			}
			if len(r.kernel.broke) > 0 {
				t.Fatalf("the pipeline asked for %v", r.kernel.broke)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"service": func(t *rapid.T) { r.store.Update(update(service(name(), byte(some.Draw(t, "ip"))))) },
			"slice": func(t *rapid.T) {
				port := rapid.SampledFrom([]uint16{80, 8080, 6666}).Draw(t, "port")
				r.store.Update(update(slice(name(), port, byte(1+some.Draw(t, "endpoint")))))
			},
			"delete":  func(*rapid.T) { r.store.Update(update(named(name()))) },
			"no ends": func(*rapid.T) { r.store.Update(update(slice(name(), 80).Name)) },
			"cidr": func(t *rapid.T) {
				u := *NewObjects()
				u.ServiceCIDRs["c"] = mustPrefixes(rapid.SampledFrom([]string{"10.96.0.0/16", "10.97.0.0/16"}).Draw(t, "cidr"))
				r.store.Update(u)
			},
			"fail":    func(*rapid.T) { next.err = syscall.ENOBUFS },
			"disturb": func(*rapid.T) { r.kernel.disturb(named(name())); disturbed = true },
			"wait":    func(*rapid.T) { r.clock.Step(quarantineFirst) },
			"sync":    func(*rapid.T) { sync(false) },
			"full":    func(*rapid.T) { sync(true) },
		})
		next.err = nil
		r.clock.Step(quarantineMost)
		r.kernel.refuses = func(*plan.Service) bool { return false }
		if _, err := r.sync(ctx, true); err != nil {
			t.Fatalf("the last sync: %v", err)
		}
		if !maps.EqualFunc(r.kernel.programmed(), r.wanted(), sameDecision) || len(r.quarantine) > 0 {
			t.Fatalf("the kernel holds %v, and %v are in quarantine", r.names(), r.quarantinedNames())
		}
	})
}

func checkConverged(t *rapid.T, r *rig) {
	holds, wanted := r.kernel.programmed(), r.wanted()
	for name, s := range wanted {
		switch {
		case hostile(s):
			if r.quarantine[name] == nil {
				t.Fatalf("%s is refused, yet not in quarantine", name)
			}
		case r.quarantine[name] != nil:
			t.Fatalf("%s is in quarantine without fault: %v", name, r.quarantine[name].err)
		case !sameDecision(holds[name], s):
			t.Fatalf("the kernel holds %+v for %s, want %+v", holds[name], name, s)
		}
	}
	for name := range holds {
		if wanted[name] == nil {
			t.Fatalf("the kernel still holds %s", name)
		}
	}
	if !sameDecisions(r.acked, holds) {
		t.Fatalf("the pipeline believes in %v, the kernel holds %v", r.acked, holds)
	}
}

func sameDecisions(a, b map[model.ServiceName]*plan.Service) bool {
	return maps.EqualFunc(a, b, sameDecision)
}
