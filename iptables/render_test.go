package iptables

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares text with a file, or writes it there.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it):\n%s", path, got)
	}
}

func render(t testing.TB, p *plan.Plan) *Ruleset {
	t.Helper()
	r, err := Render(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKubeDNS(t *testing.T) {
	for f, name := range map[model.Family]string{model.IPv4: "kube-dns.ipv4", model.IPv6: "kube-dns.ipv6"} {
		golden(t, name, render(t, planOf(f, kubeDNS(f), service(f, 1, 0))).Text())
	}
}

// TestKubeDNSByHand walks as an operator does, from the ClusterIP to the endpoint.
func TestKubeDNSByHand(t *testing.T) {
	text := render(t, planOf(model.IPv4, kubeDNS(model.IPv4))).Text()
	at := 0
	for _, want := range []string{
		`-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4`,
		`-A KUBE-SVC-ERIFXISQEP7F7OF4 ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp --dport 53 -j KUBE-MARK-MASQ`,
		`-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.3:53" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-ZXMNUKOKXUTL2MK2`,
		`-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.4:53" -j KUBE-SEP-SF3LG62VAE5ALYDV`,
	} {
		i := strings.Index(text[at:], want+"\n")
		if i < 0 {
			t.Fatalf("missing, or not under the one before: %s", want)
		}
		at += i
	}
	for _, want := range []string{
		`-A KUBE-SEP-ZXMNUKOKXUTL2MK2 -s 10.244.0.3/32 -m comment --comment "kube-system/kube-dns:dns-tcp" -j KUBE-MARK-MASQ` + "\n" +
			`-A KUBE-SEP-ZXMNUKOKXUTL2MK2 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp" -m tcp -j DNAT --to-destination 10.244.0.3:53`,
		":KUBE-SVC-TCOU7JCQXEZGVUNU ", ":KUBE-SEP-6E7XQMQ4RAYOWTTM ", ":KUBE-SEP-WXWGHGKZOCNYRYI7 ",
		":KUBE-SVC-JD5MR3NA4I4DYORP ", ":KUBE-SEP-ZP3FB6NMPNCO4VBJ ", ":KUBE-SEP-PUHFDAMRBZWCPADU ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
}

func TestTextIsDeterministicAndReadBack(t *testing.T) {
	for _, f := range model.Families {
		p := planOf(f, some(f)...)
		for i := range 1000 {
			s := service(f, 100+i, i%4)
			p.Services[s.Name] = s
		}
		r := render(t, p)
		text := r.Text()
		if render(t, p).Text() != text {
			t.Error("the same plan gives other bytes")
		}
		parsed, err := Parse(f, text)
		if err != nil {
			t.Fatal(err)
		}
		if !parsed.Equal(r) {
			n, example := drift(r, parsed)
			t.Errorf("%d rules are read back otherwise, such as %s", n, example)
		}
		if parsed.Text() != text {
			t.Error("what was read back gives other bytes")
		}
	}
}

func TestMasqueradeOfOtherSources(t *testing.T) {
	p := planOf(model.IPv4, service(model.IPv4, 1, 1))
	front := &p.Services[service(model.IPv4, 1, 1).Name].Ports[0].Frontends[0]
	svc := model.ServiceChain(service(model.IPv4, 1, 1).Ports[0].Name)
	first := func() string {
		chain := render(t, p).NAT.Chains[svc]
		return string(chain[0].append(nil))
	}
	if got := first(); !strings.HasPrefix(got, " ! -s 10.244.0.0/16 -d ") || !strings.HasSuffix(got, "-j KUBE-MARK-MASQ") {
		t.Errorf("one pod prefix: %s", got)
	}
	p.Config.Detector.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")}
	if got := first(); !strings.HasSuffix(got, "-j "+remoteChain) {
		t.Errorf("two pod prefixes: %s", got)
	}
	want := []Rule{{Source: p.Config.Detector.Prefixes[0], Target: "RETURN"}, {Source: p.Config.Detector.Prefixes[1], Target: "RETURN"}, {Target: "KUBE-MARK-MASQ"}}
	if got := render(t, p).NAT.Chains[remoteChain]; !slices.Equal(got, want) {
		t.Errorf("chain of sources: %v", got)
	}
	p.Config.Detector.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.1.7.0/24"), netip.MustParsePrefix("10.1.2.3/16"), netip.MustParsePrefix("10.1.0.0/16")}
	if got := first(); !strings.HasPrefix(got, " ! -s 10.1.0.0/16 -d ") {
		t.Errorf("a pod prefix with others inside: %s", got)
	}
	p.Config.Detector.Prefixes = append(p.Config.Detector.Prefixes, netip.MustParsePrefix("0.0.0.0/0"))
	if got := first(); strings.Contains(got, "KUBE-MARK-MASQ") {
		t.Errorf("everything is a pod: %s", got)
	}
	for name, match := range map[string]string{"cbr0": " ! -i cbr0 ", "veth+": " ! -i veth+ "} {
		p.Config.Detector = plan.Detector{Interface: name}
		if got := first(); !strings.Contains(got, match) || !strings.HasSuffix(got, "-j KUBE-MARK-MASQ") {
			t.Errorf("interface %s: %s", name, got)
		}
	}
	front.Pods.Masquerade = true
	if got := first(); strings.Contains(got, " -i ") || !strings.HasSuffix(got, "-j KUBE-MARK-MASQ") {
		t.Errorf("masquerade all: %s", got)
	}
	front.Pods.Masquerade, front.Node.Masquerade, front.Outside.Masquerade = false, false, false
	if got := first(); strings.Contains(got, "KUBE-MARK-MASQ") {
		t.Errorf("masquerade nobody: %s", got)
	}
	for _, name := range []string{"+", "sixteen-letters-", "a b", `a"b`} {
		p.Config.Detector.Interface = name
		if _, err := Render(p); err == nil || !strings.Contains(err.Error(), "interface") {
			t.Errorf("interface %q: error is %v", name, err)
		}
	}
}

func TestFaultyServicesAreNamed(t *testing.T) {
	for what, spoil := range map[string]func(*plan.Service){
		"frontend of other family":   func(s *plan.Service) { s.Ports[0].Frontends[0].Addr = netip.MustParseAddr("fd00::1") },
		"endpoint of other family":   func(s *plan.Service) { s.Ports[0].Endpoints[0].Addr = netip.MustParseAddr("fd00::1") },
		"mapped endpoint":            func(s *plan.Service) { s.Ports[0].Endpoints[0].Addr = netip.MustParseAddr("::ffff:1.2.3.4") },
		"no address":                 func(s *plan.Service) { s.Ports[0].Endpoints[0].Addr = netip.Addr{} },
		"endpoint port 0":            func(s *plan.Service) { s.Ports[0].Endpoints[0].Port = 0 },
		"frontend port 0":            func(s *plan.Service) { s.Ports[0].Frontends[0].Port = 0 },
		"unknown protocol":           func(s *plan.Service) { s.Ports[0].Name.Protocol = 1 },
		"protocols differ":           func(s *plan.Service) { s.Ports[0].Frontends[0].Protocol = model.UDP },
		"name of another's port":     func(s *plan.Service) { s.Ports[0].Name.Service.Name += ":http" },
		"two ports with one name":    func(s *plan.Service) { s.Ports = append(s.Ports, s.Ports[0]) },
		"port name of other service": func(s *plan.Service) { s.Ports[0].Name.Port = "a/b:c" },
	} {
		s := service(model.IPv4, 3, 2)
		spoil(s)
		_, err := Render(planOf(model.IPv4, service(model.IPv4, 1, 1), s))
		var fault *plan.ServiceError
		if !errors.As(err, &fault) || fault.Service != s.Name {
			t.Errorf("%s: error is %v", what, err)
		}
	}
}

func TestOddCommentsFit(t *testing.T) {
	long := strings.Repeat("a", 300)
	for _, s := range []string{long, long + "b", "a\nb", "a\x00b", "ü" + long, `a"b\c'd`, "plain", ""} {
		got := comment(s)
		if len(got) > maxComment || strings.ContainsFunc(got, unfit) {
			t.Errorf("%q gives %q", s, got)
		}
		words, err := split(nil, string(appendQuoted([]byte("-m "), got))+" -j X")
		if err != nil || len(words) != 4 || words[1] != got {
			t.Errorf("%q is read back as %q, %v", got, words, err)
		}
	}
	if comment(long) == comment(long+"b") {
		t.Error("two long comments become one")
	}
}

func TestProbabilitiesAreTheKernels(t *testing.T) {
	for n, want := range map[int]string{2: "0.50000000000", 3: "0.33333333349", 7: "0.14285714272", 250: "0.00400000019"} {
		if got := probabilityOneIn(n).String(); got != want {
			t.Errorf("1/%d is %s, want %s", n, got, want)
		}
	}
	for n := 2; n < 5000; n++ {
		p := probabilityOneIn(n)
		if got, err := parseProbability(p.String()); err != nil || got != p {
			t.Fatalf("1/%d is read back as %d, want %d", n, got, p)
		}
	}
}
