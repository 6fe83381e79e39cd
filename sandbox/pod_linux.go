package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// PodConfig describes a pod.
type PodConfig struct {
	// Name is unique on the node, such as "kube-system/coredns-a".
	Name string
	// Addrs are the pod's addresses, at most one a family.
	Addrs []netip.Addr
}

// Pod is a network namespace of its own with eth0 as the way to its node. The
// namespace's methods (Start, Listen, Dial, …) act inside the pod.
type Pod struct {
	*Netns
	Name  string
	Addrs []netip.Addr
	// Interface is the node's end of the pod's link, vethXXXXXXXX: the same for a
	// pod of that name in every run.
	Interface string

	node *Node
	// routed are the addresses that the network's router knows.
	routed []netip.Addr
}

// AddPod makes a pod, reachable when AddPod returns. It is wired as kind's ptp
// plugin does: the node's end of the link carries the gateway address, without
// which the kernel would find no source for an ICMP error to the pod and a rejected
// connection would time out instead.
func (n *Node) AddPod(cfg PodConfig) (*Pod, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.admit(cfg); err != nil {
		return nil, fmt.Errorf("pod %s: %w", cfg.Name, err)
	}
	netns, err := NewNetns()
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", cfg.Name, err)
	}
	pod := &Pod{Netns: netns, Name: cfg.Name, Addrs: cfg.Addrs, node: n}
	if err := pod.wire(); err != nil {
		return nil, errors.Join(fmt.Errorf("pod %s: %w", cfg.Name, err), pod.remove())
	}
	n.pods[cfg.Name] = pod
	return pod, nil
}

func (n *Node) admit(cfg PodConfig) error {
	if n.closed {
		return fmt.Errorf("node %s is closed", n.Name)
	}
	if cfg.Name == "" || n.pods[cfg.Name] != nil {
		return fmt.Errorf("name %q is empty or taken", cfg.Name)
	}
	if len(cfg.Addrs) == 0 {
		return errors.New("no address")
	}
	for _, addr := range cfg.Addrs {
		if _, ok := sameFamily(addr, n.Gateways); !ok {
			return fmt.Errorf("node %s has no gateway for address %s", n.Name, addr)
		}
		for _, other := range n.pods {
			if slices.Contains(other.Addrs, addr) {
				return fmt.Errorf("address %s is taken by pod %s", addr, other.Name)
			}
		}
	}
	return nil
}

func (p *Pod) wire() error {
	name := interfaceName("veth", p.Name)
	outer, inner, err := newVeth(p.node.handle, name, p.Netns, p.node.mtu)
	if err != nil {
		return err
	}
	defer inner.handle.Close()
	p.Interface = name
	for _, addr := range p.Addrs {
		gateway, _ := sameFamily(addr, p.node.Gateways)
		err := errors.Join(
			outer.addAddr(single(gateway)),
			outer.addRoute(single(addr), netip.Addr{}, netlink.SCOPE_HOST),
			inner.addAddr(single(addr)),
			inner.addRoute(single(gateway), netip.Addr{}, netlink.SCOPE_LINK),
			inner.addRoute(everywhere(addr), gateway, netlink.SCOPE_UNIVERSE),
		)
		if err != nil {
			return err
		}
		if node, ok := sameFamily(addr, p.node.Addrs); ok {
			if err := p.node.Network.addPodRoute(addr, node); err != nil {
				return err
			}
			p.routed = append(p.routed, addr)
		}
	}
	return nil
}

// Close removes the pod: its processes, its link and the routes to it. It is
// idempotent.
func (p *Pod) Close() error {
	p.node.mu.Lock()
	defer p.node.mu.Unlock()
	if p.node.pods[p.Name] != p {
		return nil
	}
	delete(p.node.pods, p.Name)
	if err := p.remove(); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.Name, err)
	}
	return nil
}

// remove deletes the link first: with the namespace it would go too, but later, and
// the name could not be used again at once.
func (p *Pod) remove() error {
	var errs []error
	for _, addr := range p.routed {
		node, _ := sameFamily(addr, p.node.Addrs)
		errs = append(errs, p.node.Network.deletePodRoute(addr, node))
	}
	if p.Interface != "" {
		errs = append(errs, deleteLink(p.node.handle, p.Interface))
	}
	return errors.Join(append(errs, p.Netns.Close())...)
}
