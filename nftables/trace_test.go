package nftables

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// packets are first packets from everywhere to whatever is near a plan's frontends.
func (b builder) packets(p *plan.Plan, r *rand.Rand, n int) []plan.Packet {
	dests := []netip.AddrPort{netip.AddrPortFrom(b.vip(500), 80), netip.AddrPortFrom(b.outer(200), 80)}
	for _, s := range p.Services {
		for _, port := range s.Ports {
			for _, f := range port.Frontends {
				if f.Addr.IsValid() {
					dests = append(dests, netip.AddrPortFrom(f.Addr, f.Port), netip.AddrPortFrom(f.Addr, f.Port+1))
					continue
				}
				for i := range 3 { // the last is not the node's
					dests = append(dests, netip.AddrPortFrom(b.own(i), f.Port))
				}
			}
		}
	}
	slices.SortFunc(dests, netip.AddrPort.Compare) // one seed, one list
	var out []plan.Packet
	for range n {
		packet := plan.Packet{Protocol: []model.Protocol{model.TCP, model.UDP, model.SCTP}[r.IntN(3)], Dest: dests[r.IntN(len(dests))],
			Host: []netip.Addr{b.own(0), b.own(1)}}
		switch r.IntN(4) {
		case 0:
			packet.Source, packet.Interface = b.endpoint(r.IntN(8)).Addr, []string{"cni0", "veth1"}[r.IntN(2)]
		case 1:
			packet.Source = b.own(r.IntN(2))
		case 2:
			packet.Source, packet.Interface = b.outer(r.IntN(10)), "eth0"
		case 3: // a source that nobody outside has
			packet.Source, packet.Interface = b.own(0), "eth0"
		}
		out = append(out, packet)
	}
	return out
}

// agree compares what a ruleset does with what its plan says. Another node's pod that is its own endpoint is a
// client of that node, so that it may go either way.
func agree(t *testing.T, p *plan.Plan, r *Ruleset, all []plan.Packet) {
	t.Helper()
	wrong := 0
	for _, packet := range all {
		want, got := p.Trace(packet), r.Trace(packet)
		for i, target := range want.Targets {
			if target.Endpoint.Addr() == packet.Source && remote(p, packet.Source) && i < len(got.Targets) {
				want.Targets[i].Masquerade = got.Targets[i].Masquerade
			}
		}
		if !got.Equal(want) {
			if wrong++; wrong < 5 {
				t.Errorf("%+v:\n got %v\nwant %v\nby %q", packet, got, want, got.Rules)
			}
		}
	}
}

func remote(p *plan.Plan, a netip.Addr) bool {
	for _, s := range p.Services {
		for _, port := range s.Ports {
			if slices.ContainsFunc(port.Endpoints, func(e plan.Endpoint) bool { return e.Addr == a && e.Remote }) {
				return true
			}
		}
	}
	return false
}

func TestTraceOfWhatIsRenderedIsThePlans(t *testing.T) {
	for _, f := range model.Families {
		b := builder{f}
		for name, c := range b.configs() {
			t.Run(f.String()+"/"+name, func(t *testing.T) {
				for seed := range uint64(5) {
					rnd := rand.New(rand.NewPCG(seed, 3))
					p := plan.Build(c, b.inputs(rnd, 20))
					agree(t, p, render1(t, p), b.packets(p, rnd, 500))
				}
			})
		}
	}
}

// Each rule is there for some packet: without it the trace tells what becomes of that one.
func TestTraceShowsWhatAMissingRuleDoes(t *testing.T) {
	b := builder{model.IPv4}
	c := b.configs()["pods by prefix"]
	rnd := rand.New(rand.NewPCG(1, 3))
	p := plan.Build(c, b.inputs(rnd, 60))
	packets := b.packets(p, rnd, 3000)
	whole := render1(t, p)
	met := map[string]bool{}
	for _, k := range packets {
		for _, rule := range whole.Trace(k).Rules {
			chain, _, _ := strings.Cut(rule, ":")
			met[chain] = true
		}
	}
	for name, chain := range whole.Chains {
		if c, ok := parseClass(name); ok && (c.affinity > 0 || !met[name]) {
			continue // the rules of affinity have the others to fall back on
		}
		for i, rule := range chain.Rules {
			switch {
			case rule.Kind == Balance && rule.Modulus == 1, rule.Kind == ResetTCP:
				continue // for the time of a change, and for the rate of answers alone
			case rule.Kind == Drop && name != sourceRangesChain, name == outputFilterChain:
				continue // what comes so far is damaged already; few of the node's packets have other sources
			}
			damaged := clone(whole)
			damaged.Chains[name] = Chain{chain.Hook, slices.Delete(slices.Clone(chain.Rules), i, i+1)}
			if !slices.ContainsFunc(packets, func(k plan.Packet) bool { return !damaged.Trace(k).Equal(whole.Trace(k)) }) {
				t.Errorf("%s without rule %d (%s) does the same", name, i, rule.text(model.IPv4))
			}
		}
	}
}

func TestTraceGoesByRulesOfOthersThatAreVerdicts(t *testing.T) {
	b := builder{model.IPv4}
	p := planOf(b.config(), b.service(1, b.endpoints(0, 2), model.TCP))
	packet := plan.Packet{Protocol: model.TCP, Source: b.outer(1), Interface: "eth0", Dest: netip.AddrPortFrom(b.vip(1), 80)}
	for what, c := range map[string]struct {
		damage func(*Ruleset)
		want   plan.Verdict
	}{
		"accept in a balancing chain": {func(r *Ruleset) { insert(r, "lb-2", Rule{Foreign: "accept"}) }, plan.Pass},
		"drop before all":             {func(r *Ruleset) { insert(r, preroutingChain, Rule{Foreign: "drop"}) }, plan.Discard},
		"a jump to nowhere":           {func(r *Ruleset) { insert(r, preroutingChain, Rule{Foreign: "jump theirs"}) }, plan.Translate},
		"a goto to the refusal":       {func(r *Ruleset) { insert(r, preroutingChain, Rule{Foreign: "goto no-endpoints"}) }, plan.Refuse},
		"a loop":                      {func(r *Ruleset) { insert(r, "lb-2", Rule{Foreign: "jump lb-2"}) }, plan.Discard},
		"a policy":                    {func(r *Ruleset) { r.Chains["x"] = Chain{Hook: Hook{Type: filterType, Number: hookForward, Drop: true}} }, plan.Discard},
		"no table":                    {func(r *Ruleset) { r.Exists = false }, plan.Pass},
		"a dormant table":             {func(r *Ruleset) { r.Flaw = flagsFlaw + " 0x1" }, plan.Pass},
		"one endpoint less": {func(r *Ruleset) {
			delete(r.Sets[endpointsMap].Elements, endpointKey(frontendKey(model.IPv4, p.Services[serviceName(1)].Ports[0].Frontends[0].FrontendKey), 1))
		}, plan.Translate},
		"no endpoints": {func(r *Ruleset) { clear(r.Sets[endpointsMap].Elements) }, plan.Discard},
	} {
		r := render1(t, p)
		c.damage(r)
		if got := r.Trace(packet); got.Verdict != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

func insert(r *Ruleset, chain string, rule Rule) {
	c := r.Chains[chain]
	r.Chains[chain] = Chain{c.Hook, append([]Rule{rule}, c.Rules...)}
}

// A process on the node gets the packets of others with their source, however they are routed, and the node's own
// with an address of the node.
func TestOnlyWhatLeavesTheNodeIsMasqueraded(t *testing.T) {
	for _, f := range model.Families {
		b := builder{f}
		s := b.service(1, []plan.Endpoint{b.endpoint(0), {Addr: b.own(0), Port: 8080}}, model.TCP)
		fe := &s.Ports[0].Frontends[0]
		fe.Pods.Masquerade, fe.Node.Masquerade, fe.Outside.Masquerade = true, true, true
		r := render1(t, planOf(b.config(), s))
		for iface, want := range map[string][2]bool{"eth0": {true, false}, "": {true, true}} {
			got := r.Trace(plan.Packet{Protocol: model.TCP, Source: b.own(1), Interface: iface, Dest: netip.AddrPortFrom(b.vip(1), 80),
				Host: []netip.Addr{b.own(0), b.own(1)}})
			if len(got.Targets) != 2 {
				t.Fatalf("%s by %q: %v", f, iface, got)
			}
			for _, target := range got.Targets {
				if own := target.Endpoint.Addr() == b.own(0); !own && target.Masquerade != want[0] || own && target.Masquerade != want[1] {
					t.Errorf("%s by %q: %v", f, iface, got)
				}
			}
		}
	}
}
