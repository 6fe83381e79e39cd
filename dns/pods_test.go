package dns

import (
	"net/netip"
	"testing"

	mdns "github.com/miekg/dns"

	"svcproxy/model"
)

func podZone(t *testing.T, mode PodMode) *Zone {
	t.Helper()
	z, problems, err := NewZone(Config{Domain: "cluster.local", Serial: 42, Pods: mode}, testServices())
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	z, _ = z.With(Changes{Serial: 42, Namespaces: map[string]bool{"Bare": true}, Pods: map[model.ServiceName][]netip.Addr{
		named("bare", "one"): addrs("10.244.0.7", "fd00:10:244::7"),
		named("bare", "two"): addrs("10.244.0.7"),
	}})
	return z
}

func TestNamesOfPods(t *testing.T) {
	nodata, none := []string{soa}, mdns.RcodeNameError
	for mode, cases := range map[PodMode][]Case{
		PodsInsecure: {
			{Name: "pod.cluster.local.", Type: mdns.TypeA, Authority: nodata},
			{Name: "bare.pod.cluster.local.", Type: mdns.TypeA, Authority: nodata},
			{Name: "gone.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
			{Name: "1-2-3-4.Bare.pod.cluster.local.", Type: mdns.TypeA, Answer: []string{"1-2-3-4.Bare.pod.cluster.local. 5 IN A 1.2.3.4"}},
			{Name: "1-2-3-4.bare.pod.cluster.local.", Type: mdns.TypeAAAA, Authority: nodata},
			{Name: "1-2-3-4.bare.pod.cluster.local.", Type: mdns.TypeSRV, Authority: nodata},
			{Name: "1-2-3-4.gone.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
			{Name: "1-2-3-400.bare.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
			{Name: "x.1-2-3-4.bare.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
			{Name: "FD00--7.bare.pod.cluster.local.", Type: mdns.TypeAAAA, Answer: []string{"FD00--7.bare.pod.cluster.local. 5 IN AAAA fd00::7"}},
			{Name: "fd00--7.bare.pod.cluster.local.", Type: mdns.TypeA, Authority: nodata},
			{Name: "1-2-3--4.bare.pod.cluster.local.", Type: mdns.TypeAAAA, Answer: []string{"1-2-3--4.bare.pod.cluster.local. 5 IN AAAA 1:2:3::4"}},
			{Name: "fd00--7%eth0.bare.pod.cluster.local.", Type: mdns.TypeAAAA, Rcode: none, Authority: nodata},
			{Name: "pod.bare.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
		},
		PodsVerified: {
			{Name: "10-244-0-7.bare.pod.cluster.local.", Type: mdns.TypeA, Answer: []string{"10-244-0-7.bare.pod.cluster.local. 5 IN A 10.244.0.7"}},
			{Name: "fd00-10-244--7.bare.pod.cluster.local.", Type: mdns.TypeAAAA, Answer: []string{"fd00-10-244--7.bare.pod.cluster.local. 5 IN AAAA fd00:10:244::7"}},
			{Name: "10-244-0-8.bare.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
			{Name: "10-244-0-7.default.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
		},
		PodsDisabled: {
			{Name: "pod.cluster.local.", Type: mdns.TypeA, Authority: nodata},
			{Name: "bare.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
			{Name: "10-244-0-7.bare.pod.cluster.local.", Type: mdns.TypeA, Rcode: none, Authority: nodata},
		},
	} {
		z := podZone(t, mode)
		for _, c := range cases {
			t.Run(c.Name+mdns.TypeToString[c.Type], func(t *testing.T) { c.check(t, z) })
		}
	}
}

// An address stays while one of the pods that had it stays.
func TestPodsOfOneAddress(t *testing.T) {
	z := podZone(t, PodsVerified)
	z, _ = z.With(Changes{Serial: 42, Pods: map[model.ServiceName][]netip.Addr{named("bare", "one"): nil}})
	c := Case{Name: "10-244-0-7.bare.pod.cluster.local.", Type: mdns.TypeA, Answer: []string{"10-244-0-7.bare.pod.cluster.local. 5 IN A 10.244.0.7"}}
	c.check(t, z)
	z, _ = z.With(Changes{Serial: 42, Pods: map[model.ServiceName][]netip.Addr{named("bare", "two"): nil}})
	c.Rcode, c.Answer, c.Authority = mdns.RcodeNameError, nil, []string{soa}
	c.check(t, z)
}

// Without Services that lead to it, the server has only its own addresses.
func TestNameserversWithoutAService(t *testing.T) {
	z, _, err := NewZone(Config{Domain: "cluster.local", Serial: 42, Nameservers: addrs("10.0.0.53", "fd00::53")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ns := Case{Name: "cluster.local.", Type: mdns.TypeNS, Answer: []string{"cluster.local. 5 IN NS ns.dns.cluster.local."},
		Additional: []string{"ns.dns.cluster.local. 5 IN A 10.0.0.53", "ns.dns.cluster.local. 5 IN AAAA fd00::53"}}
	ns.check(t, z)
	dns := &Service{Name: named("kube-system", "kube-dns"), ClusterIPs: addrs("10.96.0.10"), Endpoints: []Endpoint{{Addr: addr("10.0.0.53")}}}
	z, _ = z.With(Changes{Serial: 42, Services: map[model.ServiceName]*Service{dns.Name: dns}})
	ns.Answer = []string{"cluster.local. 5 IN NS kube-dns.kube-system.svc.cluster.local."}
	ns.Additional = []string{"kube-dns.kube-system.svc.cluster.local. 5 IN A 10.96.0.10"}
	ns.check(t, z)
	a := Case{Name: "ns.dns.cluster.local.", Type: mdns.TypeA, Answer: []string{"ns.dns.cluster.local. 5 IN A 10.96.0.10"}}
	a.check(t, z)
}
