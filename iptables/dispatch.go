package iptables

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

const (
	// flatLimit is the number of frontends up to which KUBE-SERVICES holds their rules itself, as
	// operators expect. Beyond it, the time that a connection which is not for a Service spends there
	// would count: some 3 ns a rule and packet.
	flatLimit = 256
	// leafLimit is the number of rules beyond which a chain that serves a prefix is divided in turn.
	leafLimit = 64
	// fanBits is by how many bits of the address a chain is divided, into 16 at most.
	fanBits = 4
)

// dispatch lays out the rules of a shared chain, which come in the order of compareFrontends and each name an
// address, and adds its chains to those given. Few rules stay flat. Many become a tree of chains for address
// prefixes, whose leaves hold them.
//
// The layout depends on nothing but the rules, so that an incremental change and a full one come to the
// same. Nor does it need hysteresis: a rule more or less divides or joins one chain of leafLimit rules, or
// once the flatLimit of them, and leaves the rest of the tree as it is.
func dispatch(root string, rules []Rule, chains map[string][]Rule) {
	chains[root] = divide(root, rules, flatLimit, chains)
}

// divide returns the rules of a chain that serves the given ones, and adds the chains that they lead to.
func divide(root string, rules []Rule, limit int, chains map[string][]Rule) []Rule {
	if len(rules) <= limit {
		return rules
	}
	first, last := rules[0].Dest.Addr(), rules[len(rules)-1].Dest.Addr()
	common := commonBits(first, last)
	if common == first.BitLen() {
		return rules
	}
	bits := common/fanBits*fanBits + fanBits
	var jumps []Rule
	for len(rules) > 0 {
		prefix, _ := rules[0].Dest.Addr().Prefix(bits)
		n, _ := slices.BinarySearchFunc(rules, prefix, func(r Rule, p netip.Prefix) int {
			if p.Contains(r.Dest.Addr()) {
				return -1
			}
			return 1
		})
		child := dispatchChain(root, prefix)
		chains[child] = divide(root, rules[:n:n], leafLimit, chains)
		jumps = append(jumps, Rule{Dest: prefix, Target: child, Comment: dispatchComment})
		rules = rules[n:]
	}
	return jumps
}

// dispatchComment explains the jumps to operators.
const dispatchComment = "service portals in this prefix"

// commonBits returns the length of the prefix that two addresses of one family share.
func commonBits(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			bits := i * 8
			for d&0x80 == 0 {
				d <<= 1
				bits++
			}
			return bits
		}
	}
	return a.BitLen()
}

// compareFrontends orders the rules of shared chains: by address, protocol and port; then those for certain
// sources come first and those that end a table last; the rest is to have one order for all.
func compareFrontends(a, b *Rule) int {
	return cmp.Or(a.Dest.Addr().Compare(b.Dest.Addr()), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.DestPort, b.DestPort), cmp.Compare(a.rank(), b.rank()), a.Source.Compare(b.Source),
		strings.Compare(a.Target, b.Target), strings.Compare(a.Comment, b.Comment), cmp.Compare(a.Dest.Bits(), b.Dest.Bits()))
}

// rank orders rules of one frontend.
func (r *Rule) rank() int {
	switch {
	case r.Source.IsValid():
		return 0
	case r.Target == targetAccept:
		return 2
	}
	return 1
}

// sortFrontends sorts rules of a shared chain.
func sortFrontends(rules []Rule) {
	slices.SortFunc(rules, func(a, b Rule) int { return compareFrontends(&a, &b) })
}

// replaceFrontends returns sorted rules without those of drop and with those of add, in order. It leaves
// rules as they are and sorts the others.
func replaceFrontends(rules, drop, add []Rule) []Rule {
	if slices.Equal(drop, add) {
		return rules
	}
	sortFrontends(drop)
	sortFrontends(add)
	merged := make([]Rule, 0, len(rules)+len(add))
	for i := range rules {
		r := &rules[i]
		for len(add) > 0 && compareFrontends(&add[0], r) <= 0 {
			merged, add = append(merged, add[0]), add[1:]
		}
		for len(drop) > 0 && compareFrontends(&drop[0], r) < 0 {
			drop = drop[1:]
		}
		if len(drop) > 0 && drop[0] == *r {
			drop = drop[1:]
			continue
		}
		merged = append(merged, *r)
	}
	return append(merged, add...)
}

// joinFrontends returns the rules of both, in order.
func joinFrontends(a, b []Rule) []Rule {
	joined := slices.Concat(a, b)
	sortFrontends(joined)
	return slices.Compact(joined)
}
