package iptables

import (
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// kubeProxyPlan returns the plan of the Services in testdata/kube-proxy.ipv4: one of all classes with the external
// policy Local, source ranges and affinity, and one without endpoints.
func kubeProxyPlan() *plan.Plan {
	port := []model.ServicePort{{Name: "p80", Protocol: model.TCP, Port: 80}}
	none := &model.Service{Name: model.ServiceName{Namespace: "ns4", Name: "svc4"}, Ports: port, ClusterIPs: all(model.IPv4, "172.30.0.44")}
	local := &model.Service{Name: model.ServiceName{Namespace: "ns5", Name: "svc5"}, ClusterIPs: all(model.IPv4, "172.30.0.41"),
		ExternalIPs: all(model.IPv4, "192.168.99.1"), LoadBalancerIPs: all(model.IPv4, "1.2.3.4"),
		SourceRanges: within(model.IPv4, "203.0.113.0/25"), Affinity: 10800 * time.Second, ExternalLocal: true,
		Ports: []model.ServicePort{{Name: "p80", Protocol: model.TCP, Port: 80, NodePort: 3002}}}
	slice := &model.Slice{Service: local.Name, Family: model.IPv4, Ports: []model.SlicePort{{Name: "p80", Protocol: model.TCP, Port: 80}},
		Endpoints: []model.Endpoint{
			{Addr: netip.MustParseAddr("10.180.0.3"), Ready: true, Serving: true, NodeName: "n2"},
			{Addr: netip.MustParseAddr("10.180.0.4"), Ready: true, Serving: true, NodeName: drawnNode},
		}}
	config := plan.Config{Family: model.IPv4, NodeName: drawnNode, Detector: plan.Detector{Prefixes: within(model.IPv4, "10.0.0.0/8")},
		NodePorts: plan.NodePorts{All: true, Loopback: true}}
	return plan.Build(config, []plan.Input{{Name: none.Name, Service: none}, {Name: local.Name, Service: local, Slices: []*model.Slice{slice}}})
}

func kubeProxyRuleset(t *testing.T) *Ruleset {
	t.Helper()
	text, err := os.ReadFile("testdata/kube-proxy.ipv4")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(model.IPv4, string(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestEveryClassIsSpelledAsByKubeProxy compares all chains, rules and comments. Two rules are svcproxy's alone: the
// guard of loopback, which kube-proxy shares with kubelet, and the refusals for the node itself.
func TestEveryClassIsSpelledAsByKubeProxy(t *testing.T) {
	want, got := kubeProxyRuleset(t), render(t, kubeProxyPlan())
	ours := map[string]Rule{
		chainNodePorts: localnetGuard(&kubeProxyPlan().Config)[0],
		chainServices:  {Comment: "externally-visible service portals, for the node itself", SourceType: TypeLocal, Target: chainExternal},
	}
	for _, name := range tableNames {
		theirs, mine := want.table(name), got.table(name)
		delete(theirs.Chains, chainKubeProxyCanary)
		delete(mine.Chains, chainCanary)
		if !slices.EqualFunc(theirs.Jumps, mine.Jumps, Jump.same) {
			t.Errorf("table %s: jumps are %v, want %v", name, mine.Jumps, theirs.Jumps)
		}
		if a, b := slices.Sorted(maps.Keys(theirs.Chains)), slices.Sorted(maps.Keys(mine.Chains)); !slices.Equal(a, b) {
			t.Errorf("table %s: chains are %v, want %v", name, b, a)
		}
		for chain, rules := range mine.Chains {
			if own, any := ours[chain]; any && name == tableFilter {
				n := len(rules)
				if rules = slices.DeleteFunc(rules, func(r Rule) bool { return r == own }); len(rules) != n-1 {
					t.Errorf("chain %s lacks svcproxy's own rule", chain)
				}
			}
			if wanted := theirs.Chains[chain]; !slices.Equal(sortedPortals(rules), sortedPortals(wanted)) {
				t.Errorf("table %s: chain %s:\n%s\nwant\n%s", name, chain, appendRules(nil, chain, rules), appendRules(nil, chain, wanted))
			}
		}
	}
}

// sortedPortals returns the rules of a chain, those for single addresses and ports in svcproxy's order.
func sortedPortals(rules []Rule) []Rule {
	if slices.ContainsFunc(rules, func(r Rule) bool { return r.Target == chainMarkMasq }) {
		return rules
	}
	n := 0
	for n < len(rules) && rules[n].DestPort != 0 {
		n++
	}
	rules = slices.Clone(rules)
	sortFrontends(rules[:n])
	return rules
}

// TestTraceOfKubeProxysRules holds what kube-proxy programs against the plan of the same Services.
func TestTraceOfKubeProxysRules(t *testing.T) {
	p, r := kubeProxyPlan(), kubeProxyRuleset(t)
	for _, from := range []struct{ source, iface string }{
		{"10.1.1.1", "veth1"}, {"10.180.0.4", "veth1"}, {"203.0.113.9", "eth0"}, {"203.0.113.200", "eth0"}, {"192.168.0.1", ""},
	} {
		for _, to := range []string{"172.30.0.41:80", "172.30.0.44:80", "192.168.99.1:80", "1.2.3.4:80", "192.168.0.1:3002", "192.168.0.1:80"} {
			packet := plan.Packet{Protocol: model.TCP, Source: netip.MustParseAddr(from.source), Interface: from.iface,
				Dest: netip.MustParseAddrPort(to), Host: all(model.IPv4, "192.168.0.1")}
			if want, got := p.Trace(packet), r.Trace(packet); !want.Equal(got) {
				t.Errorf("%+v\nthe plan %v\nthe rules %v\n%q", packet, want, got, got.Rules)
			}
		}
	}
}

// TestTraceOfDamage takes away and adds what somebody might.
func TestTraceOfDamage(t *testing.T) {
	packet := plan.Packet{Protocol: model.TCP, Source: netip.MustParseAddr("203.0.113.9"), Interface: "eth0",
		Dest: netip.MustParseAddrPort("172.30.0.41:80"), Host: all(model.IPv4, "192.168.0.1")}
	name := model.ServicePortName{Service: model.ServiceName{Namespace: "ns5", Name: "svc5"}, Port: "p80", Protocol: model.TCP}
	svc, sep := model.ServiceChain(name), model.EndpointChain(name, "10.180.0.4:80")
	for what, c := range map[string]struct {
		damage  func(*Ruleset)
		verdict plan.Verdict
		why     string
		share   float64
	}{
		"none":            {func(*Ruleset) {}, plan.Translate, "", 1},
		"jump gone":       {func(r *Ruleset) { r.NAT.Jumps = r.NAT.Jumps[1:] }, plan.Pass, "", 0},
		"DNAT gone":       {func(r *Ruleset) { r.NAT.Chains[sep] = r.NAT.Chains[sep][:1] }, plan.Translate, "with a probability of 0.5000: pass", 0.5},
		"chain gone":      {func(r *Ruleset) { delete(r.NAT.Chains, svc) }, plan.Pass, "chain " + svc + " is missing", 0},
		"unknown match":   {func(r *Ruleset) { r.NAT.Chains[svc][1].Other = "-m set --match-set x src" }, plan.Translate, "", 1},
		"drop put first":  {func(r *Ruleset) { r.NAT.Chains[svc] = []Rule{{Target: targetDrop}} }, plan.Discard, "", 0},
		"postrouting cut": {func(r *Ruleset) { r.NAT.Chains[chainPostrouting] = nil }, plan.Translate, "", 1},
	} {
		r, err := Parse(model.IPv4, render(t, kubeProxyPlan()).Text())
		if err != nil {
			t.Fatal(err)
		}
		c.damage(r)
		got := r.Trace(packet)
		share := 0.0
		for _, target := range got.Targets {
			share += target.Probability
			if target.Masquerade == (what == "postrouting cut") {
				t.Errorf("%s: %v", what, got)
			}
		}
		if got.Verdict != c.verdict || share < c.share-1e-6 || share > c.share+1e-6 || c.why != "" && got.Why != c.why {
			t.Errorf("%s: %v", what, got)
		}
	}
}
