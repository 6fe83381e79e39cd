package nftables

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"svcproxy/model"
)

// Delta is what turns one ruleset into another.
type Delta struct {
	family model.Family
	// remake says why the whole table is made anew, and is empty if it is not.
	remake string
	exists bool

	newSets   []*Set
	newChains []namedChain
	// chains hold the wrong rules.
	chains []namedChain
	sets   map[string]*setDelta
	// baseChains are somebody's that are called by the kernel; they go at once.
	baseChains []string
	// flushChains are somebody's own too; they lose their rules at once, and go with the idle ones.
	flushChains []string
	// idleChains and idleSets are no longer needed. They may still be in use by what this very change
	// deletes, so they go in a later transaction.
	idleChains, idleSets []string
}

type namedChain struct {
	name string
	Chain
}

// setDelta is what changes in a set. An element's data cannot be changed in place: those in replace are
// deleted and added again in one transaction.
type setDelta struct {
	spec              SetSpec
	del, replace, add []KeyedElement
	// flush empties the set before the elements are added: an interval set is always written whole.
	flush bool
}

// Diff returns what turns have into want. Both may be the whole of a table or the same part of it.
func Diff(have, want *Ruleset) *Delta {
	d := &Delta{family: want.Family, exists: have.Exists, sets: map[string]*setDelta{}}
	if d.remake = mustRemake(have, want); d.remake != "" {
		have = newRuleset(want.Family)
	}
	for _, name := range slices.Sorted(maps.Keys(want.Sets)) {
		d.diffSet(have.Sets[name], want.Sets[name])
	}
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		c, ok := have.Chains[name]
		switch {
		case !ok:
			d.newChains = append(d.newChains, namedChain{name, want.Chains[name]})
		case !c.Equal(want.Chains[name]):
			d.chains = append(d.chains, namedChain{name, want.Chains[name]})
		}
	}
	d.diffRest(have, want)
	return d
}

// mustRemake tells why have cannot be turned into want piece by piece.
func mustRemake(have, want *Ruleset) string {
	switch {
	case !have.Exists:
		return "table is missing"
	case have.Flaw != "":
		return have.Flaw
	}
	for name, s := range want.Sets {
		h := have.Sets[name]
		switch {
		case h == nil:
		case h.SetSpec != s.SetSpec:
			return "set " + name + " is of another kind"
		case h.Size > 0 && uint64(len(s.Elements)) > uint64(h.Size):
			return "set " + name + " is too small"
		}
	}
	for name, c := range want.Chains {
		if h, ok := have.Chains[name]; ok && h.Hook != c.Hook {
			return "chain " + name + " is hooked otherwise"
		}
	}
	return ""
}

func (d *Delta) diffSet(have, want *Set) {
	if have == nil {
		d.newSets = append(d.newSets, want)
		have = &Set{}
	}
	sd := &setDelta{spec: want.SetSpec}
	if want.Interval {
		if !maps.Equal(have.Elements, want.Elements) {
			sd.flush, sd.add, sd.del = len(have.Elements) > 0, want.sorted(), have.sorted()
			d.sets[want.Name] = sd
		}
		return
	}
	if len(have.Elements) == 0 {
		sd.add = make([]KeyedElement, 0, len(want.Elements))
	}
	for key, el := range want.Elements {
		h, ok := have.Elements[key]
		switch {
		case !ok:
			sd.add = append(sd.add, KeyedElement{key, el})
		case h != el:
			sd.replace = append(sd.replace, KeyedElement{key, el})
		}
	}
	for key, el := range have.Elements {
		if _, ok := want.Elements[key]; !ok {
			sd.del = append(sd.del, KeyedElement{key, el})
		}
	}
	if want.Ranges {
		// The kernel keeps them in the order in which they came, and to delete one it looks at all that came
		// before: 1,000 take 0.1 s in that order and 3.5 s in the reverse, in which nobody else can commit.
		inOrder(sd.add)
		inOrder(sd.del)
	}
	if len(sd.add)+len(sd.replace)+len(sd.del) > 0 {
		d.sets[want.Name] = sd
	}
}

func inOrder(elements []KeyedElement) {
	slices.SortFunc(elements, func(a, b KeyedElement) int { return strings.Compare(a.Key, b.Key) })
}

// diffRest sees to what is in have and not in want.
func (d *Delta) diffRest(have, want *Ruleset) {
	for _, name := range slices.Sorted(maps.Keys(have.Sets)) {
		if want.Sets[name] == nil {
			d.idleSets = append(d.idleSets, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have.Chains)) {
		c := have.Chains[name]
		if _, ok := want.Chains[name]; ok {
			continue
		}
		class, ok := parseClass(name)
		switch {
		case c.Hook != Hook{}:
			d.baseChains = append(d.baseChains, name)
		case ok:
			// The next change may use it, and takes it for whole.
			if want := (Chain{Rules: want.settings.rules(class)}); !c.Equal(want) {
				d.chains = append(d.chains, namedChain{name, want})
			}
			d.idleChains = append(d.idleChains, name)
		default:
			if len(c.Rules) > 0 {
				d.flushChains = append(d.flushChains, name)
			}
			d.idleChains = append(d.idleChains, name)
		}
	}
}

// Writes counts the rules and elements to add or delete; one that is changed counts once.
func (d *Delta) Writes() int {
	n := len(d.baseChains) + len(d.flushChains)
	for _, c := range slices.Concat(d.newChains, d.chains) {
		n += len(c.Rules)
	}
	for _, s := range d.sets {
		n += len(s.add) + len(s.replace) + len(s.del)
	}
	return n
}

// Empty tells whether there is nothing to write now.
func (d *Delta) Empty() bool {
	return d.remake == "" && len(d.newSets)+len(d.sets)+len(d.newChains)+len(d.chains)+len(d.baseChains)+len(d.flushChains) == 0
}

// Example describes one of the differences, and is empty if there is none.
func (d *Delta) Example() string {
	switch {
	case d.remake != "":
		return d.remake
	case len(d.newChains) > 0:
		return "chain " + d.newChains[0].name + " is missing"
	case len(d.chains) > 0:
		return "rules of chain " + d.chains[0].name + " differ"
	case len(d.baseChains) > 0:
		return "unknown chain " + d.baseChains[0]
	case len(d.flushChains) > 0:
		return "unknown chain " + d.flushChains[0]
	case len(d.newSets) > 0:
		return "set " + d.newSets[0].Name + " is missing"
	}
	for _, name := range slices.Sorted(maps.Keys(d.sets)) {
		s := d.sets[name]
		for _, g := range []struct {
			els  []KeyedElement
			what string
		}{{s.add, "is missing"}, {s.replace, "differs"}, {s.del, "is unknown"}} {
			if len(g.els) > 0 {
				first := slices.MinFunc(g.els, func(a, b KeyedElement) int { return strings.Compare(a.Key, b.Key) })
				return fmt.Sprintf("element { %s } of %s %s", elementText(d.family, s.spec, first), name, g.what)
			}
		}
	}
	return ""
}
