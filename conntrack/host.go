package conntrack

import (
	"net/netip"
	"slices"
)

// Host are the node's own addresses: those that its kernel delivers to itself, loopback ones among them.
type Host struct {
	single map[netip.Addr]bool
	// wide are the prefixes of which each address is the node's, such as 127.0.0.0/8.
	wide []netip.Prefix
}

// NewHost returns the Host with these addresses.
func NewHost(own []netip.Prefix) Host {
	h := Host{single: map[netip.Addr]bool{}}
	for _, p := range own {
		if p.IsSingleIP() {
			h.single[p.Addr()] = true
		} else {
			h.wide = append(h.wide, p)
		}
	}
	return h
}

// Own tells whether an address is the node's own.
func (h Host) Own(a netip.Addr) bool {
	return h.single[a] || slices.ContainsFunc(h.wide, func(p netip.Prefix) bool { return p.Contains(a) })
}

// within tells whether another Host has all these addresses too.
func (h Host) within(o Host) bool {
	for a := range h.single {
		if !o.Own(a) {
			return false
		}
	}
	return !slices.ContainsFunc(h.wide, func(p netip.Prefix) bool { return !slices.Contains(o.wide, p) })
}
