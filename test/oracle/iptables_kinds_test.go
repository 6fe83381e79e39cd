package oracle

import (
	"maps"

	"svcproxy/iptables"
)

func cloneIPTables(r *iptables.Ruleset) *iptables.Ruleset {
	c := *r
	c.NAT.Chains, c.Filter.Chains = maps.Clone(r.NAT.Chains), maps.Clone(r.Filter.Chains)
	return &c
}

var iptablesKinds []mutationKind[*iptables.Ruleset]
