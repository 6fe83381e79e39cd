package iptables

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/plan"
)

// fake is a kernel that understands what svcproxy writes for iptables-restore.
type fake struct{ *Ruleset }

// restore applies transactions, as strictly as the kernel.
func (k fake) restore(t *rapid.T, deltas []delta) (written []string) {
	for _, d := range deltas {
		table := k.table(d.table)
		for line := range strings.Lines(string(d.appendText(nil))) {
			fields := strings.Fields(line)
			switch {
			case line[0] == ':':
				table.Chains[fields[0][1:]] = nil
				written = append(written, fields[0][1:])
			case fields[0] == "-A":
				if _, exists := table.Chains[fields[1]]; !exists {
					t.Fatalf("no chain for %s", line)
				}
				words, err := split(nil, strings.TrimSpace(line))
				if err != nil {
					t.Fatal(err)
				}
				r, err := parseRule(words[2:])
				if err != nil {
					t.Fatal(err)
				}
				table.Chains[fields[1]] = append(table.Chains[fields[1]], r)
			case fields[0] == "-X":
				if rules, exists := table.Chains[fields[1]]; !exists || len(rules) > 0 {
					t.Fatalf("cannot delete %s", fields[1])
				}
				delete(table.Chains, fields[1])
			}
		}
		k.consistent(t, table)
	}
	return written
}

// consistent fails if a rule leads to a chain that does not exist.
func (k fake) consistent(t *rapid.T, table *Table) {
	for name, rules := range table.Chains {
		for _, r := range rules {
			if _, exists := table.Chains[r.Target]; owned(r.Target) && !exists {
				t.Fatalf("chain %s leads to %s, which is gone", name, r.Target)
			}
		}
	}
}

// change draws what happens to some Services.
func change(t *rapid.T, f model.Family) map[model.ServiceName]*plan.Service {
	changed := map[model.ServiceName]*plan.Service{}
	for range rapid.IntRange(1, 120).Draw(t, "changes") {
		s := service(f, rapid.IntRange(0, 600).Draw(t, "service"), rapid.IntRange(0, 5).Draw(t, "endpoints"))
		changed[s.Name] = s
		if rapid.IntRange(0, 3).Draw(t, "gone") == 0 {
			changed[s.Name] = nil
		}
	}
	return changed
}

// apply runs a change through the incremental path.
func (s *state) apply(t *rapid.T, changed map[model.ServiceName]*plan.Service) []delta {
	p, err := s.step(changed)
	if err != nil {
		t.Fatal(err)
	}
	deltas := p.deltas()
	s.commit(p)
	return deltas
}

func TestIncrementalEqualsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom(model.Families).Draw(t, "family")
		s, err := newState(config(f), usual, map[model.ServiceName]*plan.Service{})
		if err != nil {
			t.Fatal(err)
		}
		kernel := fake{s.ruleset()}
		all := map[model.ServiceName]*plan.Service{}
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			changed := change(t, f)
			deltas := s.apply(t, changed)
			if most := rapid.SampledFrom([]int{0, 1, 5000}).Draw(t, "most bytes"); most > 0 {
				deltas = (&writer{most: most}).split(deltas)
			}
			kernel.restore(t, deltas)
			maps.Copy(all, changed)
			maps.DeleteFunc(all, func(_ model.ServiceName, v *plan.Service) bool { return v == nil })
		}
		want, err := Render(&plan.Plan{Config: config(f), Services: all})
		if err != nil {
			t.Fatal(err)
		}
		if !kernel.Equal(want) {
			n, example := drift(want, kernel.Ruleset)
			t.Fatalf("%d rules differ, such as %s", n, example)
		}
		if !maps.Equal(s.services, all) {
			t.Fatal("the state holds other Services")
		}
	})
}

func TestOnlyChangedChainsAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := model.IPv4
		services := change(t, f)
		maps.DeleteFunc(services, func(_ model.ServiceName, v *plan.Service) bool { return v == nil })
		s, err := newState(config(f), usual, services)
		if err != nil {
			t.Fatal(err)
		}
		kernel := fake{s.ruleset()}
		changed := change(t, f)
		before := newRuleset(f)
		maps.Copy(before.NAT.Chains, kernel.NAT.Chains)
		maps.Copy(before.Filter.Chains, kernel.Filter.Chains)
		deltas := s.apply(t, changed)
		kernel.restore(t, deltas)
		for _, d := range deltas {
			for _, c := range d.write {
				old, existed := before.table(d.table).Chains[c.name]
				now := kernel.table(d.table).Chains[c.name]
				if existed && slices.Equal(old, now) && d.table == tableNAT {
					t.Fatalf("chain %s was written in vain", c.name)
				}
			}
		}
	})
}

// TestOneEndpointLess states what the smallest change costs.
func TestOneEndpointLess(t *testing.T) {
	p := planOf(model.IPv4, some(model.IPv4)...)
	s, err := newState(p.Config, usual, p.Services)
	if err != nil {
		t.Fatal(err)
	}
	less := without(service(model.IPv4, 3, 7))
	step, err := s.step(map[model.ServiceName]*plan.Service{less.Name: less})
	if err != nil {
		t.Fatal(err)
	}
	deltas := step.deltas()
	if len(deltas) != 1 || len(deltas[0].write) != 1 || len(deltas[0].remove) != 1 {
		t.Errorf("want one chain written and one removed: %s", deltas[0].appendText(nil))
	}
}

// TestNoConnectionFallsThrough plays the transactions of a change one by one: after each, every Service
// that is there before and after is either translated or rejected.
func TestNoConnectionFallsThrough(t *testing.T) {
	before, after := planOf(model.IPv4), planOf(model.IPv4)
	for i := range 20 {
		a, b := service(model.IPv4, i, i%2), service(model.IPv4, i, (i+1)%2)
		before.Services[a.Name], after.Services[b.Name] = a, b
	}
	s, err := newState(before.Config, usual, before.Services)
	if err != nil {
		t.Fatal(err)
	}
	step, err := s.step(after.Services)
	if err != nil {
		t.Fatal(err)
	}
	kernel := s.ruleset()
	for _, d := range step.deltas() {
		for _, c := range d.write {
			kernel.table(d.table).Chains[c.name] = c.rules
		}
		for i := range 20 {
			_, translated := lookup(&kernel.NAT, chainServices, vip(model.IPv4, i), 80)
			_, rejected := lookup(&kernel.Filter, chainServices, vip(model.IPv4, i), 80)
			if translated == "" && rejected == "" {
				t.Errorf("after the transaction on %s, connections to Service %d fall through", d.table, i)
			}
		}
	}
}

// TestTakingBack undoes a change, whole and in pieces.
func TestTakingBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		services := change(t, model.IPv4)
		maps.DeleteFunc(services, func(_ model.ServiceName, v *plan.Service) bool { return v == nil })
		s, err := newState(config(model.IPv4), usual, services)
		if err != nil {
			t.Fatal(err)
		}
		kernel, before := fake{s.ruleset()}, s.ruleset()
		deltas := s.apply(t, change(t, model.IPv4))
		if rapid.Bool().Draw(t, "in pieces") {
			deltas = (&writer{most: 3000}).split(deltas)
		}
		done := deltas[:rapid.IntRange(0, len(deltas)).Draw(t, "done")]
		kernel.restore(t, done)
		for _, d := range slices.Backward(done) {
			kernel.restore(t, []delta{d.undo()})
		}
		if !kernel.Equal(before) {
			n, example := drift(before, kernel.Ruleset)
			t.Fatalf("%d rules differ, such as %s", n, example)
		}
	})
}

// Rules of built-in chains lead to the shared chains before the first transaction.
func TestTakingBackTheFirstChangeLeavesChainsThatAreLedTo(t *testing.T) {
	want := render(t, planOf(model.IPv4, some(model.IPv4)...))
	for _, table := range []*Table{&want.Filter, &want.NAT} {
		first := diff(table.Name, nil, table.Chains, nil)
		undo := first.undo()
		for _, j := range table.Jumps {
			if slices.Contains(undo.remove, j.Rule.Target) || slices.Contains(undo.flush, j.Rule.Target) != (len(table.Chains[j.Rule.Target]) > 0) {
				t.Errorf("table %s: chain %s is not emptied", table.Name, j.Rule.Target)
			}
		}
	}
}
