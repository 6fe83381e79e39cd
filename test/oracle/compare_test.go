package oracle

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/plan"
)

// tracer says what becomes of a packet.
type tracer interface {
	Trace(plan.Packet) plan.Outcome
}

// destination is what a packet is sent to.
type destination struct {
	protocol model.Protocol
	at       netip.AddrPort
}

// destinations returns what is worth a packet under a plan: every frontend that a Service has or claims in
// vain, the same over other protocols, and every address at some ports of nobody.
func destinations(u *universe, p *plan.Plan) []destination {
	found := map[destination]bool{}
	add := func(a netip.Addr, protocol model.Protocol, port uint16) {
		found[destination{protocol, netip.AddrPortFrom(a, port)}] = true
	}
	frontend := func(k plan.FrontendKey) {
		addrs := []netip.Addr{k.Addr}
		if !k.Addr.IsValid() {
			addrs = append(u.own(), u.loopback, u.otherNode)
		}
		for _, a := range addrs {
			add(a, k.Protocol, k.Port)
		}
		add(addrs[0], protocols[(slices.Index(protocols, k.Protocol)+1)%len(protocols)], k.Port)
	}
	for _, s := range p.Services {
		for _, port := range s.Ports {
			for _, f := range port.Frontends {
				frontend(f.FrontendKey)
			}
			for _, l := range port.Lost {
				frontend(l.Frontend.FrontendKey)
			}
		}
	}
	for _, a := range u.destinations() {
		add(a, model.TCP, 5353)
		add(a, model.UDP, 80)
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b destination) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return int(a.protocol) - int(b.protocol)
	})
}

// packets are those of every origin to every destination. To a loopback address all that counts comes from one.
func packets(u *universe, p *plan.Plan) (all []plan.Packet) {
	for _, d := range destinations(u, p) {
		for _, o := range u.origins() {
			if d.at.Addr().IsLoopback() != o.source.IsLoopback() {
				continue
			}
			all = append(all, u.packet(o, d.protocol, d.at))
		}
	}
	return all
}

// compare returns what two tracers disagree about first.
func compare(a string, want tracer, b string, got tracer, all []plan.Packet) error {
	for _, p := range all {
		w, g := lenient(p, want.Trace(p)), lenient(p, got.Trace(p))
		if w.Equal(g) {
			continue
		}
		met := ""
		for _, rule := range g.Rules {
			met += "\n    " + rule
		}
		return fmt.Errorf("%s to %s from %s by %q:\n  %s: %v\n  %s: %v%s", p.Protocol, p.Dest, p.Source, p.Interface, a, w, b, g, met)
	}
	return nil
}

// comparePlans holds the plans for both modes against each other, but for what is meant to differ: guards of
// ClusterIPs, and by default the addresses of node ports.
func comparePlans(n, i *plan.Plan, all []plan.Packet) error {
	if !maps.EqualFunc(n.Services, i.Services, (*plan.Service).Equal) {
		return fmt.Errorf("the modes differ in the decisions about Services: %v and %v", n.Services, i.Services)
	}
	unguarded := *n
	unguarded.Config.GuardClusterIPs, unguarded.Config.NodePorts = false, i.Config.NodePorts
	return compare("the plan for nftables", &unguarded, "the plan for iptables", i, all)
}

// compareIPTables holds the plan against what iptables reads of its rules.
func compareIPTables(u *universe, p *plan.Plan, all []plan.Packet) error {
	rendered, err := iptables.Render(p)
	if err != nil {
		return err
	}
	parsed, err := iptables.Parse(u.family, rendered.Text())
	if err != nil {
		return fmt.Errorf("parse what iptables would load: %w", err)
	}
	return compare("the plan", p, "iptables", parsed, all)
}

func samePlan(want, got *plan.Plan) error {
	if !want.Config.Equal(got.Config) {
		return fmt.Errorf("the manifest leads to the configuration %+v, not to %+v", got.Config, want.Config)
	}
	if !maps.EqualFunc(want.Services, got.Services, (*plan.Service).Equal) {
		return fmt.Errorf("the manifest leads to the Services %v, not to %v", got.Services, want.Services)
	}
	return nil
}

// lenient leaves out of account whether a connection of another node's pod to itself is masqueraded. It is a
// client of its own node's proxy, so that a backend may go without (plan.Endpoint.Remote).
func lenient(p plan.Packet, o plan.Outcome) plan.Outcome {
	if !remote(p.Source) {
		return o
	}
	o.Targets = slices.Clone(o.Targets)
	for i, t := range o.Targets {
		o.Targets[i].Masquerade = t.Masquerade || t.Endpoint.Addr() == p.Source
	}
	return o
}

// remote tells whether an address is one of another node's pods.
func remote(a netip.Addr) bool {
	return slices.Contains(universes[model.FamilyOf(a)].remotePods, host(a))
}
