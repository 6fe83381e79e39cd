package plan

import (
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
)

// DefaultMasqueradeMark is bit 14, kube-proxy's default masqueradeBit.
const DefaultMasqueradeMark uint32 = 1 << 14

// Config is what a plan depends on besides Services and slices. All addresses are of its family.
type Config struct {
	Family model.Family
	// NodeName and Zone are those of this node, for topology and the traffic policy Local.
	NodeName, Zone string
	// NodeAddrs are this node's addresses as its Node object has them, the primary one first.
	NodeAddrs []netip.Addr
	// Detector tells which connections come from pods.
	Detector Detector
	// NodePorts are the addresses at which node ports answer.
	NodePorts NodePorts
	// GuardClusterIPs refuses connections to a ClusterIP in use at a port that no Service has, and drops
	// those to an address of ServiceCIDRs that no Service has. kube-proxy does so in nftables mode alone.
	GuardClusterIPs bool
	// ServiceCIDRs are the ranges that ClusterIPs are allocated from, where they are known.
	ServiceCIDRs []netip.Prefix
	// MasqueradeAll masquerades every connection to a ClusterIP.
	MasqueradeAll bool
	// MasqueradeMark is the packet mark bit that tells connections to masquerade on their way through the
	// rules; other bits of the mark are others'.
	MasqueradeMark uint32
}

// Detector tells which connections come from pods of the cluster (detectLocalMode). Its zero value tells
// nothing: no connection then counts as a pod's.
type Detector struct {
	// Prefixes are the sources that count (ClusterCIDR, NodeCIDR).
	Prefixes []netip.Prefix
	// Interface is the name of the interface by which pods' packets come (BridgeInterface), or, if it
	// ends in "+", the beginning of such names (InterfaceNamePrefix). Only one of both fields is set.
	Interface string
}

// Detects tells whether any connection can count as a pod's.
func (d Detector) Detects() bool { return len(d.Prefixes) > 0 || d.Interface != "" }

// Local tells whether a packet with that source, which came by that interface, comes from a pod. The node's
// own packets come by none.
func (d Detector) Local(source netip.Addr, iface string) bool {
	if prefix, wildcard := strings.CutSuffix(d.Interface, "+"); wildcard {
		return iface != "" && strings.HasPrefix(iface, prefix)
	}
	return d.Interface != "" && d.Interface == iface ||
		slices.ContainsFunc(d.Prefixes, func(p netip.Prefix) bool { return p.Contains(source) })
}

// NodePorts tells at which of the node's own addresses node ports answer. Its zero value is at none.
type NodePorts struct {
	// All is every address but loopback ones; otherwise they must be in Prefixes.
	All      bool
	Prefixes []netip.Prefix
	// Loopback adds 127.0.0.0/8, under the same conditions; ::1 never answers.
	Loopback bool
}

// Match tells whether node ports answer at an address, which must be one of the node's own.
func (n NodePorts) Match(a netip.Addr) bool {
	if a.IsLoopback() && (a.Is6() || !n.Loopback) {
		return false
	}
	return n.All || slices.ContainsFunc(n.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Equal tells whether two configurations lead to the same plan and the same rules.
func (c Config) Equal(o Config) bool {
	return c.Family == o.Family && c.NodeName == o.NodeName && c.Zone == o.Zone && slices.Equal(c.NodeAddrs, o.NodeAddrs) &&
		c.Detector.Interface == o.Detector.Interface && slices.Equal(c.Detector.Prefixes, o.Detector.Prefixes) &&
		c.NodePorts.All == o.NodePorts.All && c.NodePorts.Loopback == o.NodePorts.Loopback && slices.Equal(c.NodePorts.Prefixes, o.NodePorts.Prefixes) &&
		c.GuardClusterIPs == o.GuardClusterIPs && slices.Equal(c.ServiceCIDRs, o.ServiceCIDRs) &&
		c.MasqueradeAll == o.MasqueradeAll && c.MasqueradeMark == o.MasqueradeMark
}
