package sandbox

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// Listen is net.Listen inside the namespace, at a literal address such as
// "10.244.0.3:53" or ":80". The listener may be used from anywhere, and Close of the
// namespace does not close it.
func (n *Netns) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, network, addr)
		return err
	})
	return l, err
}

// ListenPacket is net.ListenPacket inside the namespace; see Listen.
func (n *Netns) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	var c net.PacketConn
	err := n.Do(func() (err error) {
		c, err = new(net.ListenConfig).ListenPacket(ctx, network, addr)
		return err
	})
	return c, err
}

// Dial connects from inside the namespace to a literal address. Names are refused:
// resolving them would leave the namespace.
func (n *Netns) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, addr, err)
	}
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}
