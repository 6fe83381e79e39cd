package iptables

import (
	"slices"

	"svcproxy/plan"
)

// A list is one of those that the rules of shared chains come from which Services shape.
type list int

const (
	// portals lead to Services by address, in KUBE-SERVICES of the nat table.
	portals list = iota
	// nodePorts lead to Services by port, in KUBE-NODEPORTS of the nat table.
	nodePorts
	// rejects refuse connections to ClusterIPs, in KUBE-SERVICES of the filter table.
	rejects
	// externals refuse connections to other addresses, in KUBE-EXTERNAL-SERVICES, and refusedPorts those to
	// node ports, behind them.
	externals
	refusedPorts
	// firewalls drop connections to load balancers that their source ranges do not allow, in
	// KUBE-PROXY-FIREWALL.
	firewalls
	// healthChecks accept connections to health-check node ports, in KUBE-NODEPORTS of the filter table.
	healthChecks

	listCount
)

// lists are the rules of shared chains that Services shape, each list in the order of compareFrontends.
type lists [listCount][]Rule

// add appends those of another Service.
func (l *lists) add(o *lists) {
	for i := range l {
		l[i] = append(l[i], o[i]...)
	}
}

func (l *lists) sort() {
	for i := range l {
		sortFrontends(l[i])
	}
}

// replace returns sorted lists without the rules of drop and with those of add.
func (l *lists) replace(drop, add *lists) *lists {
	var r lists
	for i := range l {
		r[i] = replaceFrontends(l[i], drop[i], add[i])
	}
	return &r
}

// join returns the rules of both.
func (l *lists) join(o *lists) *lists {
	var r lists
	for i := range l {
		r[i] = joinFrontends(l[i], o[i])
	}
	return &r
}

// same tells whether given lists are equal.
func (l *lists) same(o *lists, which ...list) bool {
	return !slices.ContainsFunc(which, func(i list) bool { return !slices.Equal(l[i], o[i]) })
}

// natChains lays out the shared chains of the nat table that Services shape, and adds them to those given.
func (l *lists) natChains(c *plan.Config, chains map[string][]Rule) {
	dispatch(chainServices, mergeFrontends(l[portals], l.stops()), chains)
	chains[chainServices] = append(slices.Clip(chains[chainServices]), nodePortJumps(c)...)
	chains[chainNodePorts] = l[nodePorts]
}

// natLists are the lists that natChains depends on.
var natLists = []list{portals, nodePorts, externals, firewalls}

// filterLists are the lists that filterChains depends on.
var filterLists = []list{rejects, externals, refusedPorts, firewalls, healthChecks}

// filterChains lays out the shared chains of the filter table that Services shape, and adds them to those given.
func (l *lists) filterChains(c *plan.Config, chains map[string][]Rule) {
	dispatch(chainServices, l[rejects], chains)
	// kube-proxy refuses the node's own connections to such addresses only where they are the node's own too.
	// A jump from OUTPUT would be the straight way, but kube-proxy's clean-up would not know it.
	chains[chainServices] = append(slices.Clip(chains[chainServices]),
		Rule{Comment: "externally-visible service portals, for the node itself", SourceType: TypeLocal, Target: chainExternal})
	dispatch(chainExternal, l[externals], chains)
	chains[chainExternal] = slices.Concat(chains[chainExternal], l[refusedPorts])
	dispatch(chainFirewall, l[firewalls], chains)
	chains[chainNodePorts] = slices.Concat(localnetGuard(c), l[healthChecks])
}

// stops returns rules for those external addresses that the filter table refuses and whose port is also
// somebody's node port. Where such an address is the node's own, its connections would else go on to the
// node port, past the refusal and past source ranges. Nobody but such an odd pair has them.
func (l *lists) stops() []Rule {
	type key struct {
		protocol uint8
		port     uint16
	}
	taken := map[key]bool{}
	for i := range l[nodePorts] {
		taken[key{uint8(l[nodePorts][i].Protocol), l[nodePorts][i].DestPort}] = true
	}
	if len(taken) == 0 {
		return nil
	}
	var stops []Rule
	for _, i := range []list{externals, firewalls} {
		for _, r := range l[i] {
			if taken[key{uint8(r.Protocol), r.DestPort}] {
				stops = append(stops, Rule{Dest: r.Dest, Protocol: r.Protocol, DestPort: r.DestPort, Comment: stopComment, Target: targetAccept})
			}
		}
	}
	sortFrontends(stops)
	return slices.Compact(stops)
}

// stopComment explains such a rule to operators.
const stopComment = "this is no connection to the node port of the same number"

// mergeFrontends returns sorted rules of both, in order.
func mergeFrontends(a, b []Rule) []Rule {
	if len(b) == 0 {
		return a
	}
	return replaceFrontends(a, nil, b)
}
