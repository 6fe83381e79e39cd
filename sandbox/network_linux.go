package sandbox

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Network is the segment outside the nodes, as docker's bridge is to kind: a
// namespace with a bridge that nodes and hosts are plugged into. The bridge is also
// the default router: it knows the way to every node's pods, and answers
// "unreachable" for every address nobody owns.
type Network struct {
	// Routers are the bridge's own addresses, with the segment's prefix lengths.
	Routers []netip.Prefix

	netns  *Netns
	handle *netlink.Handle
	bridge end
}

// DefaultRouters are those of kind's network: 172.18.0.1/16 and, where the kernel
// has IPv6, fc00:f853:ccd:e793::1/64.
func DefaultRouters() []netip.Prefix {
	routers := []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16")}
	if HasIPv6() {
		routers = append(routers, netip.MustParsePrefix("fc00:f853:ccd:e793::1/64"))
	}
	return routers
}

// NewNetwork makes a segment with these router addresses, at most one a family.
func NewNetwork(routers []netip.Prefix) (_ *Network, err error) {
	netns, err := NewNetns()
	if err != nil {
		return nil, err
	}
	n := &Network{Routers: routers, netns: netns}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if err := forwardIP(netns); err != nil {
		return nil, err
	}
	if n.handle, err = netns.Handle(); err != nil {
		return nil, err
	}
	const name = "br0"
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	// Snooping would withhold neighbour discovery from ports it has not seen join.
	snooping := false
	if err := n.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return nil, fmt.Errorf("make bridge: %w", err)
	}
	bridge, err := linkUp(n.handle, name)
	if err != nil {
		return nil, err
	}
	n.bridge = bridge
	for _, router := range routers {
		if err := bridge.addAddr(router); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// SetSysctl writes a setting of the router; see Netns.SetSysctl.
func (n *Network) SetSysctl(name, value string) error {
	return n.netns.SetSysctl(name, value)
}

// attach plugs a namespace in: its eth0 gets these addresses, which must lie in the
// segment.
func (n *Network) attach(name string, inner *Netns, addrs []netip.Addr, mtu int) (_ end, err error) {
	for _, addr := range addrs {
		if _, ok := n.routerOf(addr); !ok {
			return end{}, fmt.Errorf("address %s is not in the network's %v", addr, n.Routers)
		}
	}
	outer, peer, err := newVeth(n.handle, interfaceName("port", name), inner, mtu)
	if err != nil {
		return end{}, err
	}
	defer func() {
		if err != nil {
			peer.handle.Close()
			_ = n.handle.LinkDel(outer.link)
		}
	}()
	if err := n.handle.LinkSetMaster(outer.link, n.bridge.link); err != nil {
		return end{}, fmt.Errorf("plug into the network: %w", err)
	}
	if err := n.bridge.waitUntilUp(); err != nil {
		return end{}, err
	}
	for _, addr := range addrs {
		router, _ := n.routerOf(addr)
		if err := peer.addAddr(netip.PrefixFrom(addr, router.Bits())); err != nil {
			return end{}, err
		}
	}
	return peer, nil
}

// detach removes what attach made.
func (n *Network) detach(name string) error {
	return deleteLink(n.handle, interfaceName("port", name))
}

// addPodRoute tells the router which node has the pod of this address.
func (n *Network) addPodRoute(pod, node netip.Addr) error {
	return n.bridge.addRoute(single(pod), node, netlink.SCOPE_UNIVERSE)
}

func (n *Network) deletePodRoute(pod, node netip.Addr) error {
	return n.bridge.deleteRoute(single(pod), node)
}

func (n *Network) routerOf(addr netip.Addr) (netip.Prefix, bool) {
	for _, router := range n.Routers {
		if router.Masked().Contains(addr) {
			return router, true
		}
	}
	return netip.Prefix{}, false
}

// Close removes the segment. What is plugged in stays, without a link.
func (n *Network) Close() error {
	if n.handle != nil {
		n.handle.Close()
	}
	return n.netns.Close()
}
