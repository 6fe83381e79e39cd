package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
)

// PodConfig describes a pod.
type PodConfig struct {
	// Name is unique on the node, such as "kube-system/coredns-a".
	Name string
	// Addrs are the pod's addresses, at most one a family.
	Addrs []netip.Addr
	// Pause makes a pod that runs containers. Without it the pod is a network
	// namespace and nothing else.
	Pause *PauseConfig
}

// Pod is a network namespace of its own with eth0 as the way to its node, and, if
// PodConfig.Pause says so, user, PID, mount, UTS and IPC namespaces beside it, in
// which StartContainer runs programs. The network namespace's methods (Start, Listen,
// Dial, …) act inside the pod.
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

	pause          *pause // nil without PodConfig.Pause
	shareProcesses bool
	users          UserRange

	removal sync.Once
	removed error // after removal
}

// AddPod makes a pod, reachable when AddPod returns. It is wired as kind's ptp
// plugin does: the node's end of the link carries the gateway address, without
// which the kernel would find no source for an ICMP error to the pod and a rejected
// connection would time out instead.
func (n *Node) AddPod(cfg PodConfig) (*Pod, error) {
	if err := n.reserve(cfg); err != nil {
		return nil, fmt.Errorf("pod %s: %w", cfg.Name, err)
	}
	pod := &Pod{Name: cfg.Name, Addrs: cfg.Addrs, node: n}
	err := pod.open(cfg.Pause) // takes long enough to let other pods be made meanwhile
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.reserved, cfg.Name)
	if err == nil && n.closed {
		err = fmt.Errorf("node %s is closed", n.Name)
	}
	if err == nil {
		err = pod.wire()
	}
	if err == nil && cfg.Pause != nil {
		err = pod.setSysctls(cfg.Pause.Sysctls)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pod %s: %w", cfg.Name, err), pod.remove())
	}
	n.pods[cfg.Name] = pod
	return pod, nil
}

// reserve makes sure that the pod can be added, and that nobody takes its name or
// addresses before it is.
func (n *Node) reserve(cfg PodConfig) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.admit(cfg); err != nil {
		return err
	}
	n.reserved[cfg.Name] = cfg.Addrs
	return nil
}

// open makes the pod's namespaces.
func (p *Pod) open(cfg *PauseConfig) (err error) {
	if cfg == nil {
		p.Netns, err = NewNetns()
		return err
	}
	p.shareProcesses, p.users = cfg.ShareProcesses, cfg.Users
	setup := *cfg
	if setup.Hostname == "" {
		setup.Hostname = path.Base(p.Name)
	}
	if p.pause, err = startPause(setup); err != nil {
		return err
	}
	p.Netns, err = p.pause.netns()
	return err
}

// setSysctls writes those of the network; pause has written the others.
func (p *Pod) setSysctls(sysctls map[string]string) error {
	for name, value := range sysctls {
		if !isNetSysctl(name) {
			continue
		}
		if err := p.SetSysctl(strings.ReplaceAll(name, ".", "/"), value); err != nil {
			return fmt.Errorf("sysctl %s: %w", name, err)
		}
	}
	return nil
}

func (n *Node) admit(cfg PodConfig) error {
	if n.closed {
		return fmt.Errorf("node %s is closed", n.Name)
	}
	if _, reserved := n.reserved[cfg.Name]; cfg.Name == "" || n.pods[cfg.Name] != nil || reserved {
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
		for other, addrs := range n.reserved {
			if slices.Contains(addrs, addr) {
				return fmt.Errorf("address %s is taken by pod %s", addr, other)
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

// Done is closed when the pod's pause process has ended, and all that ran in the pod
// with it, whether Close did that or not. Without PodConfig.Pause it never is.
func (p *Pod) Done() <-chan struct{} {
	if p.pause == nil {
		return nil
	}
	return p.pause.done
}

// Close removes the pod: its processes, its link and the routes to it. It is
// idempotent.
func (p *Pod) Close() error {
	n := p.node
	n.mu.Lock()
	leaving := n.pods[p.Name] == p
	if leaving {
		// Others come and go meanwhile; name and addresses are taken until all is gone.
		delete(n.pods, p.Name)
		n.reserved[p.Name] = p.Addrs
		n.leaving.Add(1)
	}
	n.mu.Unlock()
	err := p.remove()
	if leaving {
		n.leaving.Done()
		n.mu.Lock()
		delete(n.reserved, p.Name)
		n.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", p.Name, err)
	}
	return nil
}

// remove removes the pod once, and waits until that is done.
func (p *Pod) remove() error {
	p.removal.Do(func() { p.removed = p.removeNow() })
	return p.removed
}

// removeNow deletes the link first: with the namespace it would go too, but later, and
// the name could not be used again at once.
func (p *Pod) removeNow() error {
	var errs []error
	if p.pause != nil {
		errs = append(errs, p.pause.stop())
	}
	for _, addr := range p.routed {
		node, _ := sameFamily(addr, p.node.Addrs)
		errs = append(errs, p.node.Network.deletePodRoute(addr, node))
	}
	if p.Interface != "" {
		errs = append(errs, p.node.links.delete(p.Interface))
	}
	if p.Netns != nil {
		errs = append(errs, p.Netns.Close())
	}
	return errors.Join(errs...)
}
