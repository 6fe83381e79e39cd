package iptables

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"svcproxy/model"
)

// delta is a change of one table, which becomes one transaction.
type delta struct {
	table string
	// write are the chains to make or rewrite, flush those to empty, and remove those to delete.
	write         []chain
	flush, remove []string
	// unjump are rules of built-in chains to delete.
	unjump []Jump
	// rules is the number of rules that are deleted and added.
	rules int
	// base and want are the chains that were compared.
	base, want map[string][]Rule
}

// diff compares chains of a table with what they are to be. Chains of base that want lacks are removed, or
// emptied where keep names them.
func diff(table string, base, want map[string][]Rule, keep map[string]bool) delta {
	d := delta{table: table, base: base, want: want}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		old, exists := base[name]
		if rules := want[name]; !exists || !slices.Equal(old, rules) {
			d.write = append(d.write, chain{name, rules})
			d.rules += len(old) + len(rules)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(base)) {
		if _, wanted := want[name]; wanted {
			continue
		}
		d.rules += len(base[name])
		switch {
		case !keep[name]:
			d.remove = append(d.remove, name)
		case len(base[name]) > 0:
			d.flush = append(d.flush, name)
		}
	}
	return d
}

// undo returns the change that takes this one back, its rules of built-in chains apart: the chains that such
// rules lead to stay, and are empty if there were none.
func (d *delta) undo() delta { return diff(d.table, d.want, d.base, sharedChains) }

// empty tells whether there is nothing to do.
func (d *delta) empty() bool {
	return len(d.write)+len(d.flush)+len(d.remove)+len(d.unjump) == 0
}

// appendText appends the change as input of `iptables-restore --noflush`. All chains are emptied before any
// rule is added, so that none of those to delete is still referred to.
func (d *delta) appendText(b []byte) []byte {
	b = append(append(append(b, '*'), d.table...), '\n')
	for _, c := range d.write {
		b = appendChain(b, c.name)
	}
	for _, name := range slices.Concat(d.flush, d.remove) {
		b = appendChain(b, name)
	}
	for _, c := range d.write {
		b = appendRules(b, c.name, c.rules)
	}
	for _, j := range d.unjump {
		b = append(append(append(b, "-D "...), j.written...), '\n')
	}
	for _, name := range d.remove {
		b = append(append(append(b, "-X "...), name...), '\n')
	}
	return append(b, "COMMIT\n"...)
}

// order puts the changes of both tables so that no connection falls through at any moment. A Service that
// loses its last endpoint must be rejected before it is no longer translated; one that gets its first must
// be translated before it is no longer rejected. A translated packet never meets the rejection, which
// matches the Service's address. So the filter table first gets the rejections of before and after.
//
// filter returns the chains of the filter table with given lists; where it is nil, that table stays as it is.
func order(base *Table, filter func(*lists) map[string][]Rule, before, after *lists, nat delta) []delta {
	if filter == nil {
		return slices.DeleteFunc([]delta{nat}, func(d delta) bool { return d.empty() })
	}
	both := filter(before.join(after))
	first := diff(tableFilter, base.Chains, both, base.foreign)
	last := diff(tableFilter, both, filter(after), nil)
	return slices.DeleteFunc([]delta{first, nat, last}, func(d delta) bool { return d.empty() })
}

// drift counts the rules that differ between what was acknowledged and what the kernel holds, and describes
// the first. Tables that could not be read do not count.
func drift(acknowledged, observed *Ruleset) (n int, example string) {
	for _, name := range tableNames {
		d := drifter{table: name}
		a, o := acknowledged.table(name), observed.table(name)
		if o.unreadable {
			continue
		}
		d.jumps(a, o)
		chains := maps.Clone(a.Chains)
		maps.Copy(chains, o.Chains)
		for _, chain := range slices.Sorted(maps.Keys(chains)) {
			d.chain(a, o, chain)
		}
		n += d.n
		if example == "" {
			example = d.example
		}
	}
	return n, example
}

// drifter counts the differences of one table.
type drifter struct {
	table   string
	n       int
	example string
}

func (d *drifter) note(what, chain string, r *Rule) {
	d.n++
	if d.example == "" {
		d.example = fmt.Sprintf("table %s: %s: -A %s%s", d.table, what, chain, r.append(nil))
	}
}

func (d *drifter) jumps(acknowledged, observed *Table) {
	missing, surplus := jumpDiff(observed.Jumps, acknowledged.Jumps)
	for _, j := range missing {
		d.note("missing", j.From, &j.Rule)
	}
	for _, j := range surplus {
		if _, wanted := acknowledged.Chains[j.Rule.Target]; !wanted {
			d.note("unexpected", j.From, &j.Rule)
		}
	}
}

func (d *drifter) chain(acknowledged, observed *Table, name string) {
	want, wanted := acknowledged.Chains[name]
	got, exists := observed.Chains[name]
	if !slices.Equal(want, got) {
		d.rules(name, want, got)
		return
	}
	if len(got) > 0 || wanted == exists || observed.foreign[name] {
		return
	}
	what := "unexpected"
	if wanted {
		what = "missing"
	}
	d.n++
	if d.example == "" {
		d.example = fmt.Sprintf("table %s: %s: chain %s", d.table, what, name)
	}
}

func (d *drifter) rules(chain string, want, got []Rule) {
	before := d.n
	count := map[Rule]int{}
	for _, r := range want {
		count[r]++
	}
	for i := range got {
		if count[got[i]]--; count[got[i]] < 0 {
			d.note("unexpected", chain, &got[i])
		}
	}
	for i := range want {
		if count[want[i]] > 0 {
			count[want[i]]--
			d.note("missing", chain, &want[i])
		}
	}
	if d.n == before {
		d.note("out of order", chain, &got[0])
	}
}

// unlink deletes the rules of built-in chains that lead to chains which are to be removed.
func (d *delta) unlink(observed *Table) {
	for _, j := range observed.Jumps {
		if slices.Contains(d.remove, j.Rule.Target) {
			d.unjump = append(d.unjump, j)
			d.rules++
		}
	}
}

// refusals returns the rules of the filter table that refuse connections to frontends, as lists.
func (r *Ruleset) refusals() *lists {
	var found lists
	for root, l := range map[string]list{chainServices: rejects, chainExternal: externals, chainFirewall: firewalls} {
		r.Filter.leaves(root, func(rule Rule) {
			if rule.Target != targetReject && rule.Target != targetDrop {
				return
			}
			to := l
			if !rule.Dest.IsSingleIP() || rule.NotDest {
				to = refusedPorts
			}
			found[to] = append(found[to], rule)
		})
	}
	found.sort()
	return &found
}

// leaves calls a function with the rules for single ports of a shared chain and of those that it leads to for
// prefixes.
func (t *Table) leaves(name string, found func(Rule)) {
	for _, r := range t.Chains[name] {
		switch {
		case r.DestPort != 0:
			found(r)
		case strings.HasPrefix(r.Target, model.ServiceChainPrefix) && r.Dest.IsValid():
			t.leaves(r.Target, found)
		}
	}
}
