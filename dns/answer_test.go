package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"svcproxy/model"
)

// Case is a question and all that is answered to it; records are in the presentation format of zone
// files, in any order.
type Case struct {
	Name       string
	Type       uint16
	Class      uint16 // IN where zero
	Rcode      int
	Answer     []string
	Authority  []string
	Additional []string
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, addr(s))
	}
	return out
}

func port(name string, p model.Protocol, n uint16) model.ServicePort {
	return model.ServicePort{Name: name, Protocol: p, Port: n}
}

func named(namespace, name string) model.ServiceName {
	return model.ServiceName{Namespace: namespace, Name: name}
}

// testServices are the Services that most cases ask for.
func testServices() []Service {
	web := []model.ServicePort{port("http", model.TCP, 8080)}
	return []Service{
		{Name: named("default", "kubernetes"), ClusterIPs: addrs("10.96.0.1"), Ports: []model.ServicePort{port("https", model.TCP, 443)},
			Endpoints: []Endpoint{{Addr: addr("10.244.0.9"), Ports: []model.ServicePort{port("https", model.TCP, 6443)}}}},
		{Name: named("kube-system", "kube-dns"), ClusterIPs: addrs("10.96.0.10", "fd00:10:96::a"), Ports: []model.ServicePort{
			port("dns", model.UDP, 53), port("dns-tcp", model.TCP, 53), port("metrics", model.TCP, 9153),
		}},
		{Name: named("default", "unnamed"), ClusterIPs: addrs("10.96.0.20"), Ports: []model.ServicePort{port("", model.TCP, 80)}},
		{Name: named("default", "v6only"), ClusterIPs: addrs("fd00:10:96::b"), Ports: []model.ServicePort{port("assoc", model.SCTP, 7)}},
		{Name: named("apps", "db"), Endpoints: []Endpoint{
			{Addr: addr("10.244.0.7"), Hostname: "db-0", Ports: web},
			{Addr: addr("fd00:10:244::7"), Hostname: "db-0", Ports: web},
			{Addr: addr("10.244.0.8"), Ports: web},
			{Addr: addr("10.244.0.8"), Ports: web}, // in two slices at once
		}},
		{Name: named("lonely", "empty")},
		{Name: named("apps", "outside"), ExternalName: "www.Example.com"},
		{Name: named("apps", "inside"), ExternalName: "kubernetes.default.svc.cluster.local."},
		{Name: named("apps", "nowhere"), ExternalName: "gone.default.svc.cluster.local"},
		{Name: named("apps", "ring"), ExternalName: "ring.apps.svc.cluster.local"},
	}
}

func testZone(t testing.TB) *Zone {
	t.Helper()
	z, problems, err := NewZone(Config{
		Domain: "cluster.local", Serial: 42,
		Reverse:     []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")},
		Nameservers: addrs("10.96.0.10"),
	}, testServices())
	if err != nil || len(problems) > 0 {
		t.Fatalf("NewZone: problems %v, error %v", problems, err)
	}
	return z
}

const soa = "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5"

func soaOf(apex string) []string {
	return []string{strings.ReplaceAll(soa, "cluster.local.", apex)}
}

var clusterIPCases = []Case{
	{Name: "kubernetes.default.svc.cluster.local.", Type: mdns.TypeA,
		Answer: []string{"kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1"}},
	{Name: "kubernetes.default.svc.cluster.local.", Type: mdns.TypeAAAA, Authority: []string{soa}},
	{Name: "KuberNetes.Default.SVC.cluster.LOCAL.", Type: mdns.TypeA,
		Answer: []string{"KuberNetes.Default.SVC.cluster.LOCAL. 5 IN A 10.96.0.1"}},
	{Name: "kube-dns.kube-system.svc.cluster.local.", Type: mdns.TypeA,
		Answer: []string{"kube-dns.kube-system.svc.cluster.local. 5 IN A 10.96.0.10"}},
	{Name: "kube-dns.kube-system.svc.cluster.local.", Type: mdns.TypeAAAA,
		Answer: []string{"kube-dns.kube-system.svc.cluster.local. 5 IN AAAA fd00:10:96::a"}},
	{Name: "_dns-tcp._tcp.kube-dns.kube-system.svc.cluster.local.", Type: mdns.TypeSRV,
		Answer: []string{"_dns-tcp._tcp.kube-dns.kube-system.svc.cluster.local. 5 IN SRV 0 50 53 kube-dns.kube-system.svc.cluster.local."},
		Additional: []string{"kube-dns.kube-system.svc.cluster.local. 5 IN A 10.96.0.10",
			"kube-dns.kube-system.svc.cluster.local. 5 IN AAAA fd00:10:96::a"}},
	{Name: "_assoc._sctp.v6only.default.svc.cluster.local.", Type: mdns.TypeSRV,
		Answer:     []string{"_assoc._sctp.v6only.default.svc.cluster.local. 5 IN SRV 0 100 7 v6only.default.svc.cluster.local."},
		Additional: []string{"v6only.default.svc.cluster.local. 5 IN AAAA fd00:10:96::b"}},
	{Name: "_dns._tcp.kube-dns.kube-system.svc.cluster.local.", Type: mdns.TypeSRV, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "_._tcp.unnamed.default.svc.cluster.local.", Type: mdns.TypeSRV, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	// What the specification leaves open is answered as CoreDNS does.
	{Name: "_https._tcp.kubernetes.default.svc.cluster.local.", Type: mdns.TypeA,
		Answer: []string{"_https._tcp.kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1"}},
	{Name: "_https._tcp.kubernetes.default.svc.cluster.local.", Type: mdns.TypeAAAA, Authority: []string{soa}},
	{Name: "https.TCP.kubernetes.default.svc.cluster.local.", Type: mdns.TypeA,
		Answer: []string{"https.TCP.kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1"}},
	{Name: "kubernetes.default.svc.cluster.local.", Type: mdns.TypeSRV,
		Answer:     []string{"kubernetes.default.svc.cluster.local. 5 IN SRV 0 100 443 kubernetes.default.svc.cluster.local."},
		Additional: []string{"kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1"}},
	{Name: "unnamed.default.svc.cluster.local.", Type: mdns.TypeSRV, Authority: []string{soa}},
	{Name: "10-244-0-9.kubernetes.default.svc.cluster.local.", Type: mdns.TypeA,
		Answer: []string{"10-244-0-9.kubernetes.default.svc.cluster.local. 5 IN A 10.244.0.9"}},
	{Name: "9.0.244.10.in-addr.arpa.", Type: mdns.TypePTR,
		Answer: []string{"9.0.244.10.in-addr.arpa. 5 IN PTR 10-244-0-9.kubernetes.default.svc.cluster.local."}},
}

var emptyCases = []Case{
	{Name: "cluster.local.", Type: mdns.TypeA, Authority: []string{soa}},
	{Name: "cluster.local.", Type: mdns.TypeSOA, Answer: []string{soa}},
	{Name: "cluster.local.", Type: mdns.TypeNS, Answer: []string{"cluster.local. 5 IN NS kube-dns.kube-system.svc.cluster.local."},
		Additional: []string{"kube-dns.kube-system.svc.cluster.local. 5 IN A 10.96.0.10", "kube-dns.kube-system.svc.cluster.local. 5 IN AAAA fd00:10:96::a"}},
	{Name: "svc.cluster.local.", Type: mdns.TypeNS, Authority: []string{soa}},
	{Name: "ns.dns.cluster.local.", Type: mdns.TypeAAAA, Answer: []string{"ns.dns.cluster.local. 5 IN AAAA fd00:10:96::a"}},
	{Name: "ns.dns.cluster.local.", Type: mdns.TypeTXT, Authority: []string{soa}},
	{Name: "dns.cluster.local.", Type: mdns.TypeA, Authority: []string{soa}},
	{Name: "x.dns.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "cluster.local.", Type: mdns.TypeTXT, Authority: []string{soa}},
	{Name: "cluster.local.", Type: mdns.TypeDS, Authority: []string{soa}},
	{Name: "cluster.local.", Type: mdns.TypeDNSKEY, Authority: []string{soa}},
	{Name: "kubernetes.default.svc.cluster.local.", Type: mdns.TypeHTTPS, Authority: []string{soa}},
	{Name: "pod.cluster.local.", Type: mdns.TypeA, Authority: []string{soa}},
	{Name: "default.pod.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "10-244-0-9.default.pod.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "*.default.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "*.*.kubernetes.default.svc.cluster.local.", Type: mdns.TypeSRV, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "any.default.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "a.b.c.kubernetes.default.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "ns.dns.cluster.local.", Type: mdns.TypeA, Answer: []string{"ns.dns.cluster.local. 5 IN A 10.96.0.10"}},
	{Name: "dns-version.cluster.local.", Type: mdns.TypeTXT, Answer: []string{`dns-version.cluster.local. 28800 IN TXT "1.1.0"`}},
	{Name: "dns-version.cluster.local.", Type: mdns.TypeA, Authority: []string{soa}},
	{Name: "svc.cluster.local.", Type: mdns.TypeA, Authority: []string{soa}},
	{Name: "default.svc.cluster.local.", Type: mdns.TypeA, Authority: []string{soa}},
	{Name: "_tcp.kubernetes.default.svc.cluster.local.", Type: mdns.TypeSRV, Authority: []string{soa}},
	{Name: "lonely.svc.cluster.local.", Type: mdns.TypeA, Authority: []string{soa}},
	{Name: "nobody.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "nothing.default.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "www.kubernetes.default.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: `kubernetes\.default.svc.cluster.local.`, Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "kubernetes.default.svc.cluster.local.", Type: mdns.TypeANY,
		Answer: []string{`kubernetes.default.svc.cluster.local. 5 IN HINFO "RFC8482" ""`}},
}

var refusedCases = []Case{
	{Name: "www.example.com.", Type: mdns.TypeA, Rcode: mdns.RcodeRefused},
	{Name: ".", Type: mdns.TypeNS, Rcode: mdns.RcodeRefused},
	{Name: "local.", Type: mdns.TypeA, Rcode: mdns.RcodeRefused},
	{Name: "notcluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeRefused},
	{Name: `foo\.cluster.local.`, Type: mdns.TypeA, Rcode: mdns.RcodeRefused},
	{Name: "cluster.local.", Type: mdns.TypeAXFR, Rcode: mdns.RcodeRefused},
	{Name: "cluster.local.", Type: mdns.TypeIXFR, Rcode: mdns.RcodeRefused},
	{Name: "kubernetes.default.svc.cluster.local.", Type: mdns.TypeA, Class: mdns.ClassCHAOS, Rcode: mdns.RcodeRefused},
	{Name: "kubernetes.default.svc.cluster.local.", Type: mdns.TypeA, Class: mdns.ClassANY, Rcode: mdns.RcodeRefused},
	{Name: "8.8.8.8.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeRefused},
	{Name: "10.in-addr.arpa.", Type: mdns.TypeSOA, Rcode: mdns.RcodeRefused},
	{Name: "1.0.112.10.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeRefused},
}

var reverseCases = []Case{
	{Name: "10.0.96.10.in-addr.arpa.", Type: mdns.TypePTR,
		Answer: []string{"10.0.96.10.in-addr.arpa. 5 IN PTR kube-dns.kube-system.svc.cluster.local."}},
	{Name: "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", Type: mdns.TypePTR,
		Answer: []string{"a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa. 5 IN PTR kube-dns.kube-system.svc.cluster.local."}},
	{Name: "A.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.D.F.IP6.ARPA.", Type: mdns.TypePTR,
		Answer: []string{"A.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.D.F.IP6.ARPA. 5 IN PTR kube-dns.kube-system.svc.cluster.local."}},
	{Name: "10.0.96.10.in-addr.arpa.", Type: mdns.TypeA, Authority: soaOf("96.10.in-addr.arpa.")},
	{Name: "0.96.10.in-addr.arpa.", Type: mdns.TypePTR, Authority: soaOf("96.10.in-addr.arpa.")},
	{Name: "96.10.in-addr.arpa.", Type: mdns.TypeSOA, Answer: soaOf("96.10.in-addr.arpa.")},
	{Name: "99.0.96.10.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeNameError, Authority: soaOf("96.10.in-addr.arpa.")},
	{Name: "1.0.111.10.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeNameError, Authority: soaOf("111.10.in-addr.arpa.")},
	{Name: "x.10.0.96.10.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeNameError, Authority: soaOf("96.10.in-addr.arpa.")},
	// A pod's address, outside the prefixes that the zone is the authority for.
	{Name: "7.0.244.10.in-addr.arpa.", Type: mdns.TypePTR, Answer: []string{"7.0.244.10.in-addr.arpa. 5 IN PTR db-0.db.apps.svc.cluster.local."}},
	{Name: "7.0.244.10.in-addr.arpa.", Type: mdns.TypeTXT,
		Authority: []string{"7.0.244.10.in-addr.arpa." + strings.TrimPrefix(soa, "cluster.local.")}},
	{Name: "10.0.244.10.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeRefused},
	{Name: "x.7.0.244.10.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeRefused},
	{Name: "300.96.10.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeNameError, Authority: soaOf("96.10.in-addr.arpa.")},
	{Name: "010.0.96.10.in-addr.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeNameError, Authority: soaOf("96.10.in-addr.arpa.")},
	{Name: "0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeRefused},
	{Name: "x.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", Type: mdns.TypePTR, Rcode: mdns.RcodeNameError,
		Authority: soaOf("0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.")},
	{Name: "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", Type: mdns.TypePTR,
		Authority: soaOf("0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.")},
}

var headlessCases = []Case{
	{Name: "db.apps.svc.cluster.local.", Type: mdns.TypeA,
		Answer: []string{"db.apps.svc.cluster.local. 5 IN A 10.244.0.7", "db.apps.svc.cluster.local. 5 IN A 10.244.0.8"}},
	{Name: "db.apps.svc.cluster.local.", Type: mdns.TypeAAAA, Answer: []string{"db.apps.svc.cluster.local. 5 IN AAAA fd00:10:244::7"}},
	{Name: "db-0.db.apps.svc.cluster.local.", Type: mdns.TypeA, Answer: []string{"db-0.db.apps.svc.cluster.local. 5 IN A 10.244.0.7"}},
	{Name: "10-244-0-8.db.apps.svc.cluster.local.", Type: mdns.TypeA, Answer: []string{"10-244-0-8.db.apps.svc.cluster.local. 5 IN A 10.244.0.8"}},
	{Name: "10-244-0-7.db.apps.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
	{Name: "_http._tcp.db.apps.svc.cluster.local.", Type: mdns.TypeSRV,
		Answer: []string{"_http._tcp.db.apps.svc.cluster.local. 5 IN SRV 0 25 8080 10-244-0-8.db.apps.svc.cluster.local.",
			"_http._tcp.db.apps.svc.cluster.local. 5 IN SRV 0 25 8080 db-0.db.apps.svc.cluster.local."},
		Additional: []string{"10-244-0-8.db.apps.svc.cluster.local. 5 IN A 10.244.0.8",
			"db-0.db.apps.svc.cluster.local. 5 IN A 10.244.0.7", "db-0.db.apps.svc.cluster.local. 5 IN AAAA fd00:10:244::7"}},
	{Name: "empty.lonely.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa}},
}

var aliasCases = []Case{
	{Name: "outside.apps.svc.cluster.local.", Type: mdns.TypeA, Answer: []string{"outside.apps.svc.cluster.local. 5 IN CNAME www.example.com."}},
	{Name: "outside.apps.svc.cluster.local.", Type: mdns.TypeCNAME, Answer: []string{"outside.apps.svc.cluster.local. 5 IN CNAME www.example.com."}},
	{Name: "Inside.apps.svc.cluster.local.", Type: mdns.TypeA, Answer: []string{
		"Inside.apps.svc.cluster.local. 5 IN CNAME kubernetes.default.svc.cluster.local.", "kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1"}},
	{Name: "inside.apps.svc.cluster.local.", Type: mdns.TypeAAAA, Authority: []string{soa},
		Answer: []string{"inside.apps.svc.cluster.local. 5 IN CNAME kubernetes.default.svc.cluster.local."}},
	{Name: "nowhere.apps.svc.cluster.local.", Type: mdns.TypeA, Rcode: mdns.RcodeNameError, Authority: []string{soa},
		Answer: []string{"nowhere.apps.svc.cluster.local. 5 IN CNAME gone.default.svc.cluster.local."}},
	{Name: "ring.apps.svc.cluster.local.", Type: mdns.TypeA,
		Answer: []string{"ring.apps.svc.cluster.local. 5 IN CNAME ring.apps.svc.cluster.local."}},
}

func TestAnswer(t *testing.T) {
	z := testZone(t)
	for group, cases := range map[string][]Case{
		"ClusterIP": clusterIPCases, "empty": emptyCases, "refused": refusedCases,
		"reverse": reverseCases, "headless": headlessCases, "alias": aliasCases,
	} {
		t.Run(group, func(t *testing.T) {
			for _, c := range cases {
				t.Run(c.Name+"/"+mdns.TypeToString[c.Type], func(t *testing.T) { c.check(t, z) })
			}
		})
	}
}

func (c Case) check(t *testing.T, z *Zone) {
	t.Helper()
	q := mdns.Question{Name: c.Name, Qtype: c.Type, Qclass: c.Class}
	if q.Qclass == 0 {
		q.Qclass = mdns.ClassINET
	}
	got := z.Answer(q)
	if got.Rcode != c.Rcode {
		t.Errorf("rcode %s, want %s", mdns.RcodeToString[got.Rcode], mdns.RcodeToString[c.Rcode])
	}
	if got.Authoritative != (c.Rcode != mdns.RcodeRefused) {
		t.Errorf("authoritative is %t with rcode %s", got.Authoritative, mdns.RcodeToString[got.Rcode])
	}
	sameRecords(t, "answer", got.Answer, c.Answer)
	sameRecords(t, "authority", got.Authority, c.Authority)
	sameRecords(t, "additional", got.Additional, c.Additional)
}

func sameRecords(t *testing.T, section string, got []mdns.RR, want []string) {
	t.Helper()
	var g, w []string
	for _, rr := range got {
		g = append(g, rr.String())
	}
	for _, s := range want {
		rr, err := mdns.NewRR(s)
		if err != nil {
			t.Fatalf("%s: record %q: %v", section, s, err)
		}
		w = append(w, rr.String())
	}
	slices.Sort(g)
	slices.Sort(w)
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("%s section (-want +got):\n%s", section, diff)
	}
}

// The table is shared by all queries: an answer whose owner is spelt in another way must not change it.
func TestAnswersLeaveTheZoneAlone(t *testing.T) {
	z := testZone(t)
	shouted := z.Answer(mdns.Question{Name: "KUBERNETES.DEFAULT.SVC.CLUSTER.LOCAL.", Qtype: mdns.TypeA, Qclass: mdns.ClassINET})
	shouted.Answer[0].(*mdns.A).A[0] = 99
	clusterIPCases[0].check(t, z)
}

func TestOneServiceThatDNSCannotNameLeavesTheOthers(t *testing.T) {
	good := Service{Name: named("default", "kubernetes"), ClusterIPs: addrs("10.96.0.1"), Ports: []model.ServicePort{port("https", model.TCP, 443)}}
	long := strings.Repeat("x", 63)
	for field, bad := range map[string]Service{
		"metadata.name: ":               {Name: named("default", "a.b"), ClusterIPs: addrs("10.96.0.2")},
		"metadata.namespace: ":          {Name: named("", "a"), ClusterIPs: addrs("10.96.0.2")},
		"spec.externalName: ":           {Name: named("default", "a"), ExternalName: "bad name"},
		"spec.clusterIPs: ":             {Name: named("default", "a"), ClusterIPs: []netip.Addr{{}}},
		"spec.ports[0].name: ":          {Name: named("default", "a"), ClusterIPs: addrs("10.96.0.2"), Ports: []model.ServicePort{port("x\x00", model.TCP, 1)}},
		"spec.ports[1].protocol: ":      {Name: named("default", "a"), ClusterIPs: addrs("10.96.0.2"), Ports: []model.ServicePort{port("x", model.TCP, 1), port("y", 1, 1)}},
		"endpoints[0].hostname: ":       {Name: named("default", "a"), Endpoints: []Endpoint{{Addr: addr("10.0.0.1"), Hostname: "-x"}}},
		"endpoints[0].addresses: ":      {Name: named("default", "a"), Endpoints: []Endpoint{{}}},
		"spec.ports[0].name: \"yyy":     {Name: named("default", "a"), ClusterIPs: addrs("10.96.0.2"), Ports: []model.ServicePort{port(strings.Repeat("y", 63), model.TCP, 1)}},
		"endpoints[0].ports[0].name: ":  {Name: named("default", "a"), Endpoints: []Endpoint{{Addr: addr("10.0.0.1"), Ports: []model.ServicePort{port("é", model.TCP, 1)}}}},
		"metadata.name: names under":    {Name: named(long, long), Endpoints: []Endpoint{{Addr: addr("10.0.0.1"), Hostname: long, Ports: []model.ServicePort{port(long[1:], model.TCP, 1)}}}},
		`"default/kubernetes": listed `: good,
	} {
		z, problems, err := NewZone(Config{Domain: "cluster.local." + strings.Repeat("y", 50)}, []Service{good, bad})
		if err != nil {
			t.Fatal(err)
		}
		if len(problems) != 1 || !strings.Contains(problems[0].Error(), field) || !strings.Contains(problems[0].Error(), bad.Name.Name) {
			t.Errorf("%s: problems are %v", field, problems)
		}
		got := z.Answer(mdns.Question{Name: "kubernetes.default.svc." + z.domain, Qtype: mdns.TypeA, Qclass: mdns.ClassINET})
		if len(got.Answer) != 1 {
			t.Errorf("%s: the healthy Service has %d answers", field, len(got.Answer))
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for _, cfg := range []Config{
		{}, {Domain: "cluster..local"}, {Domain: strings.Repeat("x", 64)}, {Domain: "a b"}, {Domain: "cluster.local", TTL: -1},
		{Domain: strings.Repeat("abcdefghi.", 25)}, {Domain: "cluster.local", Reverse: []netip.Prefix{{}}},
		{Domain: "cluster.local", Nameservers: []netip.Addr{{}}}, {Domain: "cluster.local", TTL: maxTTL + 1},
	} {
		if _, _, err := NewZone(cfg, nil); err == nil {
			t.Errorf("no error for %+v", cfg)
		}
	}
}

func TestSameServicesGiveTheSameAnswersInAnyOrder(t *testing.T) {
	services := testServices()
	// Two Services that publish one pod: its PTR has two targets.
	services = append(services, Service{Name: named("apps", "shadow"), Endpoints: []Endpoint{{Addr: addr("10.244.0.7")}}})
	reversed := slices.Clone(services)
	slices.Reverse(reversed)
	var texts []string
	for _, list := range [][]Service{services, reversed} {
		z, _, err := NewZone(Config{Domain: "cluster.local"}, list)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, said(z))
	}
	if diff := cmp.Diff(texts[0], texts[1]); diff != "" {
		t.Error(diff)
	}
}

func TestReverseZonesOfPrefixes(t *testing.T) {
	for prefix, want := range map[string][]string{
		"10.96.0.0/16":   {"96.10.in-addr.arpa."},
		"10.96.0.7/32":   {"7.0.96.10.in-addr.arpa."},
		"10.96.0.0/15":   {"96.10.in-addr.arpa.", "97.10.in-addr.arpa."},
		"10.96.4.128/31": {"128.4.96.10.in-addr.arpa.", "129.4.96.10.in-addr.arpa."},
		"0.0.0.0/0":      {"in-addr.arpa."},
		"fd00::/8":       {"d.f.ip6.arpa."},
		"fc00::/7":       {"c.f.ip6.arpa.", "d.f.ip6.arpa."},
		"2000::/3":       {"2.ip6.arpa.", "3.ip6.arpa."},
	} {
		if diff := cmp.Diff(want, arpaZones(netip.MustParsePrefix(prefix))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", prefix, diff)
		}
	}
	for _, a := range []string{"10.96.0.10", "fd00:10:96::a", "2001:db8::1"} {
		want, err := mdns.ReverseAddr(a)
		if got := arpaName(addr(a)); err != nil || got != want {
			t.Errorf("%s is %q, want %q (%v)", a, got, want, err)
		}
	}
}
