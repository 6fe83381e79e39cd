package iptables

import (
	"fmt"
	"maps"
	"slices"

	"svcproxy/model"
)

// Ruleset is what the Service proxy of a node has in the kernel for one IP family: its own chains, and the
// rules in the built-in chains that lead to them.
type Ruleset struct {
	Family model.Family
	Filter Table
	NAT    Table
}

// Table is the proxy's share of one table of the kernel.
type Table struct {
	Name string
	// Jumps lead from built-in chains to the proxy's, in the order in which they stand there.
	Jumps []Jump
	// Chains are the proxy's own, by name.
	Chains map[string][]Rule
	// foreign are the proxy's chains that rules of others refer to, in a table that was read back.
	foreign map[string]bool
	// unreadable says that the table could not be read back.
	unreadable bool
}

// Jump is a rule in a chain that is not the proxy's.
type Jump struct {
	From string
	Rule Rule
	// written is the line after its command, where the jump was read back. Deleting a rule takes its very
	// words, as the legacy kernel API compares matches in order.
	written string
	// unreached says that another's rule before it ends the chain for every packet.
	unreached bool
}

// readable returns an error that is ErrUnreadable where a table could not be read back.
func (r *Ruleset) readable() error {
	for _, name := range tableNames {
		if r.table(name).unreadable {
			return fmt.Errorf("%s: table %s: %w", r.Family, name, ErrUnreadable)
		}
	}
	return nil
}

func (j Jump) same(o Jump) bool { return j.From == o.From && j.Rule == o.Rule }

// newRuleset returns a Ruleset without chains.
func newRuleset(f model.Family) *Ruleset {
	return &Ruleset{
		Family: f,
		Filter: Table{Name: tableFilter, Chains: map[string][]Rule{}},
		NAT:    Table{Name: tableNAT, Chains: map[string][]Rule{}},
	}
}

// table returns a table by its name, or nil.
func (r *Ruleset) table(name string) *Table {
	switch name {
	case tableFilter:
		return &r.Filter
	case tableNAT:
		return &r.NAT
	}
	return nil
}

// Text returns the ruleset in iptables-save's form. `iptables-restore --noflush` loads it into tables that
// hold none of it yet.
func (r *Ruleset) Text() string {
	var b []byte
	for _, name := range tableNames {
		b = r.table(name).appendText(b)
	}
	return string(b)
}

func (t *Table) appendText(b []byte) []byte {
	b = append(append(append(b, '*'), t.Name...), '\n')
	names := slices.Sorted(maps.Keys(t.Chains))
	for _, name := range names {
		b = appendChain(b, name)
	}
	for _, j := range t.Jumps {
		b = appendRule(b, "-A ", j.From, &j.Rule)
	}
	for _, name := range names {
		b = appendRules(b, name, t.Chains[name])
	}
	return append(b, "COMMIT\n"...)
}

// appendChain appends the line that creates a chain, or empties it if it exists.
func appendChain(b []byte, name string) []byte {
	return append(append(append(b, ':'), name...), " - [0:0]\n"...)
}

func appendRules(b []byte, chain string, rules []Rule) []byte {
	for i := range rules {
		b = appendRule(b, "-A ", chain, &rules[i])
	}
	return b
}

func appendRule(b []byte, command, chain string, r *Rule) []byte {
	return append(r.append(append(append(b, command...), chain...)), '\n')
}

// Equal tells whether two rulesets do the same: they have the same chains with the same rules, and the same
// jumps, whose order does not count, since others put rules among them.
func (r *Ruleset) Equal(o *Ruleset) bool {
	return r.Family == o.Family && r.Filter.equal(&o.Filter) && r.NAT.equal(&o.NAT)
}

func (t *Table) equal(o *Table) bool {
	missing, surplus := jumpDiff(t.Jumps, o.Jumps)
	return len(missing)+len(surplus) == 0 && maps.EqualFunc(t.Chains, o.Chains, slices.Equal)
}

// jumpDiff returns the jumps that are in want only and those that are in base only. One that no packet reaches
// counts as missing.
func jumpDiff(base, want []Jump) (missing, surplus []Jump) {
	for _, j := range want {
		if !slices.ContainsFunc(base, func(b Jump) bool { return b.same(j) && !b.unreached }) {
			missing = append(missing, j)
		}
	}
	for _, j := range base {
		if !slices.ContainsFunc(want, j.same) {
			surplus = append(surplus, j)
		}
	}
	return missing, surplus
}
