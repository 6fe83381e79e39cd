package plan

import (
	"net/netip"
	"slices"

	"svcproxy/model"
)

// DefaultMasqueradeMark is bit 14, kube-proxy's default masqueradeBit.
const DefaultMasqueradeMark uint32 = 1 << 14

// Config is what a plan depends on besides Services and slices. All addresses are of its family.
type Config struct {
	Family model.Family
	// NodeName and Zone are those of this node, for topology and the traffic policy Local.
	NodeName, Zone string
	// LocalPods are the prefixes whose sources count as pods of the cluster (detectLocalMode ClusterCIDR
	// or NodeCIDR). Connections to a ClusterIP from other sources are masqueraded. Empty means that
	// nothing detects local traffic, and then none is masqueraded for its source.
	LocalPods []netip.Prefix
	// ServiceCIDRs are the ranges that ClusterIPs are allocated from, where they are known.
	ServiceCIDRs []netip.Prefix
	// MasqueradeAll masquerades every connection to a ClusterIP.
	MasqueradeAll bool
	// MasqueradeMark is the packet mark bit that iptables mode uses for connections to masquerade.
	MasqueradeMark uint32
}

// Equal tells whether two configurations lead to the same plan.
func (c Config) Equal(o Config) bool {
	return c.Family == o.Family && c.NodeName == o.NodeName && c.Zone == o.Zone && c.MasqueradeAll == o.MasqueradeAll && c.MasqueradeMark == o.MasqueradeMark &&
		slices.Equal(c.LocalPods, o.LocalPods) && slices.Equal(c.ServiceCIDRs, o.ServiceCIDRs)
}
