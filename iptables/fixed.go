package iptables

import (
	"net/netip"
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// jumps returns the rules in built-in chains. kube-proxy inserts them at the front one by one, so that they
// stand in the reverse order of its list.
func jumps(table string) []Jump {
	const portals = "kubernetes service portals"
	if table == tableNAT {
		services := Rule{Comment: portals, Target: chainServices}
		return []Jump{
			{From: "PREROUTING", Rule: services},
			{From: "OUTPUT", Rule: services},
			{From: "POSTROUTING", Rule: Rule{Comment: "kubernetes postrouting rules", Target: chainPostrouting}},
		}
	}
	onNew := func(comment, target string) Rule {
		return Rule{State: StateNew, CommentLast: true, Comment: comment, Target: target}
	}
	services := onNew(portals, chainServices)
	external := onNew("kubernetes externally-visible service portals", chainExternal)
	firewall := onNew("kubernetes load balancer firewall", chainFirewall)
	return []Jump{
		{From: "INPUT", Rule: firewall},
		{From: "INPUT", Rule: Rule{Comment: "kubernetes health check service ports", Target: chainNodePorts}},
		{From: "INPUT", Rule: external},
		{From: "FORWARD", Rule: firewall},
		{From: "FORWARD", Rule: Rule{Comment: "kubernetes forwarding rules", Target: chainForward}},
		{From: "FORWARD", Rule: services},
		{From: "FORWARD", Rule: external},
		{From: "OUTPUT", Rule: firewall},
		{From: "OUTPUT", Rule: services},
	}
}

// fixedChains adds the chains of a table that no Service shapes.
func fixedChains(table string, c *plan.Config, f features, chains map[string][]Rule) {
	chains[chainCanary] = []Rule{{Comment: "svcproxy programmed this table; without this rule, it is taken for flushed"}}
	bit := c.MasqueradeMark
	if bit == 0 {
		bit = plan.DefaultMasqueradeMark
	}
	marked := Mark{bit, bit}
	if table == tableNAT {
		chains[chainMarkMasq] = []Rule{{Target: targetMark, SetMark: marked}}
		chains[chainPostrouting] = []Rule{
			{Mark: marked, NotMark: true, Target: targetReturn},
			// The mark goes, so that a packet that passes the stack again is not masqueraded again.
			{Target: targetMark, SetMark: Mark{Value: bit}},
			{Comment: "kubernetes service traffic requiring SNAT", Target: targetMasquerade, RandomFully: f.randomFully},
		}
		if !c.MasqueradeAll && c.Detector.Interface == "" && len(c.Detector.Prefixes) > 1 {
			chains[remoteChain] = remoteSources(c.Detector.Prefixes)
		}
		return
	}
	var forward []Rule
	if !f.liberal {
		forward = append(forward, Rule{State: StateInvalid, Target: targetDrop})
	}
	chains[chainForward] = append(forward,
		Rule{Comment: "kubernetes forwarding rules", Mark: marked, Target: targetAccept},
		Rule{Comment: "kubernetes forwarding conntrack rule", State: StateRelated | StateEstablished, Target: targetAccept})
}

// remoteSources returns a chain that marks connections from outside of all the prefixes, which one rule
// cannot do, as iptables inverts the match of one prefix only.
func remoteSources(local []netip.Prefix) []Rule {
	var rules []Rule
	for _, p := range local {
		rules = append(rules, Rule{Source: p, Target: targetReturn})
	}
	return append(rules, Rule{Target: chainMarkMasq})
}

// distinct returns prefixes in order, masked, without those inside of others.
func distinct(prefixes []netip.Prefix) []netip.Prefix {
	var distinct []netip.Prefix
	for _, p := range slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare) {
		if n := len(distinct); n == 0 || !distinct[n-1].Overlaps(p) {
			distinct = append(distinct, p.Masked())
		}
	}
	return distinct
}

// podSources returns the matches of connections from pods, any of which suffices. A prefix of every address
// matches without one, as iptables-save prints none for it.
func podSources(c *plan.Config) []Rule {
	if c.Detector.Interface != "" {
		return []Rule{{In: c.Detector.Interface}}
	}
	var sources []Rule
	for _, p := range c.Detector.Prefixes {
		if p.Bits() == 0 {
			return []Rule{{}}
		}
		sources = append(sources, Rule{Source: p})
	}
	return sources
}

// markOthers returns a rule that has those connections masqueraded which don't come from pods, and false if
// that is nobody. It derives it from one that matches both.
func markOthers(c *plan.Config, r Rule) (Rule, bool) {
	r.Target = chainMarkMasq
	switch prefixes := c.Detector.Prefixes; {
	case c.Detector.Interface != "":
		r.In, r.NotIn = c.Detector.Interface, true
	case len(prefixes) > 1:
		r.Target = remoteChain
	case len(prefixes) == 0 || prefixes[0].Bits() == 0:
		return Rule{}, false
	default:
		r.Source, r.NotSource = prefixes[0], true
	}
	return r, true
}

// loopback returns the addresses that never leave a host.
func loopback(f model.Family) netip.Prefix {
	if f == model.IPv6 {
		return netip.PrefixFrom(netip.IPv6Loopback(), 128)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
}

// onLoopback tells whether node ports answer on loopback addresses, which takes route_localnet=1.
func onLoopback(c *plan.Config) bool {
	return c.Family == model.IPv4 && c.NodePorts.Loopback &&
		(c.NodePorts.All || slices.ContainsFunc(c.NodePorts.Prefixes, loopback(c.Family).Overlaps))
}

// nodePortDests returns the matches of the addresses where node ports answer, any of which suffices.
func nodePortDests(c *plan.Config) []Rule {
	loop, prefixes := loopback(c.Family), distinct(c.NodePorts.Prefixes)
	if c.NodePorts.All || len(prefixes) > 0 && prefixes[0].Bits() == 0 {
		if onLoopback(c) {
			return []Rule{{DestType: TypeLocal}}
		}
		return []Rule{{Dest: loop, NotDest: true, DestType: TypeLocal}}
	}
	var dests []Rule
	for _, p := range prefixes {
		parts := []netip.Prefix{p}
		if !onLoopback(c) {
			parts = except(p, loop)
		}
		for _, part := range parts {
			dests = append(dests, Rule{Dest: part, DestType: TypeLocal})
		}
	}
	return dests
}

// except returns the parts of a prefix that are outside of another one.
func except(p, hole netip.Prefix) []netip.Prefix {
	switch {
	case !p.Overlaps(hole):
		return []netip.Prefix{p}
	case p.Bits() >= hole.Bits():
		return nil
	}
	lower := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	middle, _ := netip.AddrFromSlice(bytes)
	return append(except(lower, hole), except(netip.PrefixFrom(middle, p.Bits()+1), hole)...)
}

// nodePortJumps returns the rules that lead to node ports, after all that name an address.
func nodePortJumps(c *plan.Config) []Rule {
	dests := nodePortDests(c)
	for i := range dests {
		dests[i].Comment = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
		dests[i].Target = chainNodePorts
	}
	return dests
}

// localnetGuard returns the rule without which route_localnet, that node ports on loopback addresses need,
// would let neighbours reach whatever listens there (CVE-2020-8558). kubelet has one like it in its own chain,
// on which nobody can rely; that one looks at the source and so hits the node's own connections too.
func localnetGuard(c *plan.Config) []Rule {
	if !onLoopback(c) {
		return nil
	}
	return []Rule{{Dest: loopback(c.Family), In: "lo", NotIn: true, Comment: "block incoming localnet connections",
		State: StateRelated | StateEstablished | StateDNAT, NotState: true, Target: targetDrop}}
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
