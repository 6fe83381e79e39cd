package proxier

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/plan"
)

func TestNodePortAddressesAreKubeProxys(t *testing.T) {
	known := model.Node{Name: "n1", Known: true, Addrs: mustAddrs("192.0.2.1", "2001:db8::1", "192.0.2.2")}
	only4 := model.Node{Name: "n1", Known: true, Addrs: mustAddrs("192.0.2.1")}
	unknown := model.Node{Name: "n1"}
	at := func(all ...string) plan.NodePorts { return plan.NodePorts{Prefixes: mustPrefixes(all...)} }
	everywhere, none := plan.NodePorts{All: true}, plan.NodePorts{}
	loopback := func(n plan.NodePorts) plan.NodePorts { n.Loopback = true; return n }
	for _, c := range []struct {
		name      string
		mode      Mode
		values    string
		node      model.Node
		no127     bool
		four, six plan.NodePorts
	}{
		{"nftables, unset", NFTables, "", known, false, at("192.0.2.1/32"), at("2001:db8::1/128")},
		{"nftables, unset, no IPv6", NFTables, "", only4, false, at("192.0.2.1/32"), none},
		{"nftables, unset, no Node", NFTables, "", unknown, false, everywhere, everywhere},
		{"nftables, all", NFTables, "all", known, false, everywhere, everywhere},
		{"nftables, localhost", NFTables, "localhost", known, false, none, none},
		{"nftables, localhost by range", NFTables, "127.0.0.0/8,::1/128", known, false, none, none},
		{"iptables, unset", IPTables, "", known, false, loopback(everywhere), everywhere},
		{"iptables, unset, not on localhost", IPTables, "", known, true, everywhere, everywhere},
		{"iptables, primary", IPTables, "primary", known, false, at("192.0.2.1/32"), at("2001:db8::1/128")},
		{"iptables, primary, no Node", IPTables, "primary", unknown, false, everywhere, everywhere},
		{"iptables, primary and localhost, no Node", IPTables, "primary,localhost", unknown, false, loopback(everywhere), everywhere},
		{"iptables, localhost", IPTables, "localhost", known, false, loopback(at("127.0.0.0/8")), none},
		{"iptables, localhost, not on localhost", IPTables, "localhost", known, true, none, none},
		{"iptables, one loopback address", IPTables, "127.0.0.1/32", known, false, loopback(at("127.0.0.1/32")), everywhere},
		{"a range of one family", NFTables, "10.1.2.3/8", known, false, at("10.0.0.0/8"), everywhere},
		{"ranges", NFTables, "fd00::/8,10.0.0.0/8,10.0.0.0/8", known, false, at("10.0.0.0/8"), at("fd00::/8")},
		{"ranges and primary", NFTables, "10.0.0.0/8,primary", known, false, at("10.0.0.0/8", "192.0.2.1/32"), at("2001:db8::1/128")},
		{"a range of everything", IPTables, "0.0.0.0/0,10.0.0.0/8,::/0", known, false, loopback(everywhere), everywhere},
	} {
		var values []string
		if c.values != "" {
			values = strings.Split(c.values, ",")
		}
		a, err := ParseNodePortAddresses(values)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		s := Settings{Mode: c.mode, NodePortAddresses: a, NoLocalhostNodePorts: c.no127}
		for family, want := range map[model.Family]plan.NodePorts{model.IPv4: c.four, model.IPv6: c.six} {
			got := s.Config(family, c.node, nil)
			if !got.Equal(plan.Config{Family: family, NodeName: "n1", NodeAddrs: got.NodeAddrs, NodePorts: want, GuardClusterIPs: c.mode == NFTables, MasqueradeMark: plan.DefaultMasqueradeMark}) {
				t.Errorf("%s, %v: got %+v, want %+v", c.name, family, got.NodePorts, want)
			}
		}
	}
	for _, bad := range []string{"x", "primary,primary", "10.0.0.0", "10.0.0.0/33", "::ffff:10.0.0.0/104", "Primary", ""} {
		if a, err := ParseNodePortAddresses(strings.Split(bad, ",")); err == nil {
			t.Errorf("%q: got %+v", bad, a)
		}
	}
}

// Whatever is asked for: node ports never answer on ::1, on localhost only in mode iptables, and at addresses
// that a word or a range names.
func TestNodePortsAnswerWhereAsked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
			"primary", "localhost", "all", "127.0.0.0/8", "127.0.0.1/32", "192.0.2.0/24", "126.0.0.0/7", "::/0", "::1/128", "2001:db8::/32",
		}), 0, 4, rapid.ID).Draw(t, "values")
		a, err := ParseNodePortAddresses(values)
		if err != nil {
			t.Fatal(err)
		}
		node := model.Node{Known: rapid.Bool().Draw(t, "known")}
		if node.Known {
			node.Addrs = mustAddrs("198.51.100.1", "2001:db8::1")
		}
		s := Settings{Mode: rapid.SampledFrom([]Mode{"", NFTables, IPTables}).Draw(t, "mode"), NodePortAddresses: a, NoLocalhostNodePorts: rapid.Bool().Draw(t, "no localhost")}
		for _, f := range model.Families {
			n := s.Config(f, node, nil).NodePorts
			loopback := n.Match(netip.MustParseAddr("127.0.0.1"))
			if n.Match(netip.IPv6Loopback()) || loopback && (f == model.IPv6 || s.Mode != IPTables || s.NoLocalhostNodePorts) {
				t.Fatalf("%v: %+v answers on localhost", f, n)
			}
			if n.Loopback != loopback {
				t.Fatalf("%+v promises localhost and does not answer there", n)
			}
			for _, p := range a.Prefixes {
				if model.FamilyOf(p.Addr()) == f && !p.Addr().IsLoopback() && !n.Match(p.Addr().Next().Next()) {
					t.Fatalf("%v: %+v does not answer in %v", f, n, p)
				}
			}
			if own := addrsOf(f, node.Addrs); a.Primary && len(own) > 0 && !n.Match(own[0]) {
				t.Fatalf("%v: %+v does not answer at the primary address", f, n)
			}
		}
	})
}

func TestLocalDetectionModes(t *testing.T) {
	node := model.Node{Name: "n1", Known: true, PodCIDRs: mustPrefixes("10.244.1.0/24", "fd00:1::/64")}
	cluster := mustPrefixes("10.244.0.0/16", "fd00::/48")
	for _, c := range []struct {
		settings  Settings
		four, six plan.Detector
	}{
		{Settings{}, plan.Detector{}, plan.Detector{}},
		{Settings{ClusterCIDRs: cluster}, plan.Detector{Prefixes: cluster[:1]}, plan.Detector{Prefixes: cluster[1:]}},
		{Settings{ClusterCIDRs: cluster[:1]}, plan.Detector{Prefixes: cluster[:1]}, plan.Detector{}},
		{Settings{DetectLocalMode: NodeCIDR, ClusterCIDRs: cluster}, plan.Detector{Prefixes: node.PodCIDRs[:1]}, plan.Detector{Prefixes: node.PodCIDRs[1:]}},
		{Settings{DetectLocalMode: BridgeInterface, BridgeInterface: "cni0", ClusterCIDRs: cluster}, plan.Detector{Interface: "cni0"}, plan.Detector{Interface: "cni0"}},
		{Settings{DetectLocalMode: InterfaceNamePrefix, InterfaceNamePrefix: "veth"}, plan.Detector{Interface: "veth+"}, plan.Detector{Interface: "veth+"}},
		{Settings{DetectLocalMode: InterfaceNamePrefix}, plan.Detector{}, plan.Detector{}},
	} {
		for family, want := range map[model.Family]plan.Detector{model.IPv4: c.four, model.IPv6: c.six} {
			got := c.settings.Config(family, node, nil)
			if with := got; func() bool { with.Detector = want; return !with.Equal(got) }() {
				t.Errorf("%+v, %v: got %+v, want %+v", c.settings, family, got.Detector, want)
			}
		}
	}
}

func TestInterfaceNamesAreChecked(t *testing.T) {
	for _, good := range []string{"cni0", "veth", "br-1234567890ab", "a.100", "lxc_health"} {
		if err := CheckInterface(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "sixteen-letters-", ".", "..", "a b", "a/b", "veth+", "veth*", "a\"", "a\\", "ä", "a\x00", "!a"} {
		if err := CheckInterface(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestPrefixesOfInterfacesAreNeverEveryInterfaceNorTooLong(t *testing.T) {
	for prefix, want := range map[string]string{"": "", "veth": "veth+", "fourteen-bytes": "fourteen-bytes+", "fifteen-bytes-0": "fifteen-bytes-0"} {
		s := Settings{DetectLocalMode: InterfaceNamePrefix, InterfaceNamePrefix: prefix}
		if got := s.Config(model.IPv4, model.Node{}, nil).Detector; got.Interface != want || len(got.Prefixes) > 0 {
			t.Errorf("prefix %q: %+v, want the interface %q", prefix, got, want)
		}
	}
}

func TestNodeCIDRWithoutRangesIsSaidOnceUntilTheyAreKnown(t *testing.T) {
	r := newRig(service("a", 1))
	log, logs := quiet()
	r.log, r.settings.DetectLocalMode = log, NodeCIDR
	said := func(text string, times int) {
		t.Helper()
		if n := logs.FilterMessageSnippet(text).Len(); n != times {
			t.Errorf("%q was said %d times, want %d: %v", text, n, times, logs.All())
		}
	}
	detects := func(want ...netip.Prefix) {
		t.Helper()
		r.mustSync(t)
		expect(t, "pods' addresses", r.kernel.config.Detector.Prefixes, want)
	}
	detects()
	r.store.Update(update(service("b", 2)))
	detects()
	said("Node node is not known", 1)
	r.store.Update(Objects{Nodes: map[string]*model.Node{"node": {Name: "node"}}})
	detects()
	detects()
	said("Node node has no spec.podCIDRs", 1)
	cidrs := mustPrefixes("10.244.1.0/24")
	r.store.Update(Objects{Nodes: map[string]*model.Node{"node": {Name: "node", PodCIDRs: cidrs}}})
	detects(cidrs...)
	said("detect-local-mode", 2)
	r.kernel.obeyed(t)
}

// What the Node says reaches the kernel: with every change of it everything is planned and applied anew.
func TestChangesOfTheNodeAreAppliedInFull(t *testing.T) {
	r := newRig(service("a", 1))
	r.settings.DetectLocalMode = NodeCIDR
	nodes := []*model.Node{
		{Name: "node"},
		{Name: "node", Addrs: mustAddrs("192.0.2.1")},
		{Name: "node", Addrs: mustAddrs("192.0.2.2", "192.0.2.1")},
		{Name: "node", Addrs: mustAddrs("192.0.2.2", "192.0.2.1"), PodCIDRs: mustPrefixes("10.244.1.0/24")},
		{Name: "node", Addrs: mustAddrs("192.0.2.2", "192.0.2.1"), PodCIDRs: mustPrefixes("10.244.2.0/24")},
		{Name: "node", Addrs: mustAddrs("192.0.2.2", "192.0.2.1"), PodCIDRs: mustPrefixes("10.244.2.0/24"), Zone: "z1"},
		nil,
	}
	r.mustSync(t)
	for _, n := range nodes {
		r.store.Update(Objects{Nodes: map[string]*model.Node{"node": n, "other": {Name: "other", Zone: "z9"}}})
		if !r.mustSync(t).full {
			t.Errorf("not applied in full: %+v", n)
		}
		known := model.Node{Name: "node"}
		if n != nil {
			known = *n
			known.Known = true
		}
		if want := r.settings.Config(model.IPv4, known, nil); !r.kernel.config.Equal(want) {
			t.Errorf("for %+v: got %+v, want %+v", n, r.kernel.config, want)
		}
		if r.mustSync(t).full {
			t.Error("applied in full without a change")
		}
	}
	r.kernel.obeyed(t)
}
