package iptables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// service returns a Service with one TCP port, 80, and n endpoints.
func service(f model.Family, i, n int) *plan.Service {
	name := model.ServiceName{Namespace: "ns", Name: fmt.Sprintf("svc-%d", i)}
	port := plan.ServicePort{Name: model.ServicePortName{Service: name, Port: "http", Protocol: model.TCP}}
	action := plan.Balance
	if n == 0 {
		action = plan.Reject
	}
	others := plan.Route{Action: action, Masquerade: n > 0}
	port.Frontends = []plan.Frontend{{
		FrontendKey: plan.FrontendKey{Addr: vip(f, i), Protocol: model.TCP, Port: 80},
		Pods:        plan.Route{Action: action}, Node: others, Outside: others,
	}}
	for e := range n {
		port.Endpoints = append(port.Endpoints, plan.Endpoint{Addr: pod(f, i, e), Port: 8080})
	}
	return &plan.Service{Name: name, Ports: []plan.ServicePort{port}}
}

// vip returns the ClusterIP of Service i, all over a /12 as an API server allocates them.
func vip(f model.Family, i int) netip.Addr {
	h := uint32(i+1) * 2654435761 >> 12
	if f == model.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10:96::%x:%x", h>>16, h&0xffff))
	}
	return netip.AddrFrom4([4]byte{10, 96 + byte(h>>16), byte(h >> 8), byte(h)})
}

func pod(f model.Family, i, e int) netip.Addr {
	h := i*16 + e
	if f == model.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x:%x", h>>16, h&0xffff))
	}
	return netip.AddrFrom4([4]byte{10, 200 + byte(h>>16), byte(h >> 8), byte(h)})
}

func config(f model.Family) plan.Config {
	c := plan.Config{Family: f, MasqueradeMark: plan.DefaultMasqueradeMark}
	if f == model.IPv6 {
		c.Detector.Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00:10:244::/48")}
	} else {
		c.Detector.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	}
	return c
}

// planOf returns a plan of the given Services.
func planOf(f model.Family, services ...*plan.Service) *plan.Plan {
	p := &plan.Plan{Config: config(f), Services: map[model.ServiceName]*plan.Service{}}
	for _, s := range services {
		p.Services[s.Name] = s
	}
	return p
}

// full returns the change that brings a whole plan.
func full(p *plan.Plan) plan.Change {
	return plan.Change{Config: p.Config, Services: maps.Clone(p.Services), Full: true}
}

// some returns a few Services of all kinds: kube-dns, one without endpoints, one of SCTP, one with many.
func some(f model.Family) []*plan.Service {
	sctp := service(f, 7, 3)
	sctp.Ports[0].Name.Protocol = model.SCTP
	sctp.Ports[0].Frontends[0].Protocol = model.SCTP
	return []*plan.Service{kubeDNS(f), service(f, 1, 0), service(f, 2, 1), service(f, 3, 7), service(f, 4, 101), sctp}
}

// kubeDNS returns the Service that every cluster has, with two endpoints.
func kubeDNS(f model.Family) *plan.Service {
	name := model.ServiceName{Namespace: "kube-system", Name: "kube-dns"}
	ip, ends := netip.MustParseAddr("10.96.0.10"), []string{"10.244.0.3", "10.244.0.4"}
	if f == model.IPv6 {
		ip, ends = netip.MustParseAddr("fd00:10:96::a"), []string{"fd00:10:244::3", "fd00:10:244::4"}
	}
	s := &plan.Service{Name: name}
	for _, p := range []model.ServicePort{{Name: "dns", Protocol: model.UDP, Port: 53},
		{Name: "dns-tcp", Protocol: model.TCP, Port: 53}, {Name: "metrics", Protocol: model.TCP, Port: 9153}} {
		port := plan.ServicePort{Name: model.ServicePortName{Service: name, Port: p.Name, Protocol: p.Protocol}}
		others := plan.Route{Masquerade: true}
		port.Frontends = []plan.Frontend{{FrontendKey: plan.FrontendKey{Addr: ip, Protocol: p.Protocol, Port: p.Port}, Node: others, Outside: others}}
		for _, e := range ends {
			port.Endpoints = append(port.Endpoints, plan.Endpoint{Addr: netip.MustParseAddr(e), Port: p.Port})
		}
		s.Ports = append(s.Ports, port)
	}
	return s
}

// without returns a copy of a Service that lacks its last endpoint.
func without(s *plan.Service) *plan.Service {
	c := &plan.Service{Name: s.Name, Ports: slices.Clone(s.Ports)}
	c.Ports[0].Endpoints = c.Ports[0].Endpoints[:len(c.Ports[0].Endpoints)-1]
	return c
}
