package conntrack

import (
	"iter"
	"net/netip"
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// Situation is what makes a flow stale.
type Situation struct {
	// Plan is what the kernel acknowledged for one family.
	Plan plan.Plan
	// Tombstones are the frontends that were acknowledged once, or that the kernel may have had, and that nobody
	// holds now. Of those that somebody holds they say nothing.
	Tombstones Tombstones
	// Host are the node's own addresses, at which node ports may answer.
	Host Host
	// Start says that frontends may have gone while nobody was there to see it, or node ports have answered
	// elsewhere, as in another proxy mode. Then the ranges that ClusterIPs are allocated from and all of the node's
	// own addresses stand for their tombstones.
	Start bool
}

// Tombstones are UDP frontends that are gone. Those of node ports name where they answered.
type Tombstones map[plan.FrontendKey][]plan.NodePorts

// Stale returns those of the flows that the rules would not make now and that go on all the same, in their
// order. They are the UDP flows of the default zone
//
//   - to a frontend, whose answers come from anywhere but one of the serving endpoints of its Service port:
//     from an endpoint that is gone, or from the frontend itself, as the flow was never translated;
//   - to a tombstone that no frontend replaces, if they are translated: others never were for a Service;
//   - at the start, to an address and port that is no frontend, in a Service range or of a node port at an address
//     of the node where none answers, if they are translated.
//
// A serving endpoint is any that takes the connections it has, whether it gets new ones or not.
func Stale(s Situation, flows iter.Seq[Flow]) iter.Seq[Flow] {
	return func(yield func(Flow) bool) {
		x := newIndex(&s)
		for f := range flows {
			if x.stale(&f) && !yield(f) {
				return
			}
		}
	}
}

// index answers in the same time for each flow, however many Services there are.
type index struct {
	*Situation
	frontends map[plan.FrontendKey]*plan.ServicePort
	// serving is made for a Service port when a flow of it is met.
	serving map[*plan.ServicePort]endpointSet
}

func newIndex(s *Situation) *index {
	x := &index{s, map[plan.FrontendKey]*plan.ServicePort{}, map[*plan.ServicePort]endpointSet{}}
	for _, service := range s.Plan.Services {
		addFrontends(x.frontends, service)
	}
	return x
}

// addFrontends adds a Service's UDP frontends; nil has none.
func addFrontends(to map[plan.FrontendKey]*plan.ServicePort, s *plan.Service) {
	if s == nil {
		return
	}
	for i := range s.Ports {
		if s.Ports[i].Name.Protocol != model.UDP {
			continue
		}
		for _, f := range s.Ports[i].Frontends {
			to[f.FrontendKey] = &s.Ports[i]
		}
	}
}

func (x *index) stale(f *Flow) bool {
	to := f.Original.Dest
	if f.Protocol != model.UDP || f.Zone != 0 || !to.IsValid() || model.FamilyOf(to.Addr()) != x.Plan.Config.Family {
		return false
	}
	if p := x.holder(to); p != nil {
		return !x.servedBy(p).has(f.Reply.Source)
	}
	return f.Translated() && (x.buried(to) || x.Start && (x.allocated(to.Addr()) || x.elsewhere(to)))
}

// holder returns who answers at an address. A frontend with an address of its own comes before a node port.
func (x *index) holder(to netip.AddrPort) *plan.ServicePort {
	if p := x.frontends[addressKey(to)]; p != nil {
		return p
	}
	p := x.frontends[nodePortKey(to)]
	if p == nil || !x.Host.Own(to.Addr()) || !x.Plan.Config.NodePorts.Match(to.Addr()) {
		return nil
	}
	return p
}

// buried tells whether a frontend that is gone answered there.
func (x *index) buried(to netip.AddrPort) bool {
	if _, was := x.Tombstones[addressKey(to)]; was {
		return true
	}
	at := x.Tombstones[nodePortKey(to)]
	return len(at) > 0 && x.Host.Own(to.Addr()) && slices.ContainsFunc(at, func(n plan.NodePorts) bool { return n.Match(to.Addr()) })
}

// allocated tells whether only a Service can have had an address.
func (x *index) allocated(a netip.Addr) bool {
	return slices.ContainsFunc(x.Plan.Config.ServiceCIDRs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// elsewhere tells whether a node port would answer if all of the node's addresses were node ports'.
func (x *index) elsewhere(to netip.AddrPort) bool {
	return x.frontends[nodePortKey(to)] != nil && x.Host.Own(to.Addr())
}

func addressKey(to netip.AddrPort) plan.FrontendKey {
	return plan.FrontendKey{Addr: to.Addr(), Protocol: model.UDP, Port: to.Port()}
}

func nodePortKey(to netip.AddrPort) plan.FrontendKey {
	return plan.FrontendKey{Protocol: model.UDP, Port: to.Port()}
}

// endpointSet are the serving endpoints of a Service port.
type endpointSet map[netip.AddrPort]struct{}

func (s endpointSet) has(e netip.AddrPort) bool {
	_, ok := s[e]
	return ok
}

func (x *index) servedBy(p *plan.ServicePort) endpointSet {
	s, known := x.serving[p]
	if !known {
		s = serving(p)
		x.serving[p] = s
	}
	return s
}

// serving returns the endpoints whose flows are left alone: those that get new ones by any route, and those
// that get none for reasons of topology, policy or because they terminate, but still serve.
func serving(p *plan.ServicePort) endpointSet {
	s := make(endpointSet, len(p.Endpoints)+len(p.Local)+len(p.Excluded))
	for _, list := range [][]plan.Endpoint{p.Endpoints, p.Local} {
		for _, e := range list {
			s[e.AddrPort()] = struct{}{}
		}
	}
	for _, e := range p.Excluded {
		if e.Serving {
			s[e.Endpoint.AddrPort()] = struct{}{}
		}
	}
	return s
}
