package iptables

import "slices"

// split divides a change into smaller ones, each of which adds at most so many bytes of text, or one chain.
// They follow each other so that no rule leads to a chain that is not yet or no longer there, and no
// connection falls through between them: chains come before those that lead to them, and go after. There is one
// exception: where a frontend passes to another Service and the one that had it changes to the external policy
// Local, without an endpoint here, in the same change. Only an undivided transaction covers that.
func (d *delta) split(most int) []delta {
	s := splitter{whole: d, most: most, part: delta{table: d.table}}
	for _, name := range calleesFirst(names(d.write), d.want) {
		s.add(name, func(p *delta) { p.write = append(p.write, chain{name, d.want[name]}) })
	}
	s.part.unjump = d.unjump
	s.part.rules += len(d.unjump)
	for _, name := range d.flush {
		s.add(name, func(p *delta) { p.flush = append(p.flush, name) })
	}
	for _, name := range slices.Backward(calleesFirst(d.remove, d.base)) {
		s.add(name, func(p *delta) { p.remove = append(p.remove, name) })
	}
	if !s.part.empty() {
		s.pieces = append(s.pieces, s.part)
	}
	return s.pieces
}

// splitter collects chains into pieces.
type splitter struct {
	whole  *delta
	most   int
	pieces []delta
	part   delta
	size   int
}

// add puts what is done to one chain into the present piece, or into a new one.
func (s *splitter) add(name string, put func(*delta)) {
	want, wanted := s.whole.want[name]
	size := len(appendRules(appendChain(nil, name), name, want))
	if s.size > 0 && s.size+size > s.most {
		s.pieces = append(s.pieces, s.part)
		s.part, s.size = delta{table: s.whole.table}, 0
	}
	if s.part.base == nil {
		s.part.base, s.part.want = map[string][]Rule{}, map[string][]Rule{}
	}
	base, existed := s.whole.base[name]
	if existed {
		s.part.base[name] = base
	}
	if wanted {
		s.part.want[name] = want
	}
	s.size += size
	s.part.rules += len(base) + len(want)
	put(&s.part)
}

func names(chains []chain) []string {
	all := make([]string, len(chains))
	for i := range chains {
		all[i] = chains[i].name
	}
	return all
}

// calleesFirst orders chains so that each comes after those that its rules lead to.
func calleesFirst(names []string, chains map[string][]Rule) []string {
	waiting := make(map[string]bool, len(names))
	for _, name := range names {
		waiting[name] = true
	}
	ordered := make([]string, 0, len(names))
	var visit func(name string)
	visit = func(name string) {
		if !waiting[name] {
			return
		}
		delete(waiting, name)
		for i := range chains[name] {
			visit(chains[name][i].Target)
		}
		ordered = append(ordered, name)
	}
	for _, name := range names {
		visit(name)
	}
	return ordered
}
