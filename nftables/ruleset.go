package nftables

import (
	"maps"
	"slices"

	"svcproxy/model"
)

// TableName is the name of the table in both families.
const TableName = "svcproxy"

// Ruleset is what a table of one IP family holds, or shall hold. It is a value without references to the
// kernel. What Observe returns may also hold what others put into the table.
type Ruleset struct {
	Family model.Family
	// Exists is false if there is no such table; the Ruleset is then empty.
	Exists bool
	Chains map[string]Chain
	Sets   map[string]*Set
	// settings are what chains of classes are written with; a ruleset that was observed has none.
	settings settings
	// Flaw says what about an observed table cannot be put right piece by piece: it must be made anew.
	Flaw string
}

// Chain is a list of rules.
type Chain struct {
	Hook  Hook
	Rules []Rule
}

// Hook is where a base chain is called from. It is zero for other chains.
type Hook struct {
	Type     string
	Number   uint32
	Priority int32
	// Drop is the policy of the chain; svcproxy's accept.
	Drop bool
}

// Types and priorities of the base chains. Sources are tested before the NAT of any owner.
const (
	natType, filterType = "nat", "filter"

	natPriority       = -100
	filterPriority    = -110
	sourceNATPriority = 100
)

// flagsFlaw begins the flaw of a table with flags, which svcproxy's has not: the one that there is makes it
// dormant.
const flagsFlaw = "table has flags"

// Numbers of the hooks in use, enum nf_inet_hooks of the kernel.
const (
	hookPrerouting  = 0
	hookInput       = 1
	hookForward     = 2
	hookOutput      = 3
	hookPostrouting = 4
)

// hookNames are nft's names of the hooks by their numbers.
var hookNames = []string{"prerouting", "input", "forward", "output", "postrouting"}

// Set is a set or a map.
type Set struct {
	SetSpec
	// Size is the most elements that fit, 0 for no limit. It is chosen with room to grow and does not
	// matter for equality.
	Size uint32
	// Elements are by their key, in the kernel's bytes. In an interval set the key is the first address, in a
	// set of ranges the first key with the last one behind it.
	Elements map[string]Element
}

// SetSpec is what tells one set from another, its elements and size apart.
type SetSpec struct {
	Name    string
	Map     bool
	Verdict bool
	// Interval is a set of intervals of one address, Ranges one of concatenations that have intervals.
	Interval, Ranges bool
	// Learned is a map that the rules themselves fill, and the kernel empties after a while. Its elements are
	// no part of a ruleset.
	Learned bool
	// KeyLen and DataLen are in bytes. DataLen is 0 in sets and verdict maps.
	KeyLen, DataLen uint32
}

// Element is an element of a set, its key apart.
type Element struct {
	// Data is the kernel's bytes of a map's element; in a verdict map nft's words, as "goto lb-3"; and in
	// an interval set the first address behind the interval, empty if there is none.
	Data string
	// Comment is the name of the Service port, where the element carries one.
	Comment string
}

// KeyedElement is an element with its key.
type KeyedElement struct {
	Key string
	Element
}

// newRuleset returns an existing table that holds nothing.
func newRuleset(f model.Family) *Ruleset {
	return &Ruleset{Family: f, Exists: true, Chains: map[string]Chain{}, Sets: map[string]*Set{}}
}

// addSet makes an empty set.
func (r *Ruleset) addSet(spec SetSpec) {
	r.Sets[spec.Name] = &Set{SetSpec: spec, Elements: map[string]Element{}}
}

// Equal tells whether two rulesets do the same, name their Services alike and hold nothing else.
func (r *Ruleset) Equal(o *Ruleset) bool {
	return r.Family == o.Family && r.Exists == o.Exists && r.Flaw == o.Flaw &&
		maps.EqualFunc(r.Chains, o.Chains, Chain.Equal) &&
		maps.EqualFunc(r.Sets, o.Sets, func(a, b *Set) bool {
			return a.SetSpec == b.SetSpec && maps.Equal(a.Elements, b.Elements)
		})
}

// Equal tells whether two chains are hooked alike and hold the same rules in the same order.
func (c Chain) Equal(o Chain) bool {
	return c.Hook == o.Hook && slices.Equal(c.Rules, o.Rules)
}

// Rules counts the rules of all chains.
func (r *Ruleset) Rules() int {
	n := 0
	for _, c := range r.Chains {
		n += len(c.Rules)
	}
	return n
}

// sorted returns the elements in the order of their keys.
func (s *Set) sorted() []KeyedElement {
	out := make([]KeyedElement, 0, len(s.Elements))
	for _, k := range slices.Sorted(maps.Keys(s.Elements)) {
		out = append(out, KeyedElement{k, s.Elements[k]})
	}
	return out
}
