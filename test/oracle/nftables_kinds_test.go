package oracle

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
)

func cloneNFTables(r *nftables.Ruleset) *nftables.Ruleset {
	c := *r
	c.Chains, c.Sets = maps.Clone(r.Chains), maps.Clone(r.Sets)
	for name, chain := range c.Chains {
		chain.Rules = slices.Clone(chain.Rules)
		c.Chains[name] = chain
	}
	for name, set := range c.Sets {
		n := *set
		n.Elements = maps.Clone(set.Elements)
		c.Sets[name] = &n
	}
	return &c
}

type nftablesSite = site[*nftables.Ruleset]

// nftablesKinds are ways to damage a table. They know how frontends are written as keys, and nothing of what
// leads from them to endpoints but the kinds of rules and the lengths of keys.
var nftablesKinds = []mutationKind[*nftables.Ruleset]{
	onElements("the element of a frontend is missing", balanced, isVerdict, func(set *nftables.Set, key string, t target) { delete(set.Elements, key) }),
	onElements("a frontend drops", balanced, isVerdict, func(set *nftables.Set, key string, t target) { verdict(set, key, "drop") }),
	onElements("a frontend has another port", balanced, isVerdict, func(set *nftables.Set, key string, t target) {
		e, moved := set.Elements[key], []byte(key)
		delete(set.Elements, key)
		moved[len(moved)-3] ^= 1
		set.Elements[string(moved)] = e
	}),
	onElements("a frontend refuses instead of dropping", dropped, isVerdict, func(set *nftables.Set, key string, t target) { verdict(set, key, "goto no-endpoints") }),
	onElements("a frontend drops instead of refusing", refused, isVerdict, func(set *nftables.Set, key string, t target) { verdict(set, key, "drop") }),
	onElements("an endpoint is missing", balanced, isEndpoints, func(set *nftables.Set, key string, t target) { delete(set.Elements, key) }),
	onElements("an endpoint has another address", balanced, isEndpoints, func(set *nftables.Set, key string, t target) {
		flip(set, key, t.packet.Source.BitLen()/8-1)
	}),
	onElements("an endpoint has another port", balanced, isEndpoints, func(set *nftables.Set, key string, t target) {
		flip(set, key, t.packet.Source.BitLen()/8+1)
	}),
	onElements("the sources of a load balancer are not limited", shutOut, isPlainSet, func(set *nftables.Set, key string, t target) { delete(set.Elements, key) }),
	onElements("a source range is missing", admittedByOne, isRanges, func(set *nftables.Set, key string, t target) { delete(set.Elements, key) }),
	// Where a draw of session affinity misses, another draw follows that is as even.
	onRules("N is one more", shared, func(r nftables.Rule) bool { return r.Kind == nftables.Balance }, func(r *nftables.Rule) { r.Modulus++ }),
	onRules("N is one less", shared, draws, func(r *nftables.Rule) { r.Modulus-- }),
	onRules("balances over the wrong list", shared, func(r nftables.Rule) bool { return r.Kind == nftables.Balance }, func(r *nftables.Rule) { r.Offset ^= 1 << 20 }),
	onRules("another bit marks", masqueraded, func(r nftables.Rule) bool { return r.Kind == nftables.Mark }, func(r *nftables.Rule) { r.Mark <<= 1 }),
	onRules("another time-out", balanced, func(r nftables.Rule) bool { return r.Kind == nftables.PickAndStick }, func(r *nftables.Rule) { r.Timeout++ }),
	{"another bit is looked at", func(s *scene, r *nftables.Ruleset) (all []nftablesSite) {
		for name, chain := range r.Chains {
			if i := slices.IndexFunc(chain.Rules, func(r nftables.Rule) bool { return r.Kind == nftables.MasqueradeMarked }); i >= 0 && s.any(masqueraded) {
				all = append(all, nftablesSite{name, func(r *nftables.Ruleset) { r.Chains[name].Rules[i].Mark <<= 1 }})
			}
		}
		return all
	}},
	withoutRule("nobody looks up frontends", func(s *scene, r nftables.Rule) bool {
		return r.Kind == nftables.Dispatch && s.any(func(t target) bool {
			return balanced(t) && t.frontend.Kind != plan.NodePort && t.packet.Interface == ""
		})
	}),
	withoutRule("nobody looks up node ports", func(s *scene, r nftables.Rule) bool {
		return r.Kind == nftables.NodePorts && s.any(func(t target) bool { return balanced(t) && t.frontend.Kind == plan.NodePort })
	}),
	withoutRule("nobody masquerades", func(s *scene, r nftables.Rule) bool { return r.Kind == nftables.MasqueradeMarked && s.any(masqueraded) }),
	withoutRule("nobody masquerades hairpins", func(s *scene, r nftables.Rule) bool { return r.Kind == nftables.MasqueradeHairpin && s.any(hairpin) }),
	withoutRule("nobody limits sources", func(s *scene, r nftables.Rule) bool { return r.Kind == nftables.Limited && s.any(shutOut) }),
	withoutRule("nobody refuses unknown ports", func(s *scene, r nftables.Rule) bool {
		return r.Kind == nftables.UnknownPort && s.any(func(t target) bool { return t.frontend.Kind == plan.ClusterIP })
	}),
	withoutRule("nobody drops what is for no Service", func(s *scene, r nftables.Rule) bool { return r.Kind == nftables.Unallocated }),
	{"a hairpin is missing", func(s *scene, r *nftables.Ruleset) (all []nftablesSite) {
		for _, t := range s.targets {
			if key := string(append(t.packet.Source.AsSlice(), t.packet.Source.AsSlice()...)); hairpin(t) {
				all = append(all, withoutElement(r, "hairpin", key)...)
			}
		}
		return all
	}},
	{"a ClusterIP is not known as one", func(s *scene, r *nftables.Ruleset) (all []nftablesSite) {
		if !s.Config.GuardClusterIPs {
			return nil
		}
		for _, t := range s.targets {
			if t.frontend.Kind == plan.ClusterIP {
				all = append(all, withoutElement(r, "cluster-ips", string(t.frontend.Addr.AsSlice()))...)
			}
		}
		return all
	}},
	{"the endpoints of one frontend are given to another", func(s *scene, r *nftables.Ruleset) (all []nftablesSite) {
		return swaps(s, r)
	}},
}

// What a packet tells about the frontend that it reaches.
func balanced(t target) bool { return t.outcome.Verdict == plan.Translate }

// shared tells that a connection may go to several endpoints.
func shared(t target) bool  { return len(t.outcome.Targets) > 1 }
func refused(t target) bool { return t.outcome.Verdict == plan.Refuse }
func dropped(t target) bool {
	return t.outcome.Verdict == plan.Discard && t.route.Action == plan.Drop && !limited(t)
}
func limited(t target) bool {
	return t.frontend.Kind == plan.LoadBalancer && len(t.port.SourceRanges) > 0
}
func shutOut(t target) bool {
	return limited(t) && t.outcome.Verdict == plan.Discard && t.route.Action != plan.Drop
}
func masqueraded(t target) bool {
	return t.route.Masquerade && slices.ContainsFunc(t.outcome.Targets, func(x plan.Target) bool { return x.Masquerade && x.Endpoint.Addr() != t.packet.Source })
}
func hairpin(t target) bool {
	return !t.route.Masquerade && !remote(t.packet.Source) && slices.ContainsFunc(t.outcome.Targets, func(x plan.Target) bool { return x.Masquerade && x.Endpoint.Addr() == t.packet.Source })
}

// admittedByOne tells that a source may use a load balancer by a single one of its ranges.
func admittedByOne(t target) bool {
	n := 0
	for _, r := range t.port.Sources() {
		if r.Contains(t.packet.Source) {
			n++
		}
	}
	return limited(t) && n == 1 && t.outcome.Verdict != plan.Discard
}

// any tells whether some packet fits.
func (s *scene) any(fits func(target) bool) bool { return slices.ContainsFunc(s.targets, fits) }

// keyOf is a frontend as its maps have it: address, protocol and port, each padded to 4 bytes; a node port has
// the unspecified address.
func keyOf(k plan.FrontendKey, f model.Family) string {
	b := make([]byte, f.Bits()/8)
	if k.Addr.IsValid() {
		b = k.Addr.AsSlice()
	}
	return string(append(b, byte(k.Protocol), 0, 0, 0, byte(k.Port>>8), byte(k.Port), 0, 0))
}

// roles of sets, by what they hold and how long their keys are besides a frontend.
func isVerdict(set *nftables.Set, _ string, extra int, _ target) bool {
	return set.Verdict && extra == 0
}
func isPlainSet(set *nftables.Set, _ string, extra int, _ target) bool { return !set.Map && extra == 0 }
func isEndpoints(set *nftables.Set, key string, extra int, t target) bool {
	if extra != 4 {
		return false
	}
	if t.port.Affinity == 0 {
		// The list that the route leads to begins at another index than the other.
		return set.Name == "endpoints" && (binary.NativeEndian.Uint32([]byte(key[len(key)-4:])) >= 1<<16) == t.route.Local
	}
	data := set.Elements[key].Data
	size := t.packet.Source.BitLen() / 8
	return set.Name == "affinity-endpoints" && shared(t) && slices.ContainsFunc(t.outcome.Targets, func(x plan.Target) bool {
		return string(x.Endpoint.Addr().AsSlice()) == data[:size] && x.Endpoint.Port() == binary.BigEndian.Uint16([]byte(data[size:]))
	})
}

func isRanges(set *nftables.Set, key string, extra int, t target) bool {
	if !set.Ranges {
		return false
	}
	size := t.packet.Source.BitLen() / 8
	first, _ := netip.AddrFromSlice([]byte(key[len(key)/2-size : len(key)/2]))
	last, _ := netip.AddrFromSlice([]byte(key[len(key)-size:]))
	return first.Compare(t.packet.Source) <= 0 && t.packet.Source.Compare(last) <= 0
}

// onElements damages elements whose keys begin with a frontend that fitting packets reach.
func onElements(name string, fits func(target) bool, role func(*nftables.Set, string, int, target) bool, damage func(*nftables.Set, string, target)) mutationKind[*nftables.Ruleset] {
	return mutationKind[*nftables.Ruleset]{name, func(s *scene, r *nftables.Ruleset) (all []nftablesSite) {
		for _, t := range s.targets {
			if !fits(t) {
				continue
			}
			frontend := keyOf(t.frontend.FrontendKey, s.u.family)
			for _, set := range r.Sets {
				if set.Interval || set.Learned {
					continue
				}
				for key := range set.Elements {
					if strings.HasPrefix(key, frontend) && role(set, key, len(key)-len(frontend), t) && leadsHere(r, set, key, t) {
						all = append(all, nftablesSite{fmt.Sprintf("%s %x for %v", set.Name, key, t.packet), func(r *nftables.Ruleset) { damage(r.Sets[set.Name], key, t) }})
					}
				}
			}
		}
		return inOrder(all)
	}}
}

// leadsHere tells whether an element of a verdict map is the one that a packet meets: of two for one frontend
// one is for packets from outside, which another map holds.
func leadsHere(r *nftables.Ruleset, set *nftables.Set, key string, t target) bool {
	if !set.Verdict {
		return true
	}
	n := 0
	for _, other := range r.Sets {
		if _, there := other.Elements[key]; there && other.Verdict {
			n++
		}
	}
	if n == 1 {
		return true
	}
	return strings.HasSuffix(set.Name, "-ext") == (t.route == t.frontend.Outside && t.route != t.frontend.Node)
}

// onRules damages the first such rule of a chain that the element of a frontend leads fitting packets to. Behind
// it stands what a miss leads to.
func onRules(name string, fits func(target) bool, which func(nftables.Rule) bool, damage func(*nftables.Rule)) mutationKind[*nftables.Ruleset] {
	return mutationKind[*nftables.Ruleset]{name, func(s *scene, r *nftables.Ruleset) (all []nftablesSite) {
		for _, t := range s.targets {
			if !fits(t) {
				continue
			}
			key := keyOf(t.frontend.FrontendKey, s.u.family)
			for _, set := range r.Sets {
				to, leads := strings.CutPrefix(set.Elements[key].Data, "goto ")
				if !set.Verdict || !leads || !leadsHere(r, set, key, t) {
					continue
				}
				rules := r.Chains[to].Rules
				if i := slices.IndexFunc(rules, which); i >= 0 && (!draws(rules[i]) || i == slices.IndexFunc(rules, draws)) {
					all = append(all, nftablesSite{fmt.Sprintf("rule %d of %s", i+1, to), func(r *nftables.Ruleset) { damage(&r.Chains[to].Rules[i]) }})
				}
			}
		}
		return inOrder(all)
	}}
}

// draws tells whether a rule draws an endpoint.
func draws(r nftables.Rule) bool {
	return r.Kind == nftables.Balance || r.Kind == nftables.PickAndStick
}

// withoutRule takes a rule away wherever it stands.
func withoutRule(name string, fits func(*scene, nftables.Rule) bool) mutationKind[*nftables.Ruleset] {
	return mutationKind[*nftables.Ruleset]{name, func(s *scene, r *nftables.Ruleset) (all []nftablesSite) {
		there := func(rule nftables.Rule) bool { return fits(s, rule) }
		for _, chain := range r.Chains {
			if slices.ContainsFunc(chain.Rules, there) {
				return []nftablesSite{{"in every chain", func(r *nftables.Ruleset) {
					for name, chain := range r.Chains {
						chain.Rules = slices.DeleteFunc(chain.Rules, there)
						r.Chains[name] = chain
					}
				}}}
			}
		}
		return nil
	}}
}

func withoutElement(r *nftables.Ruleset, set, key string) []nftablesSite {
	if _, there := r.Sets[set].Elements[key]; !there {
		return nil
	}
	return []nftablesSite{{fmt.Sprintf("%s %x", set, key), func(r *nftables.Ruleset) { delete(r.Sets[set].Elements, key) }}}
}

// swaps gives the endpoints of one frontend to another.
func swaps(s *scene, r *nftables.Ruleset) (all []nftablesSite) {
	targets := slices.DeleteFunc(slices.Clone(s.targets), func(t target) bool { return !balanced(t) || t.route.Local || t.port.Affinity != 0 })
	for _, a := range targets {
		for _, b := range targets {
			mine, yours := keyOf(a.frontend.FrontendKey, s.u.family)+"\x00\x00\x00\x00", keyOf(b.frontend.FrontendKey, s.u.family)+"\x00\x00\x00\x00"
			set := r.Sets["endpoints"]
			if x, y := set.Elements[mine], set.Elements[yours]; x.Data != "" && y.Data != "" && x.Data != y.Data {
				return []nftablesSite{{fmt.Sprint(a.frontend.FrontendKey, " and ", b.frontend.FrontendKey), func(r *nftables.Ruleset) {
					set := r.Sets["endpoints"]
					set.Elements[mine], set.Elements[yours] = set.Elements[yours], set.Elements[mine]
				}}}
			}
		}
	}
	return nil
}

func verdict(set *nftables.Set, key, words string) {
	e := set.Elements[key]
	e.Data = words
	set.Elements[key] = e
}

// flip inverts the last bit of a byte of an element's data.
func flip(set *nftables.Set, key string, i int) {
	e, data := set.Elements[key], []byte(set.Elements[key].Data)
	data[i] ^= 1
	e.Data = string(data)
	set.Elements[key] = e
}

// inOrder makes what came from maps the same in every run.
func inOrder[R any](all []site[R]) []site[R] {
	slices.SortStableFunc(all, func(a, b site[R]) int { return strings.Compare(a.what, b.what) })
	return all
}
