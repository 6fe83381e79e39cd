package dns

import (
	"net/netip"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
	"pgregory.net/rapid"

	"svcproxy/model"
)

// anyLabel draws labels good and bad, from few enough values that names meet.
func anyLabel() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"a", "b", "A", "svc", "10-0-0-1", strings.Repeat("x", 63), strings.Repeat("y", 64), "", "-", "a.b", `a\.b`, "*", "_a", "a\x00", "é"}),
		rapid.StringN(0, 5, 70),
	)
}

func anyAddr() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		known := rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "fe80::1%eth0", "::", "fd00::1"}).Draw(t, "address")
		if rapid.Bool().Draw(t, "invalid") && rapid.Bool().Draw(t, "really") {
			return netip.Addr{}
		}
		return netip.MustParseAddr(known)
	})
}

func anyPort() *rapid.Generator[model.ServicePort] {
	return rapid.Custom(func(t *rapid.T) model.ServicePort {
		return model.ServicePort{
			Name:     anyLabel().Draw(t, "port"),
			Protocol: rapid.SampledFrom([]model.Protocol{model.TCP, model.UDP, model.SCTP, 0}).Draw(t, "protocol"),
			Port:     rapid.Uint16().Draw(t, "number"),
		}
	})
}

func anyService() *rapid.Generator[Service] {
	endpoint := rapid.Custom(func(t *rapid.T) Endpoint {
		return Endpoint{
			Addr: anyAddr().Draw(t, "endpoint"), Hostname: anyLabel().Draw(t, "hostname"),
			Ports: rapid.SliceOfN(anyPort(), 0, 2).Draw(t, "ports"),
		}
	})
	return rapid.Custom(func(t *rapid.T) Service {
		s := Service{
			Name:  model.ServiceName{Namespace: anyLabel().Draw(t, "namespace"), Name: anyLabel().Draw(t, "name")},
			Ports: rapid.SliceOfN(anyPort(), 0, 3).Draw(t, "ports"),
		}
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			s.ExternalName = anyLabel().Draw(t, "external") + ".a.svc.cluster.local"
		case 1:
			s.ClusterIPs = rapid.SliceOfN(anyAddr(), 1, 3).Draw(t, "clusterIPs")
		case 2:
			s.Endpoints = rapid.SliceOfN(endpoint, 0, 4).Draw(t, "endpoints")
		}
		return s
	})
}

// Whatever Services hold, all that a Zone says can be sent, each Service is served or named as a
// problem, and a healthy one is always served.
func TestAnyServicesMakeAZoneThatCanBeSent(t *testing.T) {
	healthy := Service{Name: named("healthy", "one"), ClusterIPs: addrs("10.0.0.9")}
	rapid.Check(t, func(t *rapid.T) {
		services := append(rapid.SliceOfN(anyService(), 0, 6).Draw(t, "services"), healthy)
		z, problems, err := NewZone(Config{Domain: "cluster.local", Reverse: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30")}}, services)
		if err != nil {
			t.Fatal(err)
		}
		if len(problems) > len(services)-1 {
			t.Fatalf("%d problems with %d Services", len(problems), len(services)-1)
		}
		for _, name := range allNames(z) {
			for _, qtype := range allTypes {
				reply := respond(z, nil, query(strings.ToUpper(name), qtype), mdns.MaxMsgSize, 1)
				if _, err := reply.Pack(); err != nil {
					t.Fatalf("reply %v: %v", reply, err)
				}
				if reply.Rcode == mdns.RcodeRefused {
					t.Fatalf("%s exists, but %v", name, reply)
				}
				seen := map[string]bool{}
				for _, rr := range reply.Answer {
					if seen[rr.String()] {
						t.Fatalf("twice in one answer: %s", rr)
					}
					seen[rr.String()] = true
				}
			}
		}
		got := z.Answer(mdns.Question{Name: "one.healthy.svc.cluster.local.", Qtype: mdns.TypeA, Qclass: mdns.ClassINET})
		if len(got.Answer) != 1 {
			t.Fatalf("the healthy Service is answered with %v", got)
		}
	})
}

func BenchmarkNewZone(b *testing.B) {
	services := manyServices(10000)
	for b.Loop() {
		if _, problems, err := NewZone(Config{Domain: "cluster.local"}, services); err != nil || len(problems) > 0 {
			b.Fatal(problems, err)
		}
	}
}
