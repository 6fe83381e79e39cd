package sandbox

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// HostConfig describes a host outside the cluster.
type HostConfig struct {
	// Name is unique among the node's hosts.
	Name string
	// Addrs are the host's addresses, inside the node's network: at most one a
	// family.
	Addrs []netip.Addr
}

// Host is a machine outside the cluster whose default route is the node, so that it
// reaches pods, node ports and ClusterIPs as an outside client would. The
// namespace's methods (Start, Listen, Dial, …) act on the host.
type Host struct {
	*Netns
	Name  string
	Addrs []netip.Addr

	node     *Node
	attached bool
}

// AddHost plugs a host into the node's network.
func (n *Node) AddHost(cfg HostConfig) (*Host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("host %s: node %s is closed", cfg.Name, n.Name)
	}
	if cfg.Name == "" || n.hosts[cfg.Name] != nil {
		return nil, fmt.Errorf("host name %q is empty or taken", cfg.Name)
	}
	netns, err := NewNetns()
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", cfg.Name, err)
	}
	host := &Host{Netns: netns, Name: cfg.Name, Addrs: cfg.Addrs, node: n}
	if err := host.wire(); err != nil {
		return nil, errors.Join(fmt.Errorf("host %s: %w", cfg.Name, err), host.remove())
	}
	n.hosts[cfg.Name] = host
	return host, nil
}

// port names the host's place in the network, which other nodes may share.
func (h *Host) port() string { return h.node.Name + " host " + h.Name }

func (h *Host) wire() error {
	inner, err := h.node.Network.attach(h.port(), h.Netns, h.Addrs, h.node.mtu)
	if err != nil {
		return err
	}
	defer inner.handle.Close()
	h.attached = true
	for _, addr := range h.Addrs {
		via, ok := sameFamily(addr, h.node.Addrs)
		if !ok {
			return fmt.Errorf("node %s has no address to be the router of %s", h.node.Name, addr)
		}
		if err := inner.addRoute(everywhere(addr), via, netlink.SCOPE_UNIVERSE); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the host and its processes. It is idempotent.
func (h *Host) Close() error {
	h.node.mu.Lock()
	defer h.node.mu.Unlock()
	if h.node.hosts[h.Name] != h {
		return nil
	}
	delete(h.node.hosts, h.Name)
	if err := h.remove(); err != nil {
		return fmt.Errorf("remove host %s: %w", h.Name, err)
	}
	return nil
}

func (h *Host) remove() error {
	var err error
	if h.attached {
		err = h.node.Network.detach(h.port())
	}
	return errors.Join(err, h.Netns.Close())
}
