package iptables

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
	"svcproxy/plan"
)

// features are what depends on the node and not on the plan.
type features struct {
	// randomFully says that MASQUERADE knows --random-fully (iptables 1.6.2).
	randomFully bool
	// liberal says that the node does not hold packets that conntrack finds invalid for faults
	// (net.netfilter.nf_conntrack_tcp_be_liberal); otherwise they are dropped, lest a reset of an
	// untranslated packet ends a good connection.
	liberal bool
}

// usual are the features that Render assumes.
var usual = features{randomFully: true}

// Render returns the ruleset of a plan. It is a pure function. Its error is a *plan.ServiceError for the
// first Service, by name, that cannot be rendered.
func Render(p *plan.Plan) (*Ruleset, error) {
	s, err := newState(p.Config, usual, p.Services)
	if err != nil {
		return nil, err
	}
	return s.ruleset(), nil
}

// chain is a chain of a Service, with its rules.
type chain struct {
	name  string
	rules []Rule
}

// fragment is one Service's part of the ruleset.
type fragment struct {
	// chains are the Service's own, in the nat table.
	chains []chain
	// portals are the Service's rules in KUBE-SERVICES of the nat table, which lead to its chains, and
	// rejects are those in KUBE-SERVICES of the filter table, which reject or drop.
	portals, rejects []Rule
}

// renderService renders one Service. Its error is a *plan.ServiceError.
func renderService(c *plan.Config, s *plan.Service) (fragment, error) {
	var f fragment
	seen := map[model.ServicePortName]bool{}
	for i := range s.Ports {
		port := &s.Ports[i]
		err := check(c.Family, port)
		if err == nil && seen[port.Name] {
			err = fmt.Errorf("port %q/%s: another port has this name", port.Name.Port, port.Name.Protocol)
		}
		if err != nil {
			return fragment{}, &plan.ServiceError{Service: s.Name, Err: err}
		}
		seen[port.Name] = true
		f.render(c, port)
	}
	return f, nil
}

// check tells what keeps a port from being rendered. A colon in a name would let one Service take the
// chains of another, as chains are named by a hash of "namespace/name:port".
func check(family model.Family, port *plan.ServicePort) error {
	name := port.Name
	if name.Service.Name == "" || strings.ContainsAny(name.Service.Namespace+name.Service.Name+name.Port, ":/") {
		return fmt.Errorf("port %q/%s: not a name", name.Port, name.Protocol)
	}
	if !slices.Contains([]model.Protocol{model.TCP, model.UDP, model.SCTP}, name.Protocol) {
		return fmt.Errorf("port %q: %s is no protocol of Services", name.Port, name.Protocol)
	}
	for _, f := range port.Frontends {
		if err := checkAddr(family, f.Addr, f.Port); err != nil {
			return fmt.Errorf("port %q/%s: frontend: %w", name.Port, name.Protocol, err)
		}
		if f.Outside.Action > plan.Drop {
			return fmt.Errorf("port %q/%s: frontend: unknown action %d", name.Port, name.Protocol, f.Outside.Action)
		}
		if f.Protocol != name.Protocol {
			return fmt.Errorf("port %q/%s: frontend: protocol is %s", name.Port, name.Protocol, f.Protocol)
		}
	}
	for _, e := range port.Endpoints {
		if err := checkAddr(family, e.Addr, e.Port); err != nil {
			return fmt.Errorf("port %q/%s: endpoint: %w", name.Port, name.Protocol, err)
		}
	}
	return nil
}

func checkAddr(family model.Family, a netip.Addr, port uint16) error {
	switch {
	case !a.IsValid() || model.FamilyOf(a) != family || a.Is4In6():
		return fmt.Errorf("%v is no %s address", a, family)
	case a.Zone() != "":
		return fmt.Errorf("address %v has a zone", a)
	case port == 0:
		return errors.New("port is 0")
	}
	return nil
}

// render adds one port.
func (f *fragment) render(c *plan.Config, port *plan.ServicePort) {
	svc := chain{name: model.ServiceChain(port.Name)}
	for _, front := range port.Frontends {
		r := Rule{Dest: host(front.Addr), Protocol: front.Protocol, DestPort: front.Port}
		switch front.Outside.Action {
		case plan.Reject:
			r.Comment, r.Target = comment(port.Name.String()+commentReject), targetReject
			f.rejects = append(f.rejects, r)
			continue
		case plan.Drop:
			r.Comment, r.Target = comment(port.Name.String()+commentDrop), targetDrop
			f.rejects = append(f.rejects, r)
			continue
		}
		r.Comment, r.Target = comment(port.Name.String()+commentClusterIP), svc.name
		f.portals = append(f.portals, r)
		if m, ok := masquerade(c, r); ok {
			svc.rules = append(svc.rules, m)
		}
	}
	if !slices.ContainsFunc(port.Frontends, func(f plan.Frontend) bool { return f.Outside.Action == plan.Balance }) {
		return
	}
	at := len(f.chains)
	f.chains = append(f.chains, chain{})
	name := comment(port.Name.String())
	endpoints := slices.Concat(port.Endpoints, port.Local)
	for i, e := range endpoints {
		target := e.AddrPort()
		sep := model.EndpointChain(port.Name, target.String())
		r := Rule{Comment: comment(port.Name.String() + " -> " + target.String()), Target: sep}
		if left := len(endpoints) - i; left > 1 {
			r.Probability = probabilityOneIn(left)
		}
		svc.rules = append(svc.rules, r)
		f.chains = append(f.chains, chain{sep, []Rule{
			// An endpoint that reaches itself through the Service would get an answer from its own address.
			{Source: host(e.Addr), Comment: name, Target: chainMarkMasq},
			{Protocol: port.Name.Protocol, Comment: name, Target: targetDNAT, To: target},
		}})
	}
	f.chains[at] = svc
}

// Endings of comments, after the name of the Service port.
const (
	commentClusterIP = " cluster IP"
	commentReject    = " has no endpoints"
	commentDrop      = " has no local endpoints"
)

// masquerade returns the rule that has those connections to a frontend masqueraded that do not come from
// pods, whose answers might else take another way back. It derives it from the frontend's own rule.
func masquerade(c *plan.Config, r Rule) (Rule, bool) {
	r.Target = chainMarkMasq
	switch {
	case c.MasqueradeAll:
	case len(c.Detector.Prefixes) == 0:
		return Rule{}, false
	case len(c.Detector.Prefixes) == 1:
		r.Source, r.NotSource = c.Detector.Prefixes[0], true
	default:
		r.Target = remoteChain
	}
	return r, true
}

// distinctPods returns prefixes of pods without those inside of others. If one is every address there is, it
// returns none, so that nothing is masqueraded for its source: iptables-save leaves out such a match, and the
// nf_tables kernel API refuses its inversion.
func distinctPods(local []netip.Prefix) []netip.Prefix {
	var distinct []netip.Prefix
	for _, p := range slices.SortedFunc(slices.Values(local), netip.Prefix.Compare) {
		switch n := len(distinct); {
		case p.Bits() == 0:
			return nil
		case n == 0 || !distinct[n-1].Overlaps(p):
			distinct = append(distinct, p.Masked())
		}
	}
	return distinct
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// jumps returns the rules in built-in chains. kube-proxy inserts them at the front one by one, which is why
// KUBE-FORWARD, the last, stands before KUBE-SERVICES.
func jumps(table string) []Jump {
	if table == tableNAT {
		portals := Rule{Comment: "kubernetes service portals", Target: chainServices}
		return []Jump{
			{From: "PREROUTING", Rule: portals},
			{From: "OUTPUT", Rule: portals},
			{From: "POSTROUTING", Rule: Rule{Comment: "kubernetes postrouting rules", Target: chainPostrouting}},
		}
	}
	portals := Rule{State: StateNew, CommentLast: true, Comment: "kubernetes service portals", Target: chainServices}
	return []Jump{
		{From: "FORWARD", Rule: Rule{Comment: "kubernetes forwarding rules", Target: chainForward}},
		{From: "FORWARD", Rule: portals},
		{From: "OUTPUT", Rule: portals},
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
		if !c.MasqueradeAll && len(c.Detector.Prefixes) > 1 {
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

// sortedNames returns the names of Services in order.
func sortedNames[V any](m map[model.ServiceName]V) []model.ServiceName {
	return slices.SortedFunc(maps.Keys(m), model.ServiceName.Compare)
}
