package nftables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

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
	if b.family == model.IPv4 {
		return plan.Config{Family: b.family, Detector: plan.Detector{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}},
			ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}
	}
	return plan.Config{Family: b.family, Detector: plan.Detector{Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:244::/64")}},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("fd00:96::/108")}}
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
