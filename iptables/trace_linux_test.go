package iptables

import (
	"maps"
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
