package sandbox

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// podInterface is the name of a pod's, a host's and a node's way out.
const podInterface = "eth0"

// HasIPv6 tells whether the kernel has IPv6 at all.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// interfaceName derives a name of 12 characters (the kernel allows 15) from what
// the interface is for, so that it is the same in every run.
func interfaceName(prefix, of string) string {
	return fmt.Sprintf("%s%x", prefix, sha256.Sum256([]byte(of)))[:12]
}

// end is one interface of a link, and what wires it up.
type end struct {
	handle *netlink.Handle
	link   netlink.Link
}

// newVeth makes a pair of interfaces, both up: name in the namespace of handle, and
// podInterface in the namespace inner, whose handle the caller closes. mtu 0 is the
// kernel's default.
func newVeth(handle *netlink.Handle, name string, inner *Netns, mtu int) (outer end, peer end, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: podInterface, PeerNamespace: netlink.NsFd(inner.FD()), PeerMTU: uint32(mtu)}
	if err := handle.LinkAdd(veth); err != nil {
		return outer, peer, fmt.Errorf("make veth pair %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = handle.LinkDel(veth)
		}
	}()
	innerHandle, err := inner.Handle()
	if err != nil {
		return outer, peer, err
	}
	if outer, err = linkUp(handle, name); err == nil {
		peer, err = linkUp(innerHandle, podInterface)
	}
	if err == nil {
		err = errors.Join(outer.waitUntilUp(), peer.waitUntilUp())
	}
	if err != nil {
		innerHandle.Close()
		return outer, peer, err
	}
	return outer, peer, nil
}

func linkUp(handle *netlink.Handle, name string) (end, error) {
	link, err := handle.LinkByName(name)
	if err != nil {
		return end{}, fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := handle.LinkSetUp(link); err != nil {
		return end{}, fmt.Errorf("set interface %s up: %w", name, err)
	}
	return end{handle: handle, link: link}, nil
}

// waitUntilUp returns when the interface carries packets. The kernel learns of a
// new link asynchronously and drops what is sent before; neighbour discovery and
// TCP would repeat it only a second later.
func (e end) waitUntilUp() error {
	err := settled(func() (bool, error) {
		link, err := e.handle.LinkByIndex(e.link.Attrs().Index)
		return err == nil && link.Attrs().OperState == netlink.OperUp, err
	})
	if err != nil {
		return fmt.Errorf("wait until interface %s is up: %w", e.link.Attrs().Name, err)
	}
	return nil
}

// settled polls until the kernel has finished what it does asynchronously.
func settled(done func() (bool, error)) error {
	const patience = 5 * time.Second
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
	}
	return fmt.Errorf("not within %v", patience)
}

// addAddr gives the interface an address, usable when addAddr returns.
func (e end) addAddr(prefix netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := e.handle.AddrAdd(e.link, addr); err != nil {
		return fmt.Errorf("add address %s to %s: %w", prefix, e.link.Attrs().Name, err)
	}
	if prefix.Addr().Is4() {
		return nil
	}
	if err := settled(func() (bool, error) { return e.answersFor(prefix.Addr()) }); err != nil {
		return fmt.Errorf("wait for address %s on %s: %w", prefix, e.link.Attrs().Name, err)
	}
	return nil
}

// answersFor tells whether the interface answers neighbour discovery for an IPv6
// address. Even without duplicate address detection the kernel leaves it to a
// worker to join the multicast group and then, last, to add the local route.
func (e end) answersFor(addr netip.Addr) (bool, error) {
	routes, err := e.handle.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{
		Table: unix.RT_TABLE_LOCAL, LinkIndex: e.link.Attrs().Index, Dst: ipNet(single(addr)),
	}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, nil
	}
	return len(routes) > 0, err
}

// addRoute makes to reachable through the interface: by the router via, or directly
// with the given scope if via is the zero Addr.
func (e end) addRoute(to netip.Prefix, via netip.Addr, scope netlink.Scope) error {
	route := &netlink.Route{LinkIndex: e.link.Attrs().Index, Dst: ipNet(to)}
	if via.IsValid() {
		route.Gw = via.AsSlice()
	} else if to.Addr().Is4() { // IPv6 routes have no scope
		route.Scope = scope
	}
	if err := e.handle.RouteAdd(route); err != nil {
		return fmt.Errorf("add route to %s through %s: %w", to, e.link.Attrs().Name, err)
	}
	return nil
}

func (e end) deleteRoute(to netip.Prefix, via netip.Addr) error {
	route := &netlink.Route{LinkIndex: e.link.Attrs().Index, Dst: ipNet(to), Gw: via.AsSlice()}
	if err := e.handle.RouteDel(route); err != nil {
		return fmt.Errorf("delete route to %s through %s: %w", to, e.link.Attrs().Name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// single is the prefix of one address: /32 or /128.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// everywhere is the default route's destination in the family of a.
func everywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// sameFamily finds the address of a's family.
func sameFamily(a netip.Addr, among []netip.Addr) (netip.Addr, bool) {
	for _, candidate := range among {
		if candidate.Is4() == a.Is4() {
			return candidate, true
		}
	}
	return netip.Addr{}, false
}
