package iptables

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/plan"
)

// sameTraces fails the test unless a ruleset does with every packet what the plan says.
func sameTraces(t rapid.TB, what string, p *plan.Plan, r *Ruleset) {
	t.Helper()
	for _, packet := range packets(p.Config.Family) {
		want, got := p.Trace(packet), r.Trace(packet)
		if want.Equal(got) {
			continue
		}
		t.Fatalf("%s: %+v\nthe plan %v\nthe rules %v\n%q", what, packet, want, got, got.Rules)
	}
}

// TestTraceIsThePlans holds the rules against the plan, as rendered, as written down and as a fake kernel has
// them after changes of some Services.
func TestTraceIsThePlans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom(model.Families).Draw(t, "family")
		planner := plan.NewPlanner(drawConfig(t, f))
		s, err := newState(planner.Config(), usual, map[model.ServiceName]*plan.Service{})
		if err != nil {
			t.Fatal(err)
		}
		kernel := fake{s.ruleset()}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			var inputs []plan.Input
			for range rapid.IntRange(1, 3).Draw(t, "Services") {
				inputs = append(inputs, drawInput(t, f))
			}
			kernel.restore(t, s.apply(t, planner.Update(inputs)))
		}
		p := planner.Plan()
		want, err := Render(p)
		if err != nil {
			t.Fatal(err)
		}
		if !kernel.Equal(want) {
			n, example := drift(want, kernel.Ruleset)
			t.Fatalf("incremental and full differ in %d rules, such as %s", n, example)
		}
		parsed, err := Parse(f, want.Text())
		if err != nil {
			t.Fatal(err)
		}
		if !parsed.Equal(want) || parsed.Text() != want.Text() {
			n, example := drift(want, parsed)
			t.Fatalf("%d rules are read back otherwise, such as %s", n, example)
		}
		sameTraces(t, "rendered", p, want)
		sameTraces(t, "read back", p, parsed)
	})
}

// TestTraceOfTheKernel does the same with what a kernel holds, through drawn changes.
func TestTraceOfTheKernel(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		f := n.options.Family
		for seed := range 4 {
			config := rapid.Custom(func(t *rapid.T) plan.Config { return drawConfig(t, f) }).Example(seed)
			planner := plan.NewPlanner(config)
			n.apply(t, plan.Change{Config: config, Full: true})
			for round := range 3 {
				inputs := rapid.Custom(func(t *rapid.T) []plan.Input {
					return []plan.Input{drawInput(t, f), drawInput(t, f), drawInput(t, f)}
				}).Example(seed*10 + round)
				n.apply(t, plan.Change{Config: config, Services: planner.Update(inputs)})
				p := planner.Plan()
				n.holds(t, p)
				r, err := Observe(t.Context(), n.options)
				if err != nil {
					t.Fatal(err)
				}
				sameTraces(t, "in the kernel", p, r)
			}
			again := n.apply(t, plan.Change{Config: config, Services: maps.Clone(planner.Plan().Services), Full: true})
			if again != (plan.Result{}) {
				t.Errorf("nothing changed, yet: %+v", again)
			}
		}
	})
}

// TestNoConnectionOfAnyClassFallsThrough plays the transactions of drawn changes one by one, whole and in pieces:
// a connection that is somebody's before and after is at no moment let through untranslated.
func TestNoConnectionOfAnyClassFallsThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom(model.Families).Draw(t, "family")
		planner := plan.NewPlanner(drawConfig(t, f))
		planner.Update([]plan.Input{drawInput(t, f), drawInput(t, f), drawInput(t, f)})
		before := planner.Plan()
		s, err := newState(before.Config, usual, maps.Clone(before.Services))
		if err != nil {
			t.Fatal(err)
		}
		kernel := fake{s.ruleset()}
		deltas := s.apply(t, planner.Update([]plan.Input{drawInput(t, f), drawInput(t, f)}))
		after := planner.Plan()
		pieces := rapid.Bool().Draw(t, "in pieces")
		if pieces {
			deltas = (&writer{most: 2000}).split(deltas)
		}
		some := packets(f)
		for i := range deltas {
			kernel.restore(t, deltas[i:i+1])
			for n := rapid.IntRange(0, 6).Draw(t, "first packet"); n < len(some); n += 7 {
				packet := some[n]
				a, b := before.Trace(packet), after.Trace(packet)
				if a.Verdict == plan.Pass || b.Verdict == plan.Pass || pieces && holder(a) != holder(b) {
					continue
				}
				if got := kernel.Trace(packet); got.Verdict == plan.Pass || strings.Contains(got.Why, "pass") {
					t.Fatalf("after transaction %d: %+v\nbefore %v\nafter %v\nnow %v\n%q", i, packet, a, b, got, got.Rules)
				}
			}
		}
	})
}

// holder returns the frontend that a plan's outcome comes from.
func holder(o plan.Outcome) string {
	name, _, _ := strings.Cut(o.Why, ",")
	name, _, _ = strings.Cut(name, ": ")
	return name
}

// TestJumpsBehindOthersRulesAreMoved puts a rule in front that ends the chain for every packet, after which no
// packet would reach Services.
func TestJumpsBehindOthersRulesAreMoved(t *testing.T) {
	everywhere(t, func(t *testing.T, n *node) {
		p := classes(n.options.Family)
		n.apply(t, full(p))
		n.iptables(t, "-t nat -I PREROUTING -j ACCEPT")
		n.iptables(t, "-I FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT")
		packet := plan.Packet{Protocol: model.TCP, Source: in(n.options.Family, "203.0.113.9"), Interface: "eth0",
			Dest: netip.AddrPortFrom(in(n.options.Family, "10.96.0.1"), 80)}
		trace := func() plan.Outcome {
			r, err := Observe(t.Context(), n.options)
			if err != nil {
				t.Fatal(err)
			}
			return r.Trace(packet)
		}
		if got := trace(); got.Verdict != plan.Pass || !strings.Contains(got.Why, "PREROUTING") {
			t.Errorf("behind a rule that accepts all: %v", got)
		}
		if result := n.apply(t, full(p)); result.Drift != 1 || !strings.Contains(result.Example, "PREROUTING") {
			t.Errorf("%+v", result)
		}
		if got, want := trace(), p.Trace(packet); !got.Equal(want) {
			t.Errorf("after the repair: %v, want %v", got, want)
		}
		if again := n.apply(t, full(p)); again != (plan.Result{}) {
			t.Errorf("nothing changed, yet: %+v", again)
		}
	})
}

// A process on the node gets the packets of others with their source, however they are routed, and the node's own
// with an address of the node.
func TestOnlyWhatLeavesTheNodeIsMasqueraded(t *testing.T) {
	for _, f := range model.Families {
		s, own := service(f, 1, 1), in(f, "192.168.0.1")
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, plan.Endpoint{Addr: own, Port: 8080})
		r, err := Render(planOf(f, s))
		if err != nil {
			t.Fatal(err)
		}
		for iface, want := range map[string][2]bool{"eth0": {true, false}, "": {true, true}} {
			packet := plan.Packet{Protocol: model.TCP, Source: in(f, "192.168.0.9"), Interface: iface, Dest: netip.AddrPortFrom(vip(f, 1), 80),
				Host: []netip.Addr{own, in(f, "192.168.0.9")}}
			got := r.Trace(packet)
			if len(got.Targets) != 2 {
				t.Fatalf("%s by %q: %v", f, iface, got)
			}
			for _, target := range got.Targets {
				if here := target.Endpoint.Addr() == own; !here && target.Masquerade != want[0] || here && target.Masquerade != want[1] {
					t.Errorf("%s by %q: %v", f, iface, got)
				}
			}
		}
	}
}
