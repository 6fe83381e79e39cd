package model

import (
	"net/netip"
	"slices"
)

// Node is the node that svcproxy runs on.
type Node struct {
	Name string
	// Known says that the Node's object is known, so that what is empty here is empty there.
	Known bool
	// Zone is the label topology.kubernetes.io/zone.
	Zone     string
	PodCIDRs []netip.Prefix
	// Addrs are the node's addresses, internal before external ones; the first of a family is its primary.
	Addrs []netip.Addr
}

// Equal tells whether two Nodes are the same to the data plane.
func (n Node) Equal(o Node) bool {
	return n.Name == o.Name && n.Known == o.Known && n.Zone == o.Zone && slices.Equal(n.PodCIDRs, o.PodCIDRs) && slices.Equal(n.Addrs, o.Addrs)
}
