package iptables

import (
	"net/netip"
	"slices"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// Endings of comments, after the name of the Service port.
const (
	commentClusterIP    = " cluster IP"
	commentExternalIP   = " external IP"
	commentLoadBalancer = " loadbalancer IP"
	commentReject       = " has no endpoints"
	commentDrop         = " has no local endpoints"
	commentHealthCheck  = " health check node port"
	commentFirewall     = " traffic not accepted by "
)

// portRenderer renders one Service port.
type portRenderer struct {
	config   *plan.Config
	port     *plan.ServicePort
	fragment *fragment
	// all and local are the chains that balance over the two lists of endpoints, external is where all but
	// ClusterIPs lead, and firewall looks at source ranges.
	all, local, external, firewall chain
}

// render adds the port to the fragment.
func (r *portRenderer) render() {
	name := r.port.Name
	r.all.name = model.ServiceChain(name)
	r.local.name, r.external.name, r.firewall.name = portChain(localPrefix, name), portChain(externalPrefix, name), portChain(firewallPrefix, name)
	var usesAll, usesLocal bool
	for _, f := range r.port.Frontends {
		for _, route := range f.Routes() {
			usesAll = usesAll || route.Action == plan.Balance && !route.Local
			usesLocal = usesLocal || route.Action == plan.Balance && route.Local
		}
		r.frontend(&f)
	}
	var endpoints []plan.Endpoint
	if usesAll {
		endpoints = r.port.Endpoints
		r.balance(&r.all, r.port.Endpoints)
	}
	if usesLocal {
		endpoints = slices.Concat(endpoints, r.port.Local)
		r.balance(&r.local, r.port.Local)
	}
	r.endpoints(endpoints)
}

// note adds a chain to the fragment.
func (r *portRenderer) note(c chain) { r.fragment.chains = append(r.fragment.chains, c) }

// list adds a rule to a shared chain.
func (r *portRenderer) list(l list, rule Rule) {
	r.fragment.lists[l] = append(r.fragment.lists[l], rule)
}

// comment returns the name of the port with an ending.
func (r *portRenderer) comment(ending string) string { return comment(r.port.Name.String() + ending) }

// frontend adds the rules of one frontend to shared chains, and what is its own to the port's.
func (r *portRenderer) frontend(f *plan.Frontend) {
	rule := Rule{Protocol: f.Protocol, DestPort: f.Port}
	if f.Kind != plan.NodePort {
		rule.Dest = host(f.Addr)
	}
	if f.Kind == plan.ClusterIP {
		r.clusterIP(f, rule)
		return
	}
	balances := f.Node.Action == plan.Balance
	if balances && len(r.external.rules) == 0 {
		r.externals(f)
	}
	limited := f.Kind == plan.LoadBalancer && len(r.port.SourceRanges) > 0
	if balances {
		r.portal(f.Kind, rule, limited)
	}
	if f.Outside.Action == plan.Balance {
		return
	}
	refusal := r.refusal(f.Outside.Action, rule)
	switch {
	case f.Kind == plan.NodePort:
		for _, dest := range nodePortDests(r.config) {
			refusal.Dest, refusal.NotDest, refusal.DestType = dest.Dest, dest.NotDest, dest.DestType
			r.list(refusedPorts, refusal)
		}
	case limited && !balances:
		// There is no chain of source ranges, so the filter table looks at them itself.
		for _, source := range r.port.Sources() {
			refusal.Source = source
			r.list(externals, refusal)
		}
		r.list(externals, r.unaccepted(rule))
	default:
		r.list(externals, refusal)
	}
}

// clusterIP adds the rules of a ClusterIP.
func (r *portRenderer) clusterIP(f *plan.Frontend, rule Rule) {
	if f.Outside.Action != plan.Balance {
		r.list(rejects, r.refusal(f.Outside.Action, rule))
		return
	}
	to := r.balancer(f.Outside)
	rule.Comment, rule.Target = r.comment(commentClusterIP), to.name
	r.list(portals, rule)
	rule.Target = chainMarkMasq
	if f.Pods.Masquerade {
		to.rules = append(to.rules, rule)
	} else if f.Outside.Masquerade {
		if mark, ok := markOthers(r.config, rule); ok {
			to.rules = append(to.rules, mark)
		}
	}
}

// portal adds the rule that leads from an external frontend to the port.
func (r *portRenderer) portal(kind plan.FrontendKind, rule Rule, limited bool) {
	rule.Target = r.external.name
	switch kind {
	case plan.NodePort:
		rule.Comment = r.comment("")
		r.list(nodePorts, rule)
		return
	case plan.ExternalIP:
		rule.Comment = r.comment(commentExternalIP)
	default:
		rule.Comment = r.comment(commentLoadBalancer)
	}
	if limited {
		rule.Target = r.firewall.name
		r.list(firewalls, r.unaccepted(rule))
		r.firewalls()
	}
	r.list(portals, rule)
}

// refusal returns the rule that refuses a frontend's connections.
func (r *portRenderer) refusal(a plan.Action, rule Rule) Rule {
	rule.Comment, rule.Target = r.comment(commentReject), targetReject
	if a == plan.Drop {
		rule.Comment, rule.Target = r.comment(commentDrop), targetDrop
	}
	return rule
}

// unaccepted returns the rule that drops connections to a load balancer from outside of its source ranges.
func (r *portRenderer) unaccepted(rule Rule) Rule {
	rule.Comment, rule.Target = r.comment(commentFirewall+r.firewall.name), targetDrop
	return rule
}

// balancer returns the chain that a route leads to.
func (r *portRenderer) balancer(route plan.Route) *chain {
	if route.Local {
		return &r.local
	}
	return &r.all
}

// externals fills the chain of external frontends, which all have the same routes.
func (r *portRenderer) externals(f *plan.Frontend) {
	of := r.port.Name.String() + " external destinations"
	var rules []Rule
	add := func(comment string, match Rule, target string) {
		match.Comment, match.Target = comment, target
		rules = append(rules, match)
	}
	if f.Pods != f.Outside || f.Node != f.Outside {
		for _, pods := range podSources(r.config) {
			if f.Pods.Masquerade {
				add(comment("masquerade pod traffic for "+of), pods, chainMarkMasq)
			}
			add(comment("pod traffic for "+of), pods, r.balancer(f.Pods).name)
		}
		// The node's own connections to such an address have it as their source where it is the node's.
		local := Rule{SourceType: TypeLocal}
		if f.Node.Masquerade {
			add(comment("masquerade LOCAL traffic for "+of), local, chainMarkMasq)
		}
		add(comment("route LOCAL traffic for "+of), local, r.balancer(f.Node).name)
	}
	if f.Outside.Masquerade {
		add(comment("masquerade traffic for "+of), Rule{}, chainMarkMasq)
	}
	if f.Outside.Action == plan.Balance {
		add("", Rule{}, r.balancer(f.Outside).name)
	}
	r.external.rules = rules
	r.note(r.external)
}

// firewalls fills the chain of source ranges, once. What leaves it is not translated, and dropped by the
// filter table.
func (r *portRenderer) firewalls() {
	if len(r.firewall.rules) > 0 {
		return
	}
	rule := Rule{Comment: r.comment(commentLoadBalancer), Target: r.external.name}
	for _, source := range r.port.Sources() {
		rule.Source = source
		r.firewall.rules = append(r.firewall.rules, rule)
	}
	r.firewall.rules = append(r.firewall.rules,
		Rule{Comment: comment("other traffic to " + r.port.Name.String() + " will be dropped by KUBE-PROXY-FIREWALL")})
	r.note(r.firewall)
}

// balance fills a chain that balances: first clients that come again find their endpoint, if it is among
// those of this list, then the others are shared out.
func (r *portRenderer) balance(c *chain, endpoints []plan.Endpoint) {
	rules := make([]Rule, 0, 2*len(endpoints))
	for i, e := range endpoints {
		target := e.AddrPort().String()
		rule := Rule{Comment: r.comment(" -> " + target), Target: model.EndpointChain(r.port.Name, target)}
		if left := len(endpoints) - i; left > 1 {
			rule.Probability = probabilityOneIn(left)
		}
		rules = append(rules, rule)
	}
	if r.port.Affinity != 0 {
		for i := range endpoints {
			rule := rules[i]
			rule.Probability, rule.Recent = 0, r.recent(RecentCheck, rule.Target)
			c.rules = append(c.rules, rule)
		}
	}
	c.rules = append(c.rules, rules...)
	r.note(*c)
}

// recent returns the list of an endpoint's clients.
func (r *portRenderer) recent(op RecentOp, sep string) Recent {
	list := Recent{Op: op, Name: sep, IPv6: r.config.Family == model.IPv6}
	if op == RecentCheck {
		// xt_recent counts whole seconds.
		list.Seconds, list.Reap = uint32(max(1, (r.port.Affinity+time.Second-1)/time.Second)), true
	}
	return list
}

// endpoints adds the chains of endpoints, each once.
func (r *portRenderer) endpoints(endpoints []plan.Endpoint) {
	name := r.comment("")
	seen := make(map[netip.AddrPort]bool, len(endpoints))
	for _, e := range endpoints {
		to := e.AddrPort()
		if seen[to] {
			continue
		}
		seen[to] = true
		sep := model.EndpointChain(r.port.Name, to.String())
		translate := Rule{Protocol: r.port.Name.Protocol, Comment: name, Target: targetDNAT, To: to}
		if r.port.Affinity != 0 {
			translate.Recent = r.recent(RecentSet, sep)
		}
		r.note(chain{sep, []Rule{
			// An endpoint that reaches itself through the Service would get an answer from its own address.
			{Source: host(e.Addr), Comment: name, Target: chainMarkMasq},
			translate,
		}})
	}
}
