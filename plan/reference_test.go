package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
)

// reference says what Kubernetes documents to become of a packet. It starts from the packet and looks at the
// Services as they are given, so that it shares nothing with the Planner, which starts from the Services.
func reference(c Config, inputs []Input, p Packet) Outcome {
	to := p.Dest.Addr()
	held := holder(inputs, func(s *model.Service, sp model.ServicePort) (FrontendKind, bool) {
		return kindAt(c, s, sp, p)
	})
	if held == nil && ownAddress(p, to) && nodePortsAnswer(c, to) {
		held = holder(inputs, func(s *model.Service, sp model.ServicePort) (FrontendKind, bool) {
			return NodePort, sp.NodePort != 0 && sp.NodePort == p.Dest.Port() && sp.Protocol == p.Protocol && inFamily(c, s)
		})
	}
	if held != nil {
		return held.outcome(c, inputs, p)
	}
	if !c.GuardClusterIPs {
		return Outcome{}
	}
	for _, in := range inputs {
		if in.Service != nil && slices.Contains(in.Service.ClusterIPs, to) && len(in.Service.Ports) > 0 {
			return Outcome{Verdict: Refuse}
		}
	}
	for _, r := range c.ServiceCIDRs {
		if r.Contains(to) {
			return Outcome{Verdict: Discard}
		}
	}
	return Outcome{}
}

// holding is a Service port that answers a packet, and as what.
type holding struct {
	in   Input
	port model.ServicePort
	kind FrontendKind
}

// holder finds who answers: who has it as ClusterIP, else the oldest Service, else the first by name.
func holder(inputs []Input, at func(*model.Service, model.ServicePort) (FrontendKind, bool)) *holding {
	var best *holding
	for _, in := range inputs {
		if in.Service == nil {
			continue
		}
		for _, sp := range in.Service.Ports {
			if kind, ok := at(in.Service, sp); ok {
				if h := (&holding{in, sp, kind}); best == nil || h.beats(best) {
					best = h
				}
			}
		}
	}
	return best
}

func (h *holding) beats(o *holding) bool {
	if (h.kind == ClusterIP) != (o.kind == ClusterIP) {
		return h.kind == ClusterIP
	}
	if a, b := h.in.Service.Created, o.in.Service.Created; !a.Equal(b) {
		return a.Before(b)
	}
	return cmp.Or(strings.Compare(h.in.Name.Namespace, o.in.Name.Namespace), strings.Compare(h.in.Name.Name, o.in.Name.Name),
		strings.Compare(h.port.Name, o.port.Name)) < 0
}

func inFamily(c Config, s *model.Service) bool {
	for _, a := range s.ClusterIPs {
		if a.Is4() == (c.Family == model.IPv4) {
			return true
		}
	}
	return false
}

func kindAt(c Config, s *model.Service, sp model.ServicePort, p Packet) (FrontendKind, bool) {
	if sp.Protocol != p.Protocol || sp.Port != p.Dest.Port() || !inFamily(c, s) {
		return 0, false
	}
	switch a := p.Dest.Addr(); {
	case slices.Contains(s.ClusterIPs, a):
		return ClusterIP, true
	case slices.Contains(s.LoadBalancerIPs, a):
		return LoadBalancer, true
	case slices.Contains(s.ExternalIPs, a):
		return ExternalIP, true
	}
	return 0, false
}

func ownAddress(p Packet, a netip.Addr) bool { return a.IsLoopback() || slices.Contains(p.Host, a) }

func nodePortsAnswer(c Config, a netip.Addr) bool {
	if a.IsLoopback() && (!c.NodePorts.Loopback || a.Is6()) {
		return false
	}
	return c.NodePorts.All || slices.ContainsFunc(c.NodePorts.Prefixes, func(r netip.Prefix) bool { return r.Contains(a) })
}

// isPod tells whether detectLocalMode takes a packet for one of a pod.
func isPod(c Config, p Packet) bool {
	for _, r := range c.Detector.Prefixes {
		if r.Contains(p.Source) {
			return true
		}
	}
	name := c.Detector.Interface
	if strings.HasSuffix(name, "+") {
		return p.Interface != "" && strings.HasPrefix(p.Interface, strings.TrimSuffix(name, "+"))
	}
	return name != "" && p.Interface == name
}

func (h *holding) outcome(c Config, inputs []Input, p Packet) Outcome {
	s, detects := h.in.Service, len(c.Detector.Prefixes) > 0 || c.Detector.Interface != ""
	if h.kind == LoadBalancer && h.shutOut(c, inputs, p) {
		return Outcome{Verdict: Discard}
	}
	pod, node := isPod(c, p), ownAddress(p, p.Source)
	var local, masquerade bool
	switch {
	case h.kind == ClusterIP:
		local, masquerade = s.InternalLocal, c.MasqueradeAll || detects && !pod
	case !s.ExternalLocal:
		masquerade = true
	case pod: // goes out to the load balancer and comes back, as it were
	case node:
		masquerade = true
	default:
		local = true
	}
	cluster, here := h.endpoints(c)
	list := cluster
	if local {
		list = here
	}
	switch {
	case len(cluster) == 0:
		return Outcome{Verdict: Refuse}
	case len(list) == 0:
		return Outcome{Verdict: Discard}
	}
	o := Outcome{Verdict: Translate, Affinity: s.Affinity}
	for _, e := range list {
		arrives := p.Interface != "" && ownAddress(p, e.Addr()) // and so never meets postrouting
		o.Targets = append(o.Targets, Target{e, 1 / float64(len(list)), (masquerade || e.Addr() == p.Source) && !arrives})
	}
	return o
}

// shutOut tells whether the source ranges of a load balancer keep a packet away.
func (h *holding) shutOut(c Config, inputs []Input, p Packet) bool {
	var limited, nodeInside bool
	for _, r := range h.in.Service.SourceRanges {
		if r.Addr().Is4() != (c.Family == model.IPv4) {
			continue
		}
		limited = true
		if r.Contains(p.Source) || r.Bits() == 0 {
			return false
		}
		nodeInside = nodeInside || slices.ContainsFunc(c.NodeAddrs, r.Contains)
	}
	return limited && (!nodeInside || !h.balancesAt(c, inputs, p))
}

// balancesAt tells whether a packet comes from an address that is the same port's load balancer.
func (h *holding) balancesAt(c Config, inputs []Input, p Packet) bool {
	p.Dest = netip.AddrPortFrom(p.Source, h.port.Port)
	o := holder(inputs, func(s *model.Service, sp model.ServicePort) (FrontendKind, bool) { return kindAt(c, s, sp, p) })
	return o != nil && o.kind == LoadBalancer && o.in.Name == h.in.Name && o.port == h.port
}

// endpoints returns what the policies Cluster and Local take, each in order.
func (h *holding) endpoints(c Config) (cluster, here []netip.AddrPort) {
	known := map[netip.AddrPort]model.Endpoint{}
	for _, sl := range h.in.Slices {
		for _, sp := range sl.Ports {
			for _, e := range sl.Endpoints {
				at := netip.AddrPortFrom(e.Addr, sp.Port)
				if sl.Family != c.Family || sp.Name != h.port.Name || sp.Protocol != h.port.Protocol || sp.Port == 0 || badAddress(e.Addr) {
					continue
				}
				if old, twice := known[at]; !twice || worse(old, e) {
					known[at] = e
				}
			}
		}
	}
	isHere := func(e model.Endpoint) bool { return c.NodeName != "" && e.NodeName == c.NodeName }
	wanted := hintedFor(c, known)
	cluster = pick(known, func(model.Endpoint) bool { return true }, wanted)
	here = pick(known, isHere, isHere)
	return cluster, here
}

// worse tells whether a duplicate of an endpoint replaces it.
func worse(old, e model.Endpoint) bool {
	if old.Terminating != e.Terminating {
		return old.Terminating
	}
	if old.Ready != e.Ready {
		return e.Ready
	}
	return e.Serving && !old.Serving
}

// pick returns the ready endpoints that are wanted, or, where among the eligible none is ready, those that
// serve while they terminate.
func pick(known map[netip.AddrPort]model.Endpoint, eligible, wanted func(model.Endpoint) bool) (out []netip.AddrPort) {
	ready := false
	for _, e := range known {
		ready = ready || eligible(e) && e.Ready
	}
	for at, e := range known {
		if ready && e.Ready && wanted(e) || !ready && eligible(e) && e.Serving && e.Terminating {
			out = append(out, at)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// hintedFor returns what topology wants: node hints if all have one and one names this node, else zone hints
// alike, else everything.
func hintedFor(c Config, known map[netip.AddrPort]model.Endpoint) func(model.Endpoint) bool {
	nodes, zones, forNode, forZone := true, true, false, false
	for _, e := range known {
		if e.Ready {
			nodes, zones = nodes && len(e.NodeHints) > 0, zones && len(e.ZoneHints) > 0
			forNode = forNode || c.NodeName != "" && slices.Contains(e.NodeHints, c.NodeName)
			forZone = forZone || c.Zone != "" && slices.Contains(e.ZoneHints, c.Zone)
		}
	}
	return func(e model.Endpoint) bool {
		switch {
		case nodes && forNode:
			return slices.Contains(e.NodeHints, c.NodeName)
		case zones && forZone:
			return slices.Contains(e.ZoneHints, c.Zone)
		}
		return true
	}
}
