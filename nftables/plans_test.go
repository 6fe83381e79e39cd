package nftables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// builder makes plans of one family in which the n-th Service and endpoint have predictable addresses.
type builder struct{ family model.Family }

func (b builder) vip(i int) netip.Addr {
	if b.family == model.IPv4 {
		return netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:96::%x:%x", i>>16, i&0xffff))
}

func (b builder) endpoint(i int) plan.Endpoint {
	if b.family == model.IPv4 {
		return plan.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)}), Port: 8080}
	}
	return plan.Endpoint{Addr: netip.MustParseAddr(fmt.Sprintf("fd00:244::%x:%x", i>>16, i&0xffff)), Port: 8080}
}

func (b builder) endpoints(from, n int) []plan.Endpoint {
	var out []plan.Endpoint
	for i := range n {
		out = append(out, b.endpoint(from+i))
	}
	return out
}

func (b builder) config() plan.Config {
	pods, services := "10.128.0.0/9", "10.96.0.0/12"
	if b.family == model.IPv6 {
		pods, services = "fd00:244::/64", "fd00:96::/108"
	}
	return plan.Config{Family: b.family, NodeName: "here", GuardClusterIPs: true, MasqueradeMark: plan.DefaultMasqueradeMark,
		Detector:     plan.Detector{Prefixes: []netip.Prefix{netip.MustParsePrefix(pods)}},
		NodePorts:    plan.NodePorts{All: true},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix(services)}}
}

// service returns a Service with one port per protocol, at the i-th ClusterIP.
func (b builder) service(i int, endpoints []plan.Endpoint, protocols ...model.Protocol) *plan.Service {
	s := &plan.Service{Name: serviceName(i)}
	for _, proto := range protocols {
		action := plan.Balance
		if len(endpoints) == 0 {
			action = plan.Reject
		}
		s.Ports = append(s.Ports, plan.ServicePort{
			Name:      model.ServicePortName{Service: s.Name, Port: "p" + proto.String(), Protocol: proto},
			Endpoints: endpoints,
			Frontends: []plan.Frontend{{FrontendKey: plan.FrontendKey{Addr: b.vip(i), Protocol: proto, Port: 80}, Pods: plan.Route{Action: action}, Node: plan.Route{Action: action}, Outside: plan.Route{Action: action}}},
		})
	}
	return s
}

func serviceName(i int) model.ServiceName {
	return model.ServiceName{Namespace: "test", Name: fmt.Sprintf("svc-%d", i)}
}

func planOf(c plan.Config, services ...*plan.Service) *plan.Plan {
	p := &plan.Plan{Config: c, Services: map[model.ServiceName]*plan.Service{}}
	for _, s := range services {
		p.Services[s.Name] = s
	}
	return p
}

func full(p *plan.Plan) plan.Change {
	return plan.Change{Config: p.Config, Services: p.Services, Full: true}
}

func partial(c plan.Config, services ...*plan.Service) plan.Change {
	return plan.Change{Config: c, Services: planOf(c, services...).Services}
}

// random returns a Service as it might come, with endpoints that it shares with others.
func (b builder) random(r *rand.Rand, i int) *plan.Service {
	var endpoints []plan.Endpoint
	for range r.IntN(6) {
		endpoints = append(endpoints, b.endpoint(r.IntN(20)))
	}
	slices.SortFunc(endpoints, plan.Endpoint.Compare)
	endpoints = slices.Compact(endpoints)
	protocols := []model.Protocol{model.TCP, model.UDP, model.SCTP}
	r.Shuffle(len(protocols), func(i, j int) { protocols[i], protocols[j] = protocols[j], protocols[i] })
	protocols = protocols[:1+r.IntN(3)]
	s := b.service(i, endpoints, protocols...)
	if r.IntN(4) == 0 && i > 0 { // a second Service at one ClusterIP, at a port of its own
		for p := range s.Ports {
			s.Ports[p].Frontends[0].Addr, s.Ports[p].Frontends[0].Port = b.vip(i-1), 81
		}
	}
	return s
}

// prefixBehind returns the prefix of the same length that follows.
func prefixBehind(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(addrOf(behind(p)), p.Bits()) }

// own returns the i-th of the node's own addresses.
func (b builder) own(i int) netip.Addr {
	if b.family == model.IPv4 {
		return netip.AddrFrom4([4]byte{192, 0, 2, 1 + byte(i)})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:2::%x", 1+i))
}

// outer returns the i-th address outside the cluster, whose prefix of the given length has many.
func (b builder) outer(i int) netip.Addr {
	if b.family == model.IPv4 {
		return netip.AddrFrom4([4]byte{198, 51, 100, 1 + byte(i)})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:51::%x", 1+i))
}

// configs are configurations that between them have every rule of the base chains.
func (b builder) configs() map[string]plan.Config {
	change := func(f func(c *plan.Config)) plan.Config {
		c := b.config()
		c.NodeAddrs = []netip.Addr{b.own(0)}
		f(&c)
		return c
	}
	return map[string]plan.Config{
		"pods by prefix":    change(func(*plan.Config) {}),
		"pods by interface": change(func(c *plan.Config) { c.Detector = plan.Detector{Interface: "cni0"} }),
		"pods by interfaces": change(func(c *plan.Config) {
			c.Detector, c.NodePorts = plan.Detector{Interface: "veth+"}, plan.NodePorts{Prefixes: []netip.Prefix{netip.PrefixFrom(b.own(0), b.own(0).BitLen())}}
		}),
		"no pods":        change(func(c *plan.Config) { c.Detector, c.NodePorts = plan.Detector{}, plan.NodePorts{} }),
		"masquerade all": change(func(c *plan.Config) { c.MasqueradeAll, c.MasqueradeMark, c.GuardClusterIPs = true, 1<<20, false }),
	}
}

// inputs returns Services with every kind of frontend, policy and endpoint.
func (b builder) inputs(r *rand.Rand, n int) []plan.Input {
	var out []plan.Input
	for i := range n {
		out = append(out, b.input(r, i))
	}
	return out
}

func (b builder) input(r *rand.Rand, i int) plan.Input {
	coin := func() bool { return r.IntN(2) == 0 }
	s := &model.Service{Name: serviceName(i), ClusterIPs: []netip.Addr{b.vip(i)}, ExternalLocal: coin(), InternalLocal: r.IntN(4) == 0}
	if r.IntN(3) == 0 {
		s.Affinity = []time.Duration{time.Hour, 3 * time.Hour}[r.IntN(2)]
	}
	for range r.IntN(3) {
		s.ExternalIPs = append(s.ExternalIPs, []netip.Addr{b.outer(r.IntN(4)), b.own(r.IntN(2))}[r.IntN(2)])
	}
	for range r.IntN(3) {
		s.LoadBalancerIPs = append(s.LoadBalancerIPs, []netip.Addr{b.outer(100 + r.IntN(4)), b.own(r.IntN(2))}[r.IntN(2)])
	}
	for range r.IntN(3) {
		from := []netip.Addr{b.outer(r.IntN(4)), b.own(0), b.endpoint(r.IntN(6)).Addr}[r.IntN(3)]
		p, _ := from.Prefix(from.BitLen() - r.IntN(9))
		s.SourceRanges = append(s.SourceRanges, p)
	}
	sl := &model.Slice{Name: model.SliceName{Namespace: "test", Name: s.Name.Name}, Service: s.Name, Family: b.family}
	for k, proto := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
		if k > 0 && coin() {
			continue
		}
		name := "p" + proto.String()
		port := model.ServicePort{Name: name, Protocol: proto, Port: 80 + uint16(r.IntN(3))}
		if coin() {
			port.NodePort = 78 + uint16(r.IntN(20)) // as low as Services' own ports, which come first
		}
		s.Ports = append(s.Ports, port)
		sl.Ports = append(sl.Ports, model.SlicePort{Name: name, Protocol: proto, Port: 8080})
	}
	for range r.IntN(5) {
		addr := b.endpoint(r.IntN(6)).Addr
		if r.IntN(6) == 0 {
			addr = b.own(0) // a process of the node's
		}
		e := model.Endpoint{Addr: addr, Ready: true, Serving: true, NodeName: []string{"here", "there"}[r.IntN(2)]}
		sl.Endpoints = append(sl.Endpoints, e)
	}
	return plan.Input{Name: s.Name, Service: s, Slices: []*model.Slice{sl}}
}
