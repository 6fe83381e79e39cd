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

// traced is a plan and what it says about packets, which several others are held against.
type traced struct {
	*plan.Plan
	packets  []plan.Packet
	outcomes []plan.Outcome
}

func trace(p *plan.Plan, all []plan.Packet) *traced {
	t := &traced{p, all, make([]plan.Outcome, len(all))}
	for i, packet := range all {
		t.outcomes[i] = lenient(packet, p.Trace(packet))
	}
	return t
}

// compare returns what a plan and somebody else disagree about first.
func compare(want *traced, name string, got tracer) error {
	for i, p := range want.packets {
		w, g := want.outcomes[i], lenient(p, got.Trace(p))
		if w.Equal(g) {
			continue
		}
		met := ""
		for _, rule := range g.Rules {
			met += "\n    " + rule
		}
		return fmt.Errorf("%s to %s from %s by %q:\n  the plan: %v\n  %s: %v%s", p.Protocol, p.Dest, p.Source, p.Interface, w, name, g, met)
	}
	return nil
}

// comparePlans holds the plans for both modes against each other, but for what is meant to differ: guards of
// ClusterIPs, and by default the addresses of node ports.
func comparePlans(n, i *traced) error {
	if !maps.EqualFunc(n.Services, i.Services, (*plan.Service).Equal) {
		return fmt.Errorf("the modes differ in the decisions about Services: %v and %v", n.Services, i.Services)
	}
	alike := *n.Plan
	alike.Config.GuardClusterIPs, alike.Config.NodePorts = false, i.Config.NodePorts
	for k, packet := range n.packets {
		if n.outcomes[k].Equal(i.outcomes[k]) {
			continue
		}
		if o := lenient(packet, alike.Trace(packet)); !o.Equal(i.outcomes[k]) {
			return fmt.Errorf("%+v: the plan for nftables says %v, that for iptables %v", packet, o, i.outcomes[k])
		}
	}
	return nil
}

// compareIPTables holds the plan against what iptables reads of its rules.
func compareIPTables(u *universe, p *traced) error {
	rendered, err := iptables.Render(p.Plan)
	if err != nil {
		return err
	}
	parsed, err := iptables.Parse(u.family, rendered.Text())
	if err != nil {
		return fmt.Errorf("parse what iptables would load: %w", err)
	}
	return compare(p, "iptables", parsed)
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

// lenient leaves out of account whether a connection of another node's pod to itself through a ClusterIP is
// masqueraded. It is a client of its own node's proxy, so that a backend may go without (plan.Endpoint.Remote).
func lenient(p plan.Packet, o plan.Outcome) plan.Outcome {
	if !remote(p.Source) || !universes[model.FamilyOf(p.Source)].serviceCIDR.Contains(p.Dest.Addr()) {
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
