package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"svcproxy/model"
)

// candidate is an endpoint of a Service port as the slices give it.
type candidate struct {
	Endpoint
	ready, serving, terminating bool
}

// endpoints decides which endpoints of a Service port get new connections: those that are ready, or, if
// there are none, those that still serve while they terminate (KEP-1669).
func endpoints(name model.ServicePortName, family model.Family, all []*model.Slice) (taken []Endpoint, excluded []Exclusion) {
	candidates := collect(name, family, all)
	usable := candidates[:0]
	for _, c := range candidates {
		switch {
		case badAddress(c.Addr):
			excluded = append(excluded, Exclusion{c.Endpoint, BadAddress})
		case c.Port == 0:
			excluded = append(excluded, Exclusion{c.Endpoint, ZeroPort})
		default:
			usable = append(usable, c)
		}
	}
	fallback := !slices.ContainsFunc(usable, func(c candidate) bool { return c.ready })
	for _, c := range usable {
		switch {
		case c.ready, fallback && c.serving && c.terminating:
			taken = append(taken, c.Endpoint)
		case c.serving && c.terminating:
			excluded = append(excluded, Exclusion{c.Endpoint, Terminating})
		default:
			excluded = append(excluded, Exclusion{c.Endpoint, NotReady})
		}
	}
	slices.SortFunc(excluded, func(a, b Exclusion) int { return a.Endpoint.Compare(b.Endpoint) })
	return taken, excluded
}

// collect merges the slices of a Service into candidates in order, one for each address and port. Of
// duplicates the one that is not terminating counts, then the one that is ready.
func collect(name model.ServicePortName, family model.Family, all []*model.Slice) []candidate {
	var found []candidate
	for _, s := range all {
		if s.Family != family {
			continue
		}
		for _, p := range s.Ports {
			if p.Name != name.Port || p.Protocol != name.Protocol {
				continue
			}
			for _, e := range s.Endpoints {
				found = append(found, candidate{Endpoint{e.Addr, p.Port}, e.Ready, e.Serving, e.Terminating})
			}
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(a.Compare(b.Endpoint), compareBool(a.terminating, b.terminating),
			compareBool(b.ready, a.ready), compareBool(b.serving, a.serving))
	})
	return slices.CompactFunc(found, func(a, b candidate) bool { return a.Endpoint == b.Endpoint })
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// badAddress tells whether an endpoint address could be used to reach what its owner must not reach
// through a Service (CVE-2021-25737): the node's loopback, its link, or no single host at all.
func badAddress(a netip.Addr) bool {
	return !a.IsValid() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified()
}
