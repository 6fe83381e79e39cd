package oracle

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/plan"
)

func cloneIPTables(r *iptables.Ruleset) *iptables.Ruleset {
	c := *r
	for _, t := range []*iptables.Table{&c.NAT, &c.Filter} {
		t.Jumps, t.Chains = slices.Clone(t.Jumps), maps.Clone(t.Chains)
		for name, rules := range t.Chains {
			t.Chains[name] = slices.Clone(rules)
		}
	}
	return &c
}

type iptablesSite = site[*iptables.Ruleset]

const (
	services, nodePortsChain, externalServices = "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES"
	firewall, markMasq, postrouting            = "KUBE-PROXY-FIREWALL", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"
)

// iptablesKinds are ways to damage kube-proxy's chains, by what those mean to whoever knows kube-proxy.
var iptablesKinds = []mutationKind[*iptables.Ruleset]{
	inNAT("an endpoint has another address", balanced, endpointChain, translates, func(r *iptables.Rule) { r.To = netip.AddrPortFrom(r.To.Addr().Prev(), r.To.Port()) }),
	inNAT("an endpoint has another port", balanced, endpointChain, translates, func(r *iptables.Rule) { r.To = netip.AddrPortFrom(r.To.Addr(), r.To.Port()+1) }),
	inNAT("an endpoint does not translate", balanced, endpointChain, translates, nil),
	inNAT("an endpoint has no share", balanced, balancingChain, toEndpoint, nil),
	inNAT("N is one more", shared, balancingChain, drawn, func(r *iptables.Rule) { r.Probability = oneIn(math.Round(1/r.Probability.Float()) + 1) }),
	inNAT("N is one less", shared, balancingChain, drawn, func(r *iptables.Rule) { r.Probability = oneIn(math.Round(1/r.Probability.Float()) - 1) }),
	inNAT("always the first", shared, balancingChain, drawn, func(r *iptables.Rule) { r.Probability = 0 }),
	{"an endpoint has the share of another", func(s *scene, r *iptables.Ruleset) (all []iptablesSite) {
		for _, t := range s.targets {
			if !shared(t) {
				continue
			}
			chain := balancingChain(t)
			var drawn []int
			for i, rule := range r.NAT.Chains[chain] {
				if toEndpoint(t, rule) {
					drawn = append(drawn, i)
				}
			}
			all = append(all, iptablesSite{chain, func(r *iptables.Ruleset) {
				rules := r.NAT.Chains[chain]
				rules[drawn[0]].Target = rules[drawn[len(drawn)-1]].Target
			}})
		}
		return all
	}},
	inNAT("nobody marks", masqueraded, always(markMasq), anyRule, nil),
	inNAT("another bit marks", masqueraded, always(markMasq), anyRule, func(r *iptables.Rule) { r.SetMark.Value, r.SetMark.Mask = r.SetMark.Value<<1, r.SetMark.Mask<<1 }),
	inNAT("another bit is looked at", masqueraded, always(postrouting), func(_ target, r iptables.Rule) bool { return r.Mark.Mask != 0 }, func(r *iptables.Rule) { r.Mark.Value, r.Mark.Mask = r.Mark.Value<<1, r.Mark.Mask<<1 }),
	inNAT("nobody masquerades", masqueraded, always(postrouting), func(_ target, r iptables.Rule) bool { return r.Target == "MASQUERADE" }, nil),
	inNAT("a hairpin is not marked", hairpin, endpointChainOfSource, marks, nil),
	inNAT("external connections are not marked", func(t target) bool {
		return masqueraded(t) && t.frontend.Kind != plan.ClusterIP && t.route == t.frontend.Outside
	}, externalChain, func(_ target, r iptables.Rule) bool {
		return r.Target == markMasq && !r.Source.IsValid() && r.In == "" && r.SourceType == 0
	}, nil),
	inNAT("the node does not take the short cut", func(t target) bool {
		return balanced(t) && t.packet.Interface == "" && t.frontend.Kind != plan.ClusterIP && t.route == t.frontend.Node && otherEndpointsOutside(t)
	}, externalChain, func(_ target, r iptables.Rule) bool {
		return r.SourceType != 0 && strings.HasPrefix(r.Target, model.ServiceChainPrefix)
	}, nil),
	inNAT("the rule of a frontend is missing", func(t target) bool {
		return balanced(t) && t.frontend.Kind != plan.NodePort && !t.packet.Own(t.packet.Dest.Addr())
	},
		always(services), forFrontend, nil),
	inNAT("a frontend has another port", func(t target) bool {
		return balanced(t) && t.frontend.Kind != plan.NodePort && !t.packet.Own(t.packet.Dest.Addr())
	},
		always(services), forFrontend, func(r *iptables.Rule) { r.DestPort++ }),
	inNAT("a node port is missing", nodePort, always(nodePortsChain), forFrontend, nil),
	inNAT("a node port has another protocol", nodePort, always(nodePortsChain), forFrontend, func(r *iptables.Rule) { r.Protocol = 7 }),
	inNAT("a source range is missing", func(t target) bool { return balanced(t) && admittedByOne(t) }, firewallChain,
		func(t target, r iptables.Rule) bool { return r.Source.IsValid() && r.Source.Contains(t.packet.Source) }, nil),
	// Where nothing is balanced for outside, that is dropped all the same.
	inFilter("sources are not limited", func(t target) bool { return shutOut(t) && t.frontend.Outside.Action == plan.Balance },
		always(firewall), forFrontend, nil),
	inFilter("dropped instead of refused", func(t target) bool { return refused(t) && !limited(t) }, refusingChain, forFrontend, func(r *iptables.Rule) { r.Target = "DROP" }),
	inFilter("refused instead of dropped", dropped, refusingChain, forFrontend, func(r *iptables.Rule) { r.Target = "REJECT" }),
	inFilter("neither refused nor dropped", func(t target) bool { return (refused(t) || dropped(t)) && !limited(t) }, refusingChain, forFrontend, nil),
	inNAT("clients are remembered for longer", balanced, balancingChain, func(_ target, r iptables.Rule) bool { return r.Recent.Op == iptables.RecentCheck }, func(r *iptables.Rule) { r.Recent.Seconds += 60 }),
	withoutJump("nobody looks at what arrives", "PREROUTING", services, func(t target) bool { return balanced(t) && t.packet.Interface != "" }),
	withoutJump("nobody looks at what the node sends", "OUTPUT", services, func(t target) bool { return balanced(t) && t.packet.Interface == "" }),
	withoutJump("nobody looks at what is to be masqueraded", "POSTROUTING", postrouting, masqueraded),
	withoutJump("nobody refuses what is forwarded", "FORWARD", services, func(t target) bool {
		return refused(t) && t.frontend.Kind == plan.ClusterIP && t.packet.Interface != "" && !t.packet.Own(t.packet.Dest.Addr())
	}),
}

func oneIn(n float64) iptables.Probability {
	return iptables.Probability(math.Round(float64(iptables.ProbabilityOne) / n))
}

// Names of a packet's chains.
func always(chain string) func(target) string { return func(target) string { return chain } }
func balancingChain(t target) string {
	if t.route.Local {
		return portChain("KUBE-SVL-", t)
	}
	return portChain(model.ServiceChainPrefix, t)
}
func endpointChain(t target) string {
	return model.EndpointChain(t.port.Name, t.outcome.Targets[0].Endpoint.String())
}
func endpointChainOfSource(t target) string {
	for _, x := range t.outcome.Targets {
		if x.Endpoint.Addr() == t.packet.Source {
			return model.EndpointChain(t.port.Name, x.Endpoint.String())
		}
	}
	return ""
}
func externalChain(t target) string { return portChain("KUBE-EXT-", t) }
func firewallChain(t target) string { return portChain("KUBE-FW-", t) }
func refusingChain(t target) string {
	if t.frontend.Kind == plan.ClusterIP {
		return services
	}
	return externalServices
}
func portChain(prefix string, t target) string {
	return prefix + strings.TrimPrefix(model.ServiceChain(t.port.Name), model.ServiceChainPrefix)
}

// Rules of a packet.
func anyRule(target, iptables.Rule) bool        { return true }
func translates(_ target, r iptables.Rule) bool { return r.To.IsValid() }
func marks(_ target, r iptables.Rule) bool      { return r.Target == markMasq }
func toEndpoint(_ target, r iptables.Rule) bool {
	return strings.HasPrefix(r.Target, model.EndpointChainPrefix) && r.Recent.Op == 0
}
func drawn(_ target, r iptables.Rule) bool { return r.Probability != 0 }
func nodePort(t target) bool               { return balanced(t) && t.frontend.Kind == plan.NodePort }
func forFrontend(t target, r iptables.Rule) bool {
	to := t.packet.Dest
	return r.Protocol == t.packet.Protocol && r.DestPort == to.Port() && (!r.Dest.IsValid() || r.Dest.Contains(to.Addr()) != r.NotDest) &&
		(!r.Source.IsValid() || r.Source.Contains(t.packet.Source))
}

// otherEndpointsOutside tells whether connections from outside go elsewhere.
func otherEndpointsOutside(t target) bool {
	o := t.frontend.Outside
	return o.Action != plan.Balance || !slices.EqualFunc(t.port.List(o), t.port.List(t.route), func(a, b plan.Endpoint) bool { return a.AddrPort() == b.AddrPort() })
}

func inNAT(name string, fits func(target) bool, chain func(target) string, which func(target, iptables.Rule) bool, damage func(*iptables.Rule)) mutationKind[*iptables.Ruleset] {
	return inTable(name, func(r *iptables.Ruleset) *iptables.Table { return &r.NAT }, fits, chain, which, damage)
}

func inFilter(name string, fits func(target) bool, chain func(target) string, which func(target, iptables.Rule) bool, damage func(*iptables.Rule)) mutationKind[*iptables.Ruleset] {
	return inTable(name, func(r *iptables.Ruleset) *iptables.Table { return &r.Filter }, fits, chain, which, damage)
}

// inTable damages the first such rule of a chain that a fitting packet meets; without damage it is taken away.
func inTable(name string, table func(*iptables.Ruleset) *iptables.Table, fits func(target) bool, chain func(target) string,
	which func(target, iptables.Rule) bool, damage func(*iptables.Rule)) mutationKind[*iptables.Ruleset] {
	return mutationKind[*iptables.Ruleset]{name, func(s *scene, r *iptables.Ruleset) (all []iptablesSite) {
		for _, t := range s.targets {
			if !fits(t) {
				continue
			}
			name := chain(t)
			i := slices.IndexFunc(table(r).Chains[name], func(r iptables.Rule) bool { return which(t, r) })
			if i < 0 {
				continue
			}
			all = append(all, iptablesSite{fmt.Sprintf("rule %d of %s for %v", i+1, name, t.packet), func(r *iptables.Ruleset) {
				rules := table(r).Chains[name]
				if damage == nil {
					table(r).Chains[name] = slices.Delete(rules, i, i+1)
				} else {
					damage(&rules[i])
				}
			}})
		}
		return all
	}}
}

// withoutJump takes a jump from a built-in chain away.
func withoutJump(name, from, to string, fits func(target) bool) mutationKind[*iptables.Ruleset] {
	return mutationKind[*iptables.Ruleset]{name, func(s *scene, r *iptables.Ruleset) []iptablesSite {
		if !s.any(fits) {
			return nil
		}
		return []iptablesSite{{from + " to " + to, func(r *iptables.Ruleset) {
			for _, t := range []*iptables.Table{&r.NAT, &r.Filter} {
				t.Jumps = slices.DeleteFunc(t.Jumps, func(j iptables.Jump) bool { return j.From == from && j.Rule.Target == to })
			}
		}}}
	}}
}
