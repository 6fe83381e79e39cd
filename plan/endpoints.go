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
	node                        string
	nodeHints, zoneHints        []string
}

// choice is what the endpoints of a Service port come to under each traffic policy.
type choice struct {
	// bad can never be used.
	bad            []Exclusion
	cluster, local selection
}

// selection are the endpoints that get new connections, and those that don't.
type selection struct {
	taken []Endpoint
	left  []Exclusion
}

// endpoints decides which endpoints of a Service port get new connections. Under the traffic policy Cluster
// they are the ready ones that topology allows, or, if none is ready, those that still serve while they
// terminate (KEP-1669); under the policy Local the same of this node, without regard to topology.
func (c *Config) endpoints(name model.ServicePortName, all []*model.Slice) choice {
	var ch choice
	var usable []candidate
	for _, e := range c.collect(name, all) {
		switch {
		case badAddress(e.Addr):
			ch.bad = append(ch.bad, Exclusion{e.Endpoint, BadAddress, false})
		case e.Port == 0:
			ch.bad = append(ch.bad, Exclusion{e.Endpoint, ZeroPort, false})
		default:
			usable = append(usable, e)
		}
	}
	ch.cluster = choose(usable, c.topology(usable))
	ch.local = c.onThisNode(usable)
	return ch
}

// base returns the route of a traffic policy, but for its masquerading.
func (ch *choice) base(local bool) Route {
	switch {
	case len(ch.cluster.taken) == 0:
		return Route{Action: Reject}
	case local && len(ch.local.taken) == 0:
		return Route{Action: Drop}
	}
	return Route{Local: local}
}

// excluded returns the endpoints that get no new connections by any of the lists in use.
func (ch *choice) excluded(cluster, local bool) []Exclusion {
	out := slices.Clone(ch.bad)
	for _, e := range ch.cluster.left {
		if !local || !slices.Contains(ch.local.taken, e.Endpoint) {
			out = append(out, e)
		}
	}
	if !cluster {
		out = slices.Concat(ch.bad, ch.local.left)
	}
	slices.SortFunc(out, func(a, b Exclusion) int { return a.Endpoint.Compare(b.Endpoint) })
	return out
}

// onThisNode chooses among the endpoints of this node.
func (c *Config) onThisNode(all []candidate) selection {
	var here []candidate
	var elsewhere []Exclusion
	for _, e := range all {
		if c.NodeName != "" && e.node == c.NodeName {
			here = append(here, e)
		} else {
			elsewhere = append(elsewhere, Exclusion{e.Endpoint, NotHere, e.serving})
		}
	}
	s := choose(here, nil)
	s.left = append(s.left, elsewhere...)
	return s
}

// choose takes the ready endpoints, save those for which other returns a reason, or, if none is ready,
// those that still serve while they terminate.
func choose(all []candidate, other func(candidate) Reason) (s selection) {
	anyReady := slices.ContainsFunc(all, func(e candidate) bool { return e.ready })
	for _, e := range all {
		var why Reason
		switch {
		case e.ready && other != nil:
			why = other(e)
		case e.ready:
		case e.serving && e.terminating && anyReady:
			why = Terminating
		case e.serving && e.terminating:
		default:
			why = NotReady
		}
		if why == "" {
			s.taken = append(s.taken, e.Endpoint)
		} else {
			s.left = append(s.left, Exclusion{e.Endpoint, why, e.serving})
		}
	}
	return s
}

// topology returns what tells the endpoints that are hinted elsewhere, or nil if hints don't count. They
// count only if every ready endpoint has one and at least one names this node, or else its zone, so that
// nobody is left without endpoints while hints are being assigned.
func (c *Config) topology(all []candidate) func(candidate) Reason {
	for _, by := range []struct {
		here  string
		hints func(candidate) []string
		why   Reason
	}{
		{c.NodeName, func(e candidate) []string { return e.nodeHints }, OtherNode},
		{c.Zone, func(e candidate) []string { return e.zoneHints }, OtherZone},
	} {
		if by.here == "" {
			continue
		}
		hinted, named := true, false
		for _, e := range all {
			if e.ready {
				hinted = hinted && len(by.hints(e)) > 0
				named = named || slices.Contains(by.hints(e), by.here)
			}
		}
		if hinted && named {
			return func(e candidate) Reason {
				if slices.Contains(by.hints(e), by.here) {
					return ""
				}
				return by.why
			}
		}
	}
	return nil
}

// collect merges the slices of a Service into candidates in order, one for each address and port. Of
// duplicates the one that is not terminating counts, then the one that is ready.
func (c *Config) collect(name model.ServicePortName, all []*model.Slice) []candidate {
	var found []candidate
	for _, s := range all {
		if s.Family != c.Family {
			continue
		}
		for _, p := range s.Ports {
			if p.Name != name.Port || p.Protocol != name.Protocol {
				continue
			}
			for _, e := range s.Endpoints {
				remote := c.NodeName != "" && e.NodeName != "" && e.NodeName != c.NodeName
				found = append(found, candidate{Endpoint{e.Addr, p.Port, remote}, e.Ready, e.Serving, e.Terminating, e.NodeName, e.NodeHints, e.ZoneHints})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(a.Compare(b.Endpoint), compareBool(a.terminating, b.terminating),
			compareBool(b.ready, a.ready), compareBool(b.serving, a.serving))
	})
	return slices.CompactFunc(found, func(a, b candidate) bool { return a.Addr == b.Addr && a.Port == b.Port })
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
	return !a.IsValid() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
