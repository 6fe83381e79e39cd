package proxier

import (
	"net"
	"net/netip"

	"svcproxy/netns"
)

// namespace is the network of the namespace at a path; empty is that of the process.
type namespace string

// Listen listens inside of the namespace.
func (n namespace) Listen(address netip.AddrPort) (l net.Listener, err error) {
	network := "tcp6"
	if address.Addr().Is4() {
		network = "tcp4"
	}
	err = netns.Do(string(n), func() error {
		l, err = net.Listen(network, address.String())
		return err
	})
	return l, err
}

// Addrs returns the addresses of the namespace's interfaces.
func (n namespace) Addrs() (addrs []netip.Addr, err error) {
	var found []net.Addr
	err = netns.Do(string(n), func() error {
		found, err = net.InterfaceAddrs()
		return err
	})
	for _, a := range found {
		if ip, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(ip.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs, err
}
