package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"pgregory.net/rapid"

	"svcproxy/model"
)

// all returns every entry of a table.
func all[K comparable, V any](t table[K, V]) map[K]V {
	found := map[K]V{}
	for _, shard := range t.shards {
		for k, v := range shard {
			found[k] = v
		}
	}
	return found
}

// allNames returns every name that a Zone has something to say about.
func allNames(z *Zone) []string {
	names := []string{"dns-version." + z.domain, "svc." + z.domain, "pod." + z.domain, "dns." + z.domain, "ns.dns." + z.domain}
	for apex := range z.apexes {
		names = append(names, apex)
	}
	for ns := range all(z.namespaces) {
		names = append(names, ns+".svc."+z.domain)
	}
	for _, e := range all(z.services) {
		names = append(names, e.name)
		for host := range e.hosts {
			names = append(names, host+"."+e.name)
		}
		for _, t := range e.front {
			names = append(names, "_"+t.protocol+"."+e.name, "_"+t.port+"._"+t.protocol+"."+e.name)
		}
	}
	for a := range all(z.addrs) {
		names = append(names, arpaName(a))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var allTypes = []uint16{mdns.TypeA, mdns.TypeAAAA, mdns.TypeSRV, mdns.TypeCNAME, mdns.TypePTR, mdns.TypeTXT, mdns.TypeSOA, mdns.TypeNS, mdns.TypeANY, mdns.TypeMX}

// said is all that a Zone says, about its own names and the others given.
func said(z *Zone, others ...string) string {
	var b strings.Builder
	for _, name := range append(allNames(z), others...) {
		for _, qtype := range allTypes {
			fmt.Fprintln(&b, name, qtype, z.Answer(mdns.Question{Name: name, Qtype: qtype, Qclass: mdns.ClassINET}))
		}
	}
	return b.String()
}

func serviceOf(t *rapid.T, name model.ServiceName) *Service {
	s := &Service{Name: name, Ports: testServices()[1].Ports[:rapid.IntRange(0, 3).Draw(t, "ports")]}
	endpoint := func() Endpoint {
		return Endpoint{
			Addr:     rapid.SampledFrom(addrs("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")).Draw(t, "endpoint"),
			Hostname: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "hostname"),
			Ports:    s.Ports,
		}
	}
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		s.ExternalName = rapid.SampledFrom([]string{"a.x.svc.cluster.local", "example.com", "bad name"}).Draw(t, "alias")
		return s
	case 2:
		s.ClusterIPs = addrs("10.0.1.1", "10.0.1.2", "fd00::1:1")[:rapid.IntRange(1, 3).Draw(t, "clusterIPs")]
	}
	for range rapid.IntRange(0, 3).Draw(t, "endpoints") {
		s.Endpoints = append(s.Endpoints, endpoint())
	}
	return s
}

// A Zone that was led through changes says the same as one that was made of the last state.
func TestChangesLeadWhereANewZoneBegins(t *testing.T) {
	names := []model.ServiceName{named("x", "a"), named("x", "b"), named("y", "a")}
	others := []string{"a.x.svc.cluster.local.", "x.svc.cluster.local.", "y.svc.cluster.local.", "z.svc.cluster.local.", "10-9-0-1.x.pod.cluster.local.",
		"10-9-0-1.y.pod.cluster.local.", "z.pod.cluster.local.", "1.0.0.10.in-addr.arpa.", "1.1.0.10.in-addr.arpa."}
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{Domain: "cluster.local", Serial: 7, Pods: PodsVerified, Nameservers: addrs("10.0.0.1")}
		led, _, err := NewZone(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		state := map[model.ServiceName]*Service{}
		namespaces := map[string]bool{}
		pods := map[model.ServiceName][]netip.Addr{}
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			before, was := led, said(led, others...)
			c := Changes{Services: map[model.ServiceName]*Service{}, Namespaces: map[string]bool{}, Pods: map[model.ServiceName][]netip.Addr{}, Serial: 7}
			for range rapid.IntRange(0, 2).Draw(t, "at once") {
				name := rapid.SampledFrom(names).Draw(t, "name")
				c.Services[name] = serviceOf(t, name)
				state[name] = c.Services[name]
			}
			if rapid.Bool().Draw(t, "namespace") {
				ns := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "which")
				c.Namespaces[ns] = rapid.Bool().Draw(t, "exists")
				namespaces[ns] = c.Namespaces[ns]
			}
			pod := rapid.SampledFrom(names).Draw(t, "pod")
			c.Pods[pod] = addrs("10.9.0.1", "10.9.0.2")[:rapid.IntRange(0, 2).Draw(t, "addresses")]
			pods[pod] = c.Pods[pod]
			led, _ = led.With(c)
			if now := said(before, others...); now != was {
				t.Fatalf("a Zone changed:\n%s\nwas\n%s", now, was)
			}
		}
		fresh, _, err := NewZone(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		fresh, _ = fresh.With(Changes{Services: state, Namespaces: namespaces, Pods: pods, Serial: 7})
		if a, b := said(led, others...), said(fresh, others...); a != b {
			t.Fatalf("led:\n%s\nfresh:\n%s", a, b)
		}
	})
}

// BenchmarkChange changes one endpoint among 10,000 Services; the ratio is what a whole Zone costs.
func BenchmarkChange(b *testing.B) {
	services := manyServices(10000)
	begin := time.Now()
	z, _, err := NewZone(Config{Domain: "cluster.local"}, services)
	if err != nil {
		b.Fatal(err)
	}
	whole := time.Since(begin)
	s := services[5000]
	for n := 0; b.Loop(); n++ {
		s.Endpoints = []Endpoint{{Addr: netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)}), Ports: s.Ports}}
		z, _ = z.With(Changes{Services: map[model.ServiceName]*Service{s.Name: &s}})
	}
	b.ReportMetric(float64(whole.Nanoseconds())/(float64(b.Elapsed().Nanoseconds())/float64(b.N)), "times-cheaper")
}

func manyServices(n int) []Service {
	services := make([]Service, n)
	for i := range services {
		ip := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		services[i] = Service{Name: named("default", "s-"+strings.ReplaceAll(ip.String(), ".", "-")), ClusterIPs: []netip.Addr{ip}, Ports: testServices()[1].Ports}
	}
	return services
}

// A change of one endpoint among many Services is served at once: it must not cost what a whole Zone costs.
func TestAChangeCostsLittle(t *testing.T) {
	services := manyServices(2000)
	z, _, err := NewZone(Config{Domain: "cluster.local"}, services)
	if err != nil {
		t.Fatal(err)
	}
	s := services[1000]
	one := testing.AllocsPerRun(10, func() { z, _ = z.With(Changes{Services: map[model.ServiceName]*Service{s.Name: &s}}) })
	whole := testing.AllocsPerRun(1, func() { _, _, _ = NewZone(Config{Domain: "cluster.local"}, services) })
	if one*20 > whole {
		t.Errorf("a change makes %.0f allocations, a whole Zone %.0f", one, whole)
	}
}
