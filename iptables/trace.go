package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"svcproxy/plan"
)

// Trace returns what the rules do with the first packet of a connection: the nat table on its way in, the
// filter table by where it then leads, and the nat table on its way out, if it leaves the node. It looks at the
// rules alone, whoever made them and in whatever state they are, and follows each way that chance may take. Of
// rules in built-in chains it knows those that lead to the proxy's chains. A rule with a match that it doesn't
// know counts as one that does not match, and Why says so. So does a rule that looks for clients who came before,
// as the packet is a new client's.
func (r *Ruleset) Trace(p plan.Packet) plan.Outcome {
	t := tracer{ruleset: r, packet: p, met: map[string]bool{}, doubts: map[string]bool{}, ends: map[plan.Target]*end{}}
	t.hooks(fate{chance: 1, dest: p.Dest})
	return t.outcome()
}

// fate is one way that chance may have taken a packet up to a point.
type fate struct {
	chance float64
	dest   netip.AddrPort
	mark   uint32
	// translated, masqueraded, refused and discarded are what has become of it.
	translated, masqueraded, refused, discarded bool
	// checked are the affinity rules that it passed, and affinity is that of its endpoint.
	checked  []Recent
	affinity time.Duration
}

// state returns the states of connection tracking that the packet's connection is in.
func (f *fate) state() CTState {
	if f.translated {
		return StateNew | StateDNAT
	}
	return StateNew
}

// hook is a built-in chain as a packet meets it.
type hook struct {
	table *Table
	chain string
	// in is the interface that rules see.
	in string
}

// place is where a packet is in a chain.
type place struct {
	chain string
	rules []Rule
}

// end counts the ways to one endpoint.
type end struct {
	chance   float64
	affinity time.Duration
}

// tracer follows a packet.
type tracer struct {
	ruleset *Ruleset
	packet  plan.Packet
	// at is the hook that the packet is in.
	at                         hook
	passed, refused, discarded float64
	ends                       map[plan.Target]*end
	rules                      []string
	met                        map[string]bool
	why                        []string
	doubts                     map[string]bool
}

// doubt notes, once, what the trace can't know.
func (t *tracer) doubt(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !t.doubts[text] {
		t.doubts[text] = true
		t.why = append(t.why, text)
	}
}

// hooks follows the packet through the tables.
func (t *tracer) hooks(f fate) {
	r, in := t.ruleset, t.packet.Interface
	first := hook{&r.NAT, "PREROUTING", in}
	if in == "" {
		first.chain = "OUTPUT"
	}
	t.hook(first, f, func(f fate) {
		postrouting := hook{&r.NAT, "POSTROUTING", ""}
		switch {
		case t.packet.Ends(f.dest.Addr()):
			t.sequence([]hook{{&r.Filter, "INPUT", in}}, f)
		case in != "":
			t.sequence([]hook{{&r.Filter, "FORWARD", in}, postrouting}, f)
		case t.packet.Own(f.dest.Addr()):
			t.sequence([]hook{{&r.Filter, "OUTPUT", ""}, postrouting, {&r.Filter, "INPUT", "lo"}}, f)
		default:
			t.sequence([]hook{{&r.Filter, "OUTPUT", ""}, postrouting}, f)
		}
	})
}

// sequence follows the packet through hooks one after the other, to its end.
func (t *tracer) sequence(hooks []hook, f fate) {
	if len(hooks) == 0 || f.refused || f.discarded {
		t.finish(f)
		return
	}
	t.hook(hooks[0], f, func(f fate) { t.sequence(hooks[1:], f) })
}

// finish counts a way.
func (t *tracer) finish(f fate) {
	switch {
	case f.refused:
		t.refused += f.chance
	case f.discarded:
		t.discarded += f.chance
	case !f.translated:
		t.passed += f.chance
	default:
		to := plan.Target{Endpoint: f.dest, Masquerade: f.masqueraded}
		e := t.ends[to]
		if e == nil {
			e = &end{affinity: f.affinity}
			t.ends[to] = e
		}
		if e.affinity != f.affinity {
			t.doubt("%s is kept in several ways", f.dest)
		}
		e.chance += f.chance
	}
}

// hook follows the packet through a built-in chain.
func (t *tracer) hook(h hook, f fate, then func(fate)) {
	outer := t.at
	t.at = h
	var rules []Rule
	for _, j := range h.table.Jumps {
		switch {
		case j.From != h.chain:
		case j.unreached:
			t.doubt("another's rule in %s of table %s keeps packets from %s", h.chain, h.table.Name, j.Rule.Target)
		default:
			rules = append(rules, j.Rule)
		}
	}
	t.walk([]place{{h.chain, rules}}, f, then)
	t.at = outer
}

// walk follows the packet through chains, of which the last is the one that it is in. Where chance decides,
// both ways are followed, one after the other.
func (t *tracer) walk(stack []place, f fate, then func(fate)) {
	for len(stack) > 0 {
		top := len(stack) - 1
		here := stack[top]
		if len(here.rules) == 0 {
			stack = stack[:top]
			continue
		}
		r := &here.rules[0]
		stack[top].rules = here.rules[1:]
		if !t.matches(r, &f) {
			continue
		}
		if chance := r.Probability.Float(); r.Probability != 0 && chance < 1 {
			taken := f
			taken.chance *= chance
			f.chance *= 1 - chance
			t.take(slices.Clone(stack), here.chain, r, taken, then)
			continue
		}
		t.take(stack, here.chain, r, f, then)
		return
	}
	then(f)
}

// maxDepth is how deep chains may lead to each other; the kernel takes no loops.
const maxDepth = 64

// take does what a rule says that matches, and goes on from there.
func (t *tracer) take(stack []place, chain string, r *Rule, f fate, then func(fate)) {
	t.meet(chain, r)
	if r.Recent.Op == RecentSet {
		f.keep(r.Recent.Name)
	}
	switch r.Target {
	case "":
	case targetAccept:
		stack = nil
	case targetReturn:
		stack = stack[:len(stack)-1]
	case targetDrop, targetReject:
		f.refused, f.discarded = r.Target == targetReject, r.Target == targetDrop
		stack = nil
	case targetMark:
		f.mark = f.mark&^r.SetMark.Mask ^ r.SetMark.Value
	case targetMasquerade:
		f.masqueraded = true
		stack = nil
	case targetDNAT:
		if r.To.IsValid() && r.Options == "" {
			f.dest, f.translated = r.To, true
		} else {
			t.doubt("the rule %q leads to an unknown destination", t.text(chain, r))
		}
		stack = nil
	default:
		rules, known := t.at.table.Chains[r.Target]
		switch {
		case !known && owned(r.Target):
			t.doubt("chain %s is missing", r.Target)
		case !known:
			t.doubt("what %s does is not known", r.Target)
		case len(stack) > maxDepth:
			t.doubt("chains lead to each other without end")
		default:
			if r.Goto {
				stack = stack[:len(stack)-1]
			}
			stack = append(stack, place{r.Target, rules})
		}
	}
	t.walk(stack, f, then)
}

// keep binds the client to the endpoint with a list, if the packet passed a rule that will look for it there.
func (f *fate) keep(list string) {
	for _, c := range f.checked {
		if c.Name == list {
			f.affinity = time.Duration(c.Seconds) * time.Second
		}
	}
}

// matches tells whether a rule matches, chance apart.
func (t *tracer) matches(r *Rule, f *fate) bool {
	known := matchPrefix(r.Source, r.NotSource, t.packet.Source) && matchPrefix(r.Dest, r.NotDest, f.dest.Addr()) &&
		(r.In == "" || matchInterface(r.In, t.at.in) != r.NotIn) &&
		(r.Protocol == 0 || r.Protocol == t.packet.Protocol) &&
		(r.DestPort == 0 || r.DestPort == f.dest.Port()) &&
		(r.Mark.Mask == 0 || (f.mark&r.Mark.Mask == r.Mark.Value) != r.NotMark) &&
		(r.State == 0 || (r.State&f.state() != 0) != r.NotState)
	switch {
	case !known:
		return false
	case !t.matchType(r.SourceType, t.packet.Source) || !t.matchType(r.DestType, f.dest.Addr()):
		return false
	case r.Other != "":
		t.doubt("the match %q is not known, and taken for one that fails", r.Other)
		return false
	case r.Recent.Op == RecentCheck:
		f.checked = append(slices.Clip(f.checked), r.Recent)
		return false
	}
	return true
}

func matchPrefix(p netip.Prefix, not bool, a netip.Addr) bool {
	return !p.IsValid() || p.Contains(a) != not
}

func matchInterface(pattern, name string) bool {
	if prefix, wildcard := strings.CutSuffix(pattern, "+"); wildcard {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// matchType matches the kind of an address. Of a packet's addresses it is known only which are the node's.
func (t *tracer) matchType(types AddrType, a netip.Addr) bool {
	own := t.packet.Own(a)
	switch {
	case types == 0, own && types&TypeLocal != 0:
		return true
	case !own && types&^TypeLocal != 0:
		t.doubt("whether %s is of the type %s is not known", a, types)
	}
	return false
}

// text returns a rule as iptables-save prints it, after its table.
func (t *tracer) text(chain string, r *Rule) string {
	return string(r.append(append([]byte("-t "+t.at.table.Name+" -A "), chain...)))
}

// meet notes a rule that matched, once.
func (t *tracer) meet(chain string, r *Rule) {
	if text := t.text(chain, r); !t.met[text] {
		t.met[text] = true
		t.rules = append(t.rules, text)
	}
}

// outcome puts all ways together. What is most worth knowing is the verdict: an endpoint, else a refusal,
// else that it is dropped; Why tells of other ways.
func (t *tracer) outcome() plan.Outcome {
	o := plan.Outcome{Rules: t.rules}
	for to, e := range t.ends {
		to.Probability = e.chance
		o.Targets = append(o.Targets, to)
	}
	slices.SortFunc(o.Targets, func(a, b plan.Target) int {
		if c := a.Endpoint.Compare(b.Endpoint); c != 0 || a.Masquerade == b.Masquerade {
			return c
		}
		if b.Masquerade {
			return -1
		}
		return 1
	})
	for i, to := range o.Targets {
		to.Probability = 0
		affinity := t.ends[to].affinity
		if i > 0 && affinity != o.Affinity {
			t.doubt("some endpoints keep their clients otherwise than others")
			affinity = 0
		}
		o.Affinity = affinity
	}
	ways := []struct {
		verdict plan.Verdict
		chance  float64
	}{{plan.Refuse, t.refused}, {plan.Discard, t.discarded}, {plan.Pass, t.passed}}
	o.Verdict = plan.Translate
	if len(o.Targets) == 0 {
		for _, way := range slices.Backward(ways) {
			if way.chance > 0 {
				o.Verdict = way.verdict
			}
		}
	}
	for _, way := range ways {
		if way.chance > 0 && way.verdict != o.Verdict {
			t.doubt("with a probability of %.4f: %s", way.chance, way.verdict)
		}
	}
	o.Why = strings.Join(t.why, "; ")
	return o
}
