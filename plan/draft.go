package plan

import (
	"net/netip"
	"slices"

	"svcproxy/model"
)

// draft decides about a Service by itself.
func (c *Config) draft(in Input) *draft {
	d := &draft{created: in.Service.Created}
	if c.serves(in.Service) {
		d.health.Port = in.Service.HealthCheckNodePort
	}
	ready := map[netip.Addr]bool{}
	for _, sp := range in.Service.Ports {
		port := ServicePort{Name: in.Service.PortName(sp), Affinity: in.Service.Affinity}
		ch := c.endpoints(port.Name, in.Slices)
		port.Frontends = c.frontends(in.Service, sp, &ch)
		port.take(&ch)
		if slices.ContainsFunc(port.Frontends, func(f Frontend) bool { return f.Kind == LoadBalancer }) {
			port.SourceRanges = c.sourceRanges(in.Service)
			port.OwnSource = slices.ContainsFunc(c.NodeAddrs, func(a netip.Addr) bool { return inAny(port.SourceRanges, a) })
		}
		d.ports = append(d.ports, port)
		if d.health.Port != 0 {
			c.readyHere(port.Name, in.Slices, ready)
		}
	}
	d.health.Ready = len(ready)
	slices.SortFunc(d.ports, func(a, b ServicePort) int { return a.Name.Compare(b.Name) })
	return d
}

// take gives the port the lists that its frontends' routes lead to.
func (p *ServicePort) take(ch *choice) {
	var cluster, local bool
	for _, f := range p.Frontends {
		for _, r := range f.Routes() {
			cluster = cluster || !r.Local && r.Action != Drop
			local = local || r.Local || r.Action == Drop
		}
	}
	if cluster {
		p.Endpoints = ch.cluster.taken
	}
	if local {
		p.Local = ch.local.taken
	}
	p.Excluded = ch.excluded(cluster || !local, local)
}

// frontends returns the frontends of one port, in order, each key once.
func (c *Config) frontends(s *model.Service, sp model.ServicePort, ch *choice) []Frontend {
	internal, external := c.internalRoutes(s.InternalLocal, ch), c.externalRoutes(s.ExternalLocal, ch)
	var out []Frontend
	add := func(kind FrontendKind, a netip.Addr, port uint16, routes Frontend) {
		if a.IsValid() && model.FamilyOf(a) != c.Family {
			return
		}
		routes.FrontendKey = FrontendKey{Addr: a, Protocol: sp.Protocol, Port: port}
		routes.Kind = kind
		if !slices.ContainsFunc(out, func(f Frontend) bool { return f.FrontendKey == routes.FrontendKey }) {
			out = append(out, routes)
		}
	}
	if !c.serves(s) {
		return nil
	}
	for _, a := range s.ClusterIPs {
		add(ClusterIP, a, sp.Port, internal)
	}
	// A load balancer's address comes before the same one as an external IP, as it may have source ranges.
	for _, a := range s.LoadBalancerIPs {
		add(LoadBalancer, a, sp.Port, external)
	}
	for _, a := range s.ExternalIPs {
		add(ExternalIP, a, sp.Port, external)
	}
	if sp.NodePort != 0 {
		add(NodePort, netip.Addr{}, sp.NodePort, external)
	}
	slices.SortFunc(out, func(a, b Frontend) int { return a.FrontendKey.Compare(b.FrontendKey) })
	return out
}

// serves tells whether a Service is of this family, which its ClusterIPs say, whatever else it names.
func (c *Config) serves(s *model.Service) bool {
	return slices.ContainsFunc(s.ClusterIPs, func(a netip.Addr) bool { return model.FamilyOf(a) == c.Family })
}

// internalRoutes returns the routes of ClusterIPs: one list for all, and who is no pod is masqueraded, since
// the answer might else take another way back.
func (c *Config) internalRoutes(local bool, ch *choice) Frontend {
	r := ch.base(local)
	pods, others := r, r
	if r.Action == Balance {
		pods.Masquerade = c.MasqueradeAll
		others.Masquerade = c.MasqueradeAll || c.Detector.Detects()
	}
	f := Frontend{Pods: pods, Node: others, Outside: others}
	if !c.Detector.Detects() {
		f.Pods = others
	}
	return f
}

// externalRoutes returns the routes of all other frontends. Under the policy Cluster everybody is masqueraded
// and gets all endpoints. Under the policy Local that is so for outside only that it keeps its address and
// gets this node's endpoints, while connections that don't leave the cluster on their way take the short
// cut to all endpoints, the node's own of them masqueraded.
func (c *Config) externalRoutes(local bool, ch *choice) Frontend {
	all, masqueraded := ch.base(false), ch.base(false)
	masqueraded.Masquerade = masqueraded.Action == Balance
	if !local {
		return Frontend{Pods: masqueraded, Node: masqueraded, Outside: masqueraded}
	}
	f := Frontend{Pods: all, Node: masqueraded, Outside: ch.base(true)}
	if !c.Detector.Detects() {
		f.Pods = f.Outside
	}
	return f
}

// sourceRanges returns the ranges that limit a load balancer, in order and without those inside others. As
// for kube-proxy, ranges of the other family don't count, and one that holds every address means no limit.
func (c *Config) sourceRanges(s *model.Service) []netip.Prefix {
	var found []netip.Prefix
	for _, r := range s.SourceRanges {
		if model.FamilyOf(r.Addr()) == c.Family {
			found = append(found, r.Masked())
		}
	}
	slices.SortFunc(found, netip.Prefix.Compare)
	var distinct []netip.Prefix
	for _, r := range found {
		if r.Bits() == 0 {
			return nil
		}
		if n := len(distinct); n == 0 || !distinct[n-1].Overlaps(r) {
			distinct = append(distinct, r)
		}
	}
	return distinct
}

func inAny(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// readyHere notes the addresses of a port's ready endpoints on this node.
func (c *Config) readyHere(name model.ServicePortName, all []*model.Slice, found map[netip.Addr]bool) {
	for _, e := range c.collect(name, all) {
		if e.ready && c.NodeName != "" && e.node == c.NodeName && !badAddress(e.Addr) && e.Port != 0 {
			found[e.Addr] = true
		}
	}
}
