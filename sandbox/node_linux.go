package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
)

// NodeConfig describes a node.
type NodeConfig struct {
	Name string
	// Addrs are the node's own addresses, on its eth0: at most one a family, inside
	// the network. Default: 172.18.0.2 and, with IPv6, fc00:f853:ccd:e793::2.
	Addrs []netip.Addr
	// Gateways are the addresses that pods see as their router, one a family.
	// Default: 10.244.0.1 and, with IPv6, fd00:10:244::1.
	Gateways []netip.Addr
	// Network is the segment that the node shares with hosts and other nodes. By
	// default the node has one to itself, with DefaultRouters.
	Network *Network
	// MTU of all its interfaces; 0 is the kernel's default, 1500.
	MTU int
	// Masquerade are the addresses of pods, of all nodes and at most a few prefixes: what
	// such a pod sends by eth0 to anything outside of them gets the node's address.
	Masquerade []netip.Prefix
}

// Node is a network namespace wired as a Kubernetes node: it forwards, reaches each
// pod over a veth pair of its own, and the outside over eth0. The namespace's
// methods (Do, Start, Dial, …) act on the node itself.
type Node struct {
	*Netns
	Name  string
	Addrs []netip.Addr
	// Gateways are the addresses of the node's end of every pod's link.
	Gateways []netip.Addr
	// Network is what eth0 is plugged into.
	Network *Network

	mtu        int
	ownNetwork bool
	handle     *netlink.Handle
	links      *unlinker

	mu       sync.Mutex
	closed   bool
	pods     map[string]*Pod
	reserved map[string][]netip.Addr // addresses of pods that are being made
	hosts    map[string]*Host

	leaving sync.WaitGroup // pods that are being removed
}

// NewNode makes a node; the caller closes it.
func NewNode(cfg NodeConfig) (_ *Node, err error) {
	if cfg.Addrs == nil {
		cfg.Addrs = addrsOrIPv4("172.18.0.2", "fc00:f853:ccd:e793::2")
	}
	if cfg.Gateways == nil {
		cfg.Gateways = addrsOrIPv4("10.244.0.1", "fd00:10:244::1")
	}
	netns, err := NewNetns()
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", cfg.Name, err)
	}
	n := &Node{
		Netns: netns, Name: cfg.Name, Addrs: cfg.Addrs, Gateways: cfg.Gateways, Network: cfg.Network, mtu: cfg.MTU,
		pods: map[string]*Pod{}, reserved: map[string][]netip.Addr{}, hosts: map[string]*Host{},
	}
	if err := n.wire(); err != nil {
		return nil, errors.Join(fmt.Errorf("node %s: %w", cfg.Name, err), n.Close())
	}
	if err := n.masquerade(cfg.Masquerade); err != nil {
		return nil, errors.Join(fmt.Errorf("node %s: %w", cfg.Name, err), n.Close())
	}
	return n, nil
}

func (n *Node) wire() (err error) {
	if err := forwardIP(n.Netns); err != nil {
		return err
	}
	if n.handle, err = n.Handle(); err != nil {
		return err
	}
	n.links = &unlinker{netns: n.Netns, handle: n.handle}
	if n.Network == nil {
		if n.Network, err = NewNetwork(DefaultRouters()); err != nil {
			return err
		}
		n.ownNetwork = true
	}
	uplink, err := n.Network.attach(n.Name, n.Netns, n.Addrs, n.mtu)
	if err != nil {
		return err
	}
	defer uplink.handle.Close()
	// Without a default route the node could not even try to reach a ClusterIP: the
	// kernel looks for a route before it translates.
	for _, addr := range n.Addrs {
		router, _ := n.Network.routerOf(addr)
		if err := uplink.addRoute(everywhere(addr), router.Addr(), netlink.SCOPE_UNIVERSE); err != nil {
			return err
		}
	}
	return nil
}

// Pod returns the pod of that name, or nil.
func (n *Node) Pod(name string) *Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[name]
}

// Pods returns the node's pods by name.
func (n *Node) Pods() []*Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.pods), func(a, b *Pod) int { return strings.Compare(a.Name, b.Name) })
}

// Close removes the node with its pods and hosts. It is idempotent.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	n.leaving.Wait()
	errs := n.removePods()
	for _, host := range n.hosts {
		errs = append(errs, host.remove())
	}
	clear(n.pods)
	clear(n.hosts)
	if n.handle != nil {
		errs = append(errs, deleteLink(n.handle, podInterface))
		n.handle.Close()
	}
	if n.ownNetwork {
		errs = append(errs, n.Network.Close())
	}
	if err := errors.Join(append(errs, n.Netns.Close())...); err != nil {
		return fmt.Errorf("close node %s: %w", n.Name, err)
	}
	return nil
}

// removePods removes all at once, since most of that is waiting for the kernel.
func (n *Node) removePods() []error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, pod := range n.pods {
		wg.Go(func() {
			if err := pod.remove(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errs
}

// forwardIP makes the namespace a router for the families that it has.
func forwardIP(ns *Netns) error {
	if err := ns.SetSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	err := ns.SetSysctl("net/ipv6/conf/all/forwarding", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func addrsOrIPv4(v4, v6 string) []netip.Addr {
	addrs := []netip.Addr{netip.MustParseAddr(v4)}
	if HasIPv6() {
		addrs = append(addrs, netip.MustParseAddr(v6))
	}
	return addrs
}
