package nftables

import (
	"slices"
	"strings"
)

// op is one step of a transaction.
type op struct {
	verb     verb
	set      *Set
	chain    namedChain
	elements []KeyedElement
}

type verb uint8

const (
	addTable verb = iota
	deleteTable
	addSet
	deleteSet
	// writeSet replaces all elements of an interval set.
	writeSet
	// addChain makes a chain with its rules.
	addChain
	// writeChain replaces the rules of a chain.
	writeChain
	flushChain
	deleteChain
	addElements
	// replaceElements deletes elements by their keys and adds them with other data.
	replaceElements
	deleteElements
)

// ops returns the steps in an order that is safe even if they are committed one by one: chains come before
// the elements that lead to them, endpoints before the Services that choose among them, and what is deleted
// goes in the reverse order. A ClusterIP rejects unknown ports, and a range drops the unallocated, only once
// the Services in it answer.
func (d *Delta) ops() []op {
	var ops []op
	if d.remake != "" {
		if d.exists {
			ops = append(ops, op{verb: deleteTable})
		}
		ops = append(ops, op{verb: addTable})
	}
	for _, s := range d.newSets {
		ops = append(ops, op{verb: addSet, set: s})
	}
	for _, name := range d.baseChains {
		ops = append(ops, op{verb: deleteChain, chain: namedChain{name: name}})
	}
	for _, name := range d.flushChains {
		ops = append(ops, op{verb: flushChain, chain: namedChain{name: name}})
	}
	// Chains that others refer to come before the base chains, whose rules refer to them.
	slices.SortStableFunc(d.newChains, func(a, b namedChain) int { return strings.Compare(a.Hook.Type, b.Hook.Type) })
	for _, c := range d.newChains {
		ops = append(ops, op{verb: addChain, chain: c})
	}
	for _, c := range d.chains {
		ops = append(ops, op{verb: writeChain, chain: c})
	}
	deletes := func(names ...string) {
		for _, name := range names {
			if s := d.sets[name]; s != nil && len(s.del) > 0 {
				ops = append(ops, op{verb: deleteElements, set: &Set{SetSpec: s.spec}, elements: s.del})
			}
		}
	}
	deletes(sourceRangesSet) // a new range must not overlap with one that goes
	for _, name := range slices.Concat([]string{podNetsSet, nodePortNetsSet, hairpinSet}, ownSets[:], []string{clusterIPsSet, serviceCIDRsSet}) {
		if s := d.sets[name]; s != nil {
			ops = append(ops, s.writes()...)
		}
	}
	deletes(clusterIPsSet, servicesMap, servicesOutsideMap, limitedSet, affinityListsMap, affinityPicksMap, affinityEndpointsMap, endpointsMap, hairpinSet)
	return ops
}

func (s *setDelta) writes() []op {
	set := &Set{SetSpec: s.spec}
	switch {
	case s.flush:
		return []op{{verb: writeSet, set: set, elements: s.add}}
	case s.spec.Interval && len(s.add) == 0:
		return nil
	}
	var ops []op
	if len(s.replace) > 0 {
		ops = append(ops, op{verb: replaceElements, set: set, elements: s.replace})
	}
	if len(s.add) > 0 {
		ops = append(ops, op{verb: addElements, set: set, elements: s.add})
	}
	return ops
}

// cleanup returns the steps that delete what is idle.
func cleanup(chains, sets []string) []op {
	var ops []op
	for _, name := range chains {
		ops = append(ops, op{verb: deleteChain, chain: namedChain{name: name}})
	}
	for _, name := range sets {
		ops = append(ops, op{verb: deleteSet, set: &Set{SetSpec: SetSpec{Name: name}}})
	}
	return ops
}

// split cuts a transaction into several of at most about limit bytes each, in order.
func split(ops []op, limit int) [][]op {
	var out [][]op
	var now []op
	room := limit
	flush := func() {
		if len(now) > 0 {
			out, now, room = append(out, now), nil, limit
		}
	}
	for _, o := range ops {
		switch o.verb {
		case addElements, replaceElements, deleteElements:
			for rest := o.elements; len(rest) > 0; {
				n := fitting(o, rest, room)
				if n == 0 && len(now) > 0 {
					flush()
					continue
				}
				n = max(n, 1)
				part := o
				part.elements, rest = rest[:n], rest[n:]
				now, room = append(now, part), room-part.bytes()
			}
		default:
			if o.bytes() > room {
				flush()
			}
			now, room = append(now, o), room-o.bytes()
		}
	}
	flush()
	return out
}

// fitting returns how many of the elements fit into room bytes.
func fitting(o op, elements []KeyedElement, room int) int {
	room -= opBytes
	for i, el := range elements {
		if room -= o.elementBytes(el); room < 0 {
			return i
		}
	}
	return len(elements)
}

// Upper bounds of the sizes of netlink messages, in bytes.
const (
	opBytes      = 256
	ruleBytes    = 1024
	stickyBytes  = 2048
	elementBytes = 64
)

// bytes bounds the size of the step's messages.
func (o op) bytes() int {
	n := opBytes
	for _, r := range o.chain.Rules {
		if r.Kind == Stick || r.Kind == PickAndStick {
			n += stickyBytes
		} else {
			n += ruleBytes
		}
	}
	for _, el := range o.elements {
		n += o.elementBytes(el)
	}
	return n
}

func (o op) elementBytes(el KeyedElement) int {
	n := elementBytes + len(el.Key) + len(el.Data) + len(el.Comment)
	if o.verb == replaceElements || o.verb == writeSet {
		n += elementBytes + len(el.Key)
	}
	return n
}
