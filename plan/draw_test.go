package plan

import (
	"net/netip"
	"time"

	"pgregory.net/rapid"

	"svcproxy/model"
)

// The drawn worlds are tiny, so that everything collides with everything: an address may be a ClusterIP, an
// external IP, a load balancer's, the node's own and an endpoint.

var (
	drawnFrontends = addrs("10.96.0.1", "10.96.0.2", "10.96.0.3", "198.51.100.1", "198.51.100.2", "192.168.0.1")
	drawnEndpoints = addrs("10.244.1.1", "10.244.1.2", "10.244.2.1", "10.244.2.2", "192.168.0.1", "127.0.0.1")
	drawnSources   = append(addrs("203.0.113.9", "192.168.0.2", "198.51.100.1"), drawnEndpoints...)
	drawnPorts     = []uint16{80, 443, 30080}
	drawnProtocols = []model.Protocol{model.TCP, model.UDP}
	drawnNodes     = []string{"", "n1", "n2"}
	drawnRanges    = prefixes("0.0.0.0/0", "203.0.113.0/24", "203.0.113.9/32", "192.168.0.0/24", "10.244.0.0/16", "2001:db8::/32")
)

func addrs(all ...string) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefixes(all ...string) (out []netip.Prefix) {
	for _, a := range all {
		out = append(out, netip.MustParsePrefix(a))
	}
	return out
}

func several[T any](t *rapid.T, label string, from []T, most int) []T {
	return rapid.SliceOfN(rapid.SampledFrom(from), 0, most).Draw(t, label)
}

func one[T any](t *rapid.T, label string, from []T) T { return rapid.SampledFrom(from).Draw(t, label) }

func drawConfig(t *rapid.T) Config {
	c := config
	c.NodeName, c.Zone = one(t, "node name", drawnNodes), one(t, "zone", []string{"", "z1"})
	c.NodeAddrs = several(t, "node addresses", addrs("192.168.0.1", "10.244.1.1"), 2)
	c.Detector = one(t, "detector", []Detector{{}, {Prefixes: prefixes("10.244.0.0/16")}, {Prefixes: prefixes("10.244.1.0/24", "192.168.0.0/31")},
		{Interface: "veth1"}, {Interface: "veth+"}})
	c.NodePorts = one(t, "node ports", []NodePorts{{}, {All: true}, {All: true, Loopback: true}, {Prefixes: prefixes("192.168.0.0/24")}, {Prefixes: prefixes("127.0.0.0/8"), Loopback: true}})
	c.GuardClusterIPs = rapid.Bool().Draw(t, "guard")
	c.ServiceCIDRs = prefixes("10.96.0.0/24")
	c.MasqueradeAll = rapid.Bool().Draw(t, "masquerade all")
	return c
}

func drawInput(t *rapid.T) Input {
	name := model.ServiceName{Namespace: "default", Name: one(t, "name", []string{"a", "b", "c", "d"})}
	in := Input{Name: name}
	if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
		return in
	}
	s := &model.Service{
		Name: name, Created: epoch.Add(-time.Duration(rapid.IntRange(0, 2).Draw(t, "age")) * time.Hour),
		ClusterIPs:  []netip.Addr{one(t, "ClusterIP", drawnFrontends)},
		ExternalIPs: several(t, "external IPs", drawnFrontends, 2), LoadBalancerIPs: several(t, "load balancer", drawnFrontends, 2),
		SourceRanges: several(t, "ranges", drawnRanges, 3), Affinity: one(t, "affinity", []time.Duration{0, time.Hour}),
		HealthCheckNodePort: one(t, "health check", []uint16{0, 32000}),
		ExternalLocal:       rapid.Bool().Draw(t, "external Local"), InternalLocal: rapid.Bool().Draw(t, "internal Local"),
	}
	if rapid.IntRange(0, 9).Draw(t, "other family") == 0 {
		s.ClusterIPs = addrs("fd00::1")
	}
	for i, n := range drawnPorts[:rapid.IntRange(1, 3).Draw(t, "ports")] {
		s.Ports = append(s.Ports, model.ServicePort{Name: []string{"a", "b", "c"}[i], Port: n, Protocol: one(t, "protocol", drawnProtocols),
			NodePort: one(t, "node port", []uint16{0, 80, 30080})})
	}
	in.Service = s
	for range rapid.IntRange(0, 2).Draw(t, "slices") {
		in.Slices = append(in.Slices, drawSlice(t, name))
	}
	return in
}

func drawSlice(t *rapid.T, service model.ServiceName) *model.Slice {
	s := &model.Slice{Service: service, Family: one(t, "family", []model.Family{model.IPv4, model.IPv4, model.IPv4, model.IPv6})}
	for _, name := range []string{"a", "b", "c"} {
		s.Ports = append(s.Ports, model.SlicePort{Name: name, Port: one(t, "target port", []uint16{0, 8080, 8081}), Protocol: one(t, "protocol", drawnProtocols)})
	}
	for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
		s.Endpoints = append(s.Endpoints, model.Endpoint{
			Addr: one(t, "endpoint", drawnEndpoints), Ready: rapid.Bool().Draw(t, "ready"), Serving: rapid.Bool().Draw(t, "serving"),
			Terminating: rapid.Bool().Draw(t, "terminating"), NodeName: one(t, "on", drawnNodes),
			NodeHints: several(t, "node hints", []string{"n1", "n2"}, 2), ZoneHints: several(t, "zone hints", []string{"z1", "z2"}, 2),
		})
	}
	return s
}

func drawPacket(t *rapid.T) Packet {
	return Packet{
		Protocol: one(t, "protocol", drawnProtocols), Source: one(t, "source", drawnSources), Interface: one(t, "interface", []string{"", "veth1", "veth2", "eth0"}),
		Dest: netip.AddrPortFrom(one(t, "to", append(addrs("127.0.0.1", "192.168.0.2", "10.96.0.9"), drawnFrontends...)), one(t, "port", drawnPorts)),
		Host: addrs("192.168.0.1", "10.244.1.2"),
	}
}
