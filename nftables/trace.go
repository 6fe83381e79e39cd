package nftables

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// Trace returns what the kernel does with the first packet of a connection of a client that the map affinity
// does not have. It goes by the rules and elements that the ruleset holds, whoever wrote them, from hook to hook;
// where the choice is random it follows every one. A rule that is none of svcproxy's kinds counts if it is a
// verdict alone, and else as one that does not match. Where damage makes some choices fail, the probabilities
// of the others add up to less than 1.
func (r *Ruleset) Trace(p plan.Packet) plan.Outcome {
	t := &tracer{r: r, packet: p, met: map[string]bool{}}
	at := []position{{dest: p.Dest, share: 1}}
	if r.Exists && !strings.HasPrefix(r.Flaw, flagsFlaw) {
		first := uint32(hookPrerouting)
		if p.Interface == "" {
			first = hookOutput
		}
		at = t.hook(first, at)
		ends := func(s position) bool { return p.Ends(s.dest.Addr()) }
		if p.Interface != "" {
			here := slices.DeleteFunc(slices.Clone(at), func(s position) bool { return !ends(s) })
			t.final = append(t.final, t.hook(hookInput, here)...)
			at = t.hook(hookForward, slices.DeleteFunc(at, ends))
		}
		at = t.hook(hookPostrouting, at)
	}
	t.final = append(t.final, at...)
	return t.outcome()
}

// position is one of the ways that a packet can have gone.
type position struct {
	dest       netip.AddrPort
	translated bool
	masquerade bool
	mark       uint32
	affinity   uint32
	share      float64
	end        end
}

// end is how a way ends in a chain or for good.
type end uint8

const (
	goesOn end = iota
	// returned leaves a chain for the one that jumped there, ended a base chain.
	returned
	ended
	dropped
	rejected
)

type tracer struct {
	r      *Ruleset
	packet plan.Packet
	// rules are the rules that did something, met those in it.
	rules []string
	met   map[string]bool
	// final are the ways that have come to their end.
	final []position
}

// hook takes a packet through the base chains of a hook in the order of their priorities.
func (t *tracer) hook(number uint32, in []position) []position {
	var names []string
	for name, c := range t.r.Chains {
		if c.Hook.Type != "" && c.Hook.Number == number {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.r.Chains[a].Hook.Priority, t.r.Chains[b].Hook.Priority), strings.Compare(a, b))
	})
	for _, name := range names {
		var out []position
		for _, s := range in {
			for _, s := range t.chain(name, s, 0) {
				if s.end == goesOn || s.end == returned {
					if s.end = goesOn; t.r.Chains[name].Hook.Drop {
						s.end = dropped
					}
				}
				if s.end == ended {
					s.end = goesOn
				}
				if s.end != goesOn {
					t.final = append(t.final, s)
					continue
				}
				out = append(out, s)
			}
		}
		in = out
	}
	return in
}

// maxDepth is how deep the kernel lets chains jump.
const maxDepth = 16

// chain returns the ways that lead out of a chain.
func (t *tracer) chain(name string, s position, depth int) []position {
	in := []position{s}
	var out []position
	for _, rule := range t.r.Chains[name].Rules {
		var next []position
		for _, s := range in {
			for _, b := range t.rule(name, rule, s) {
				for _, s := range t.follow(b, depth) {
					if s.end == goesOn {
						next = append(next, s)
					} else {
						out = append(out, s)
					}
				}
			}
		}
		if in = next; len(in) == 0 {
			break
		}
	}
	return append(out, in...)
}

// branch is what a rule does with a packet: a verdict in nft's words, empty to go on with the next rule.
type branch struct {
	position
	verdict string
}

// follow carries out a verdict.
func (t *tracer) follow(b branch, depth int) []position {
	s := b.position
	word, chain, _ := strings.Cut(b.verdict, " ")
	switch word {
	case "", "continue":
	case "accept":
		s.end = ended
	case "drop":
		s.end = dropped
	case "reject":
		s.end = rejected
	case "return":
		s.end = returned
	case "goto", "jump":
		if depth == maxDepth {
			s.end = dropped
			return []position{s}
		}
		out := t.chain(chain, s, depth+1)
		for i := range out {
			switch {
			case word == "jump" && out[i].end == returned:
				out[i].end = goesOn
			case word == "goto" && out[i].end == goesOn:
				out[i].end = returned
			}
		}
		return out
	}
	return []position{s}
}

// rule returns what a rule does with a packet.
func (t *tracer) rule(chain string, r Rule, s position) []branch {
	out := t.eval(r, s)
	if len(out) == 1 && out[0].verdict == "" && out[0].position == s {
		return out // it did not match
	}
	if text := chain + ": " + r.text(t.r.Family); !t.met[text] {
		t.met[text] = true
		t.rules = append(t.rules, text)
	}
	return out
}

func (t *tracer) eval(r Rule, s position) []branch {
	to := func(verdict string) []branch { return []branch{{s, verdict}} }
	switch r.Kind {
	case Dispatch:
		return to(t.verdict(servicesMap, t.frontend(r, s)))
	case DispatchOutside:
		if t.notPod(r) && !t.packet.Own(t.packet.Source) {
			return to(t.verdict(servicesOutsideMap, t.frontend(r, s)))
		}
	case NodePorts:
		if a := s.dest.Addr(); t.within(nodePortNetsSet, a) && !a.IsLoopback() && t.packet.Own(a) {
			return to("jump " + nodePortsChain)
		}
	case UnknownPort:
		if t.has(clusterIPsSet, addrKey(s.dest.Addr())) {
			return to("goto " + noEndpointsChain)
		}
	case Unallocated:
		if t.within(serviceCIDRsSet, s.dest.Addr()) {
			return to("drop")
		}
	case Limited:
		if t.has(limitedSet, t.frontend(r, s)) {
			return to("goto " + sourceRangesChain)
		}
	case AllowedSource:
		if t.allowed(t.frontend(r, s)) {
			return to("accept")
		}
	case Mark:
		if t.notPod(r) {
			s.mark |= r.Mark
		}
	case PickAndStick, Balance:
		return t.balance(r, s)
	case Drop:
		return to("drop")
	case ResetTCP:
		if t.packet.Protocol == model.TCP {
			return to("reject")
		}
	case Unreachable:
		return to("reject")
	case MasqueradeMarked:
		if s.mark&r.Mark == r.Mark {
			s.mark, s.masquerade = s.mark&^r.Mark, true
			return to("accept")
		}
	case MasqueradeHairpin:
		if s.translated && t.has(hairpinSet, addrKey(t.packet.Source)+addrKey(s.dest.Addr())) {
			s.masquerade = true
			return to("accept")
		}
	case Foreign:
		if word, _, _ := strings.Cut(r.Foreign, " "); slices.Contains([]string{"accept", "drop", "return", "goto", "jump"}, word) {
			return to(r.Foreign)
		}
	}
	return to("")
}

// frontend returns the key by which a rule looks for a packet's frontend.
func (t *tracer) frontend(r Rule, s position) string {
	key := plan.FrontendKey{Addr: s.dest.Addr(), Protocol: t.packet.Protocol, Port: s.dest.Port()}
	if r.NodePort {
		key.Addr = netip.Addr{}
	}
	return frontendKey(t.r.Family, key)
}

// balance follows every index that a rule may draw. Those that lead nowhere go on with the next rule.
func (t *tracer) balance(r Rule, s position) []branch {
	key := t.frontend(r, s)
	shares := map[string]int{}
	missed := 0
	for i := range r.Modulus {
		if data, ok := t.drawn(r, key, r.Offset+i); ok {
			shares[data]++
		} else {
			missed++
		}
	}
	var out []branch
	n := t.r.Family.Bits() / 8
	for _, data := range slices.Sorted(maps.Keys(shares)) {
		if len(data) != n+4 {
			missed += shares[data]
			continue
		}
		won := s
		won.dest, won.translated = netip.AddrPortFrom(addrOf(data[:n]), portOf(data[n:])), true
		won.share = s.share * float64(shares[data]) / float64(r.Modulus)
		if r.Kind == PickAndStick {
			won.affinity = r.Timeout
		}
		out = append(out, branch{won, "accept"})
	}
	if missed > 0 {
		s.share *= float64(missed) / float64(r.Modulus)
		out = append(out, branch{s, ""})
	}
	return out
}

// drawn returns the endpoint at an index.
func (t *tracer) drawn(r Rule, key string, index uint32) (string, bool) {
	if r.Kind == Balance {
		return t.data(endpointsMap, endpointKey(key, index))
	}
	id, ok := t.data(affinityPicksMap, endpointKey(key, index))
	if !ok || !t.has(affinityListsMap, endpointKey(key, r.Offset)) || t.r.Sets[affinityMap] == nil {
		return "", false
	}
	return t.data(affinityEndpointsMap, key+id)
}

// notPod carries out the test of Rule.NotPods.
func (t *tracer) notPod(r Rule) bool {
	name, wildcard := strings.CutSuffix(r.NotPods, "+")
	switch {
	case r.NotPods == "":
		return true
	case r.NotPods == fromPodNets:
		return !t.within(podNetsSet, t.packet.Source)
	case wildcard:
		return !strings.HasPrefix(t.packet.Interface, name)
	}
	return t.packet.Interface != name
}

// data looks a key up.
func (t *tracer) data(set, key string) (string, bool) {
	s := t.r.Sets[set]
	if s == nil {
		return "", false
	}
	el, ok := s.Elements[key]
	return el.Data, ok
}

func (t *tracer) has(set, key string) bool {
	_, ok := t.data(set, key)
	return ok
}

func (t *tracer) verdict(set, key string) string {
	verdict, _ := t.data(set, key)
	return verdict
}

// within tells whether an address is in an interval set.
func (t *tracer) within(set string, a netip.Addr) bool {
	s := t.r.Sets[set]
	if s == nil {
		return false
	}
	key := addrKey(a)
	for first, el := range s.Elements {
		if first <= key && (el.Data == "" || key < el.Data) {
			return true
		}
	}
	return false
}

// allowed tells whether a frontend's ranges have the packet's source.
func (t *tracer) allowed(frontend string) bool {
	s := t.r.Sets[sourceRangesSet]
	if s == nil {
		return false
	}
	key := frontend + addrKey(t.packet.Source)
	for span := range s.Elements {
		n := len(span) / 2
		if n == len(key) && span[:len(frontend)] == frontend && span[:n] <= key && key <= span[n:] {
			return true
		}
	}
	return false
}

// outcome adds the ways up. If any leads to an endpoint, the packet counts as translated.
func (t *tracer) outcome() plan.Outcome {
	o := plan.Outcome{Rules: t.rules}
	shares := map[plan.Verdict]float64{}
	targets := map[plan.Target]float64{}
	for _, s := range t.final {
		switch {
		case s.end == rejected:
			shares[plan.Refuse] += s.share
		case s.end == dropped:
			shares[plan.Discard] += s.share
		case s.translated:
			shares[plan.Translate] += s.share
			targets[plan.Target{Endpoint: s.dest, Masquerade: s.masquerade}] += s.share
			o.Affinity = max(o.Affinity, time.Duration(s.affinity)*time.Second)
		default:
			shares[plan.Pass] += s.share
		}
	}
	for v, share := range shares {
		if share > shares[o.Verdict] || share == shares[o.Verdict] && v > o.Verdict {
			o.Verdict = v
		}
	}
	if len(targets) > 0 {
		o.Verdict = plan.Translate
	}
	for target, share := range targets {
		target.Probability = share
		o.Targets = append(o.Targets, target)
	}
	slices.SortFunc(o.Targets, func(a, b plan.Target) int {
		return cmp.Or(a.Endpoint.Compare(b.Endpoint), boolOrder(a.Masquerade, b.Masquerade))
	})
	return o
}

// boolOrder orders false before true.
func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
