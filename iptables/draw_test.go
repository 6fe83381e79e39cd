package iptables

import (
	"net/netip"
	"time"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/plan"
)

// The drawn clusters are tiny, so that everything meets everything. Addresses are written for IPv4 alone; those
// of IPv6 follow from them.

// in returns an address of a family, given as that of IPv4.
func in(f model.Family, a string) netip.Addr {
	v4 := netip.MustParseAddr(a)
	switch {
	case f == model.IPv4:
		return v4
	case v4.IsLoopback():
		return netip.IPv6Loopback()
	}
	b := v4.As4()
	return netip.AddrFrom16([16]byte{0xfd, b[0], b[1], b[2], 15: b[3]})
}

func all(f model.Family, addrs ...string) (found []netip.Addr) {
	for _, a := range addrs {
		found = append(found, in(f, a))
	}
	return found
}

// within returns prefixes of a family, given as those of IPv4.
func within(f model.Family, prefixes ...string) (found []netip.Prefix) {
	for _, s := range prefixes {
		p := netip.MustParsePrefix(s)
		if f == model.IPv6 {
			bits := map[int]int{0: 0, 1: 1, 16: 24, 24: 32, 32: 128}[p.Bits()]
			if p.Addr().IsLoopback() {
				bits = 128
			}
			p = netip.PrefixFrom(in(f, p.Addr().String()), bits).Masked()
		}
		found = append(found, p)
	}
	return found
}

func one[T any](t *rapid.T, label string, from ...T) T { return rapid.SampledFrom(from).Draw(t, label) }

func several[T comparable](t *rapid.T, label string, from ...T) []T {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, 2, rapid.ID[T]).Draw(t, label)
}

const drawnNode = "n1"

// drawConfig draws everything that a plan depends on besides Services.
func drawConfig(t *rapid.T, f model.Family) plan.Config {
	return plan.Config{
		Family: f, NodeName: drawnNode, NodeAddrs: all(f, "192.168.0.1"),
		Detector: one(t, "detector", plan.Detector{}, plan.Detector{Prefixes: within(f, "10.244.0.0/16")},
			plan.Detector{Prefixes: within(f, "10.244.1.0/24", "10.244.2.0/24")}, plan.Detector{Prefixes: within(f, "0.0.0.0/0")},
			plan.Detector{Interface: "veth1"}, plan.Detector{Interface: "veth+"}),
		NodePorts: one(t, "node ports", plan.NodePorts{}, plan.NodePorts{All: true}, plan.NodePorts{All: true, Loopback: true},
			plan.NodePorts{Prefixes: within(f, "192.168.0.0/24")}, plan.NodePorts{Prefixes: within(f, "192.168.0.1/32", "127.0.0.0/8"), Loopback: true},
			plan.NodePorts{Prefixes: within(f, "127.0.0.0/8")}, plan.NodePorts{Prefixes: within(f, "0.0.0.0/1", "192.168.0.1/32")}),
		MasqueradeAll:  rapid.Bool().Draw(t, "masquerade all"),
		MasqueradeMark: one(t, "mark", uint32(0), plan.DefaultMasqueradeMark, 1<<31),
	}
}

var drawnPorts = []uint16{80, 443, 30080}

// drawInput draws a Service with its slices, or that it is gone.
func drawInput(t *rapid.T, f model.Family) plan.Input {
	name := model.ServiceName{Namespace: "default", Name: one(t, "name", "a", "b", "c", "d")}
	if one(t, "gone", false, false, false, true) {
		return plan.Input{Name: name}
	}
	external := all(f, "198.51.100.1", "198.51.100.2", "192.168.0.1", "192.168.0.2")
	s := &model.Service{
		Name: name, ClusterIPs: all(f, one(t, "ClusterIP", "10.96.0.1", "10.96.0.2", "10.96.0.3")),
		ExternalIPs: several(t, "external IPs", external...), LoadBalancerIPs: several(t, "load balancer", external...),
		SourceRanges:        several(t, "ranges", within(f, "203.0.113.0/24", "192.168.0.0/24", "10.244.0.0/16", "0.0.0.0/1")...),
		Affinity:            one(t, "affinity", 0, time.Hour, 10800*time.Second),
		HealthCheckNodePort: one(t, "health check", uint16(0), 32000),
		ExternalLocal:       rapid.Bool().Draw(t, "external Local"), InternalLocal: rapid.Bool().Draw(t, "internal Local"),
	}
	input := plan.Input{Name: name, Service: s}
	slice := &model.Slice{Service: name, Family: f}
	for i, n := range drawnPorts {
		port := model.ServicePort{Name: []string{"a", "b", "c"}[i], Port: n, Protocol: one(t, "protocol", model.TCP, model.UDP),
			NodePort: one(t, "node port", uint16(0), 30080, 30081, 80)}
		s.Ports = append(s.Ports, port)
		slice.Ports = append(slice.Ports, model.SlicePort{Name: port.Name, Protocol: port.Protocol, Port: 8080})
	}
	for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
		ready := one(t, "ready", true, true, false)
		slice.Endpoints = append(slice.Endpoints, model.Endpoint{
			Addr:  in(f, one(t, "endpoint", "10.244.1.1", "10.244.1.2", "10.244.2.1", "10.244.2.2", "192.168.0.1")),
			Ready: ready, Serving: ready || rapid.Bool().Draw(t, "serving"), Terminating: !ready,
			NodeName: one(t, "on", drawnNode, "n2"),
		})
	}
	input.Slices = []*model.Slice{slice}
	return input
}

// packets returns connections from everywhere to everything in drawn clusters. Those from elsewhere to loopback
// addresses are no Service's business: the kernel drops them for what they are.
func packets(f model.Family) (found []plan.Packet) {
	own := all(f, "192.168.0.1", "10.244.1.254")
	for _, from := range []struct{ source, iface string }{
		{"10.244.1.1", "veth1"}, {"10.244.1.2", "veth2"}, {"10.244.2.1", "eth0"}, {"203.0.113.9", "eth0"}, {"192.168.0.9", "eth0"},
		{"172.16.0.1", "eth0"}, {"192.168.0.1", ""}, {"10.244.1.254", ""}, {"127.0.0.1", ""},
	} {
		for _, to := range all(f, "10.96.0.1", "10.96.0.2", "198.51.100.1", "192.168.0.1", "192.168.0.2", "127.0.0.1", "10.244.1.254", "10.244.1.1") {
			if to.IsLoopback() && from.iface != "" {
				continue
			}
			for _, port := range append([]uint16{30081}, drawnPorts...) {
				for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
					found = append(found, plan.Packet{Protocol: protocol, Source: in(f, from.source), Interface: from.iface,
						Dest: netip.AddrPortFrom(to, port), Host: own})
				}
			}
		}
	}
	return found
}

// classes returns a plan with a Service of each class, under the external policy Local and with source ranges.
func classes(f model.Family) *plan.Plan {
	c := plan.Config{Family: f, NodeName: drawnNode, NodeAddrs: all(f, "192.168.0.1"), NodePorts: plan.NodePorts{All: true, Loopback: true},
		Detector: plan.Detector{Prefixes: within(f, "10.244.1.0/24", "10.244.2.0/24")}}
	var inputs []plan.Input
	for i, on := range []string{drawnNode, "n2", ""} {
		name := model.ServiceName{Namespace: "default", Name: "class-" + string(rune('a'+i))}
		a := func(prefix string) []netip.Addr { return all(f, prefix+string(rune('1'+i))) }
		s := &model.Service{Name: name, ClusterIPs: a("10.96.0."), ExternalIPs: a("198.51.100.1"), LoadBalancerIPs: a("198.51.100.2"),
			SourceRanges: within(f, "192.168.0.0/24"), Affinity: time.Hour, ExternalLocal: true, HealthCheckNodePort: uint16(32000 + i),
			Ports: []model.ServicePort{{Name: "a", Protocol: model.TCP, Port: 80, NodePort: uint16(30080 + i)}}}
		slice := &model.Slice{Service: name, Family: f, Ports: []model.SlicePort{{Name: "a", Protocol: model.TCP, Port: 8080}}}
		if on != "" {
			slice.Endpoints = []model.Endpoint{{Addr: in(f, "10.244.1.1"), Ready: true, Serving: true, NodeName: on}}
		}
		inputs = append(inputs, plan.Input{Name: name, Service: s, Slices: []*model.Slice{slice}})
	}
	return plan.Build(c, inputs)
}
