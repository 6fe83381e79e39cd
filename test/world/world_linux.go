package world

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// Config says how large a world is. Its zero value is 3 pods, 2 pods of the other node and 2 hosts outside, all
// with addresses of both families and serving DefaultPorts.
type Config struct {
	Pods, RemotePods, Hosts int
	// Families are those that the node, pods and hosts have addresses of; the node's IPv6 is disabled without
	// model.IPv6. Empty is all that the kernel has.
	Families []model.Family
	// Ports are served by all pods and hosts over each protocol. Nil is DefaultPorts.
	Ports map[model.Protocol][]uint16
}

// DefaultPorts are what pods and hosts serve.
var DefaultPorts = map[model.Protocol][]uint16{model.TCP: {8080}, model.UDP: {5353}, model.SCTP: {9000}}

// World is a node, its pods, another node's pods and hosts outside.
type World struct {
	Node   *Place
	Pods   []*Place
	Remote []*Place
	Hosts  []*Place
	// Gateways are the node's addresses towards its own pods, which those see when the node masquerades.
	Gateways []netip.Addr

	families    []model.Family
	node, other *sandbox.Node
	// extra are further addresses of the node.
	extra []netip.Addr
	ports map[model.Protocol][]uint16
}

// Families are those that the kernel has.
func Families() []model.Family {
	if sandbox.HasIPv6() {
		return model.Families
	}
	return []model.Family{model.IPv4}
}

// New makes a world that ends with the test.
func New(t testing.TB, cfg Config) *World {
	t.Helper()
	nstest.Require(t)
	if cfg.Pods == 0 && cfg.RemotePods == 0 && cfg.Hosts == 0 {
		cfg.Pods, cfg.RemotePods, cfg.Hosts = 3, 2, 2
	}
	if cfg.Families == nil {
		cfg.Families = Families()
	}
	if cfg.Ports == nil {
		cfg.Ports = DefaultPorts
	}
	w := &World{families: cfg.Families, ports: cfg.Ports}
	w.makeNodes(t)
	canary := w.pod(t, w.node, "canary", w.addrs(PodAddr, lastPod-firstPod))
	canary.Serve(t, model.UDP, canaryPort)
	canaries := map[model.Family]netip.AddrPort{}
	for _, a := range canary.Addrs {
		canaries[model.FamilyOf(a)] = netip.AddrPortFrom(a, canaryPort)
	}
	w.Node = &Place{Netns: w.node.Netns, Name: "node", Kind: Node, Addrs: w.node.Addrs, canaries: canaries, ports: newSourcePorts("node")}
	for i := range cfg.Hosts {
		w.Hosts = append(w.Hosts, w.host(t, i))
	}
	for i := range cfg.Pods {
		w.AddPod(t, fmt.Sprintf("pod-%d", i+1))
	}
	for i := range cfg.RemotePods {
		w.AddRemotePod(t, fmt.Sprintf("remote-%d", i+1))
	}
	return w
}

func (w *World) makeNodes(t testing.TB) {
	t.Helper()
	network, err := sandbox.NewNetwork(sandbox.DefaultRouters())
	if err != nil {
		t.Fatal(err)
	}
	closing(t, network.Close)
	nodes := map[string]sandbox.NodeConfig{
		NodeName:      {Addrs: w.addrs(nodeAddr, 2), Gateways: w.gateways("10.244.0.", "fd00:10:244::")},
		OtherNodeName: {Addrs: w.addrs(nodeAddr, 3), Gateways: w.gateways("10.244.1.", "fd00:10:244:1::")},
	}
	made := map[string]*sandbox.Node{}
	for _, name := range []string{NodeName, OtherNodeName} {
		c := nodes[name]
		c.Name, c.Network = name, network
		if made[name], err = sandbox.NewNode(c); err != nil {
			t.Fatal(err)
		}
		closing(t, made[name].Close)
	}
	w.node, w.other, w.Gateways = made[NodeName], made[OtherNodeName], nodes[NodeName].Gateways
	for _, router := range []interface {
		SetSysctl(name, value string) error
	}{network, w.node, w.other} {
		quieten(t, router)
	}
	if !slices.Contains(w.families, model.IPv6) {
		set(t, w.node, "net/ipv6/conf/all/disable_ipv6", "1")
	}
	w.routeThroughNode(t)
}

// gateways returns the addresses of a node towards its pods.
func (w *World) gateways(v4, v6 string) []netip.Addr {
	return w.addrs(func(f model.Family, n int) netip.Addr { return numbered(f, v4, v6, n) }, 1)
}

// addrs returns an address of each family.
func (w *World) addrs(of func(model.Family, int) netip.Addr, i int) (all []netip.Addr) {
	for _, f := range w.families {
		all = append(all, of(f, i))
	}
	return all
}

// quieten has a router send every ICMP error, as one that it withholds is a refusal that nobody sees, and no
// redirects, which would lead packets around the node.
func quieten(t testing.TB, router interface {
	SetSysctl(name, value string) error
}) {
	t.Helper()
	for _, s := range [][2]string{
		{"net/ipv4/icmp_ratemask", "0"}, {"net/ipv4/icmp_ratelimit", "0"}, {"net/ipv6/icmp/ratelimit", "0"},
		{"net/ipv4/conf/all/send_redirects", "0"}, {"net/ipv4/conf/eth0/send_redirects", "0"}, {"net/ipv4/conf/br0/send_redirects", "0"},
	} {
		set(t, router, s[0], s[1])
	}
}

// set writes a setting, where the kernel has it.
func set(t testing.TB, ns interface {
	SetSysctl(name, value string) error
}, name, value string) {
	t.Helper()
	if err := ns.SetSysctl(name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// routeThroughNode makes the node the other one's router, so that whatever the other's pods send anywhere
// meets the node's rules.
func (w *World) routeThroughNode(t testing.TB) {
	t.Helper()
	h, err := w.other.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, via := range w.node.Addrs {
		everywhere := &net.IPNet{IP: net.IP(unspecified(via).AsSlice()), Mask: net.CIDRMask(0, via.BitLen())}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere, Gw: net.IP(via.AsSlice())}
		if err := h.RouteReplace(r); err != nil {
			t.Fatalf("route of %s through %s: %v", w.other.Name, via, err)
		}
	}
}

func (w *World) host(t testing.TB, i int) *Place {
	t.Helper()
	addrs := w.addrs(HostAddr, i)
	name := fmt.Sprintf("host-%d", i+1)
	h, err := w.node.AddHost(sandbox.HostConfig{Name: name, Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	set(t, h, "net/ipv4/conf/all/accept_redirects", "0")
	set(t, h, "net/ipv6/conf/eth0/accept_redirects", "0")
	return w.serving(t, &Place{Netns: h.Netns, Name: name, Kind: Host, Addrs: addrs, Interface: "eth0"})
}

// AddPod adds a pod to the node. It has the next address.
func (w *World) AddPod(t testing.TB, name string) *Place {
	t.Helper()
	p := w.serving(t, w.pod(t, w.node, name, w.addrs(PodAddr, len(w.Pods))))
	w.Pods = append(w.Pods, p)
	return p
}

// AddRemotePod adds a pod to the other node. It has the next address there.
func (w *World) AddRemotePod(t testing.TB, name string) *Place {
	t.Helper()
	p := w.pod(t, w.other, name, w.addrs(RemoteAddr, len(w.Remote)))
	p.Kind, p.Interface = RemotePod, "eth0"
	w.Remote = append(w.Remote, w.serving(t, p))
	return p
}

func (w *World) pod(t testing.TB, node *sandbox.Node, name string, addrs []netip.Addr) *Place {
	t.Helper()
	pod, err := node.AddPod(sandbox.PodConfig{Name: name, Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	return &Place{Netns: pod.Netns, Name: name, Kind: Pod, Addrs: addrs, Interface: pod.Interface}
}

// serving gives a place its servers and its canaries.
func (w *World) serving(t testing.TB, p *Place) *Place {
	t.Helper()
	p.canaries, p.ports = w.Node.canaries, newSourcePorts(p.Name)
	for protocol, ports := range w.ports {
		p.Serve(t, protocol, ports...)
	}
	return p
}

// Places returns all places: the node, pods, pods of the other node, hosts.
func (w *World) Places() []*Place { return slices.Concat([]*Place{w.Node}, w.Pods, w.Remote, w.Hosts) }

// Place returns the place of a name, or nil.
func (w *World) Place(name string) *Place {
	for _, p := range w.Places() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Own returns all of the node's own addresses, loopback ones apart.
func (w *World) Own() []netip.Addr { return slices.Concat(w.node.Addrs, w.Gateways, w.extra) }

// AddNodeAddr gives the node one more address of its own, as a load balancer's agent or an operator does. Hosts
// and pods reach it through the node's other addresses.
func (w *World) AddNodeAddr(t testing.TB, a netip.Addr) {
	t.Helper()
	h, err := w.node.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	only := &net.IPNet{IP: net.IP(a.AsSlice()), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
	if err := h.AddrAdd(lo, &netlink.Addr{IPNet: only}); err != nil {
		t.Fatalf("add address %s to the node: %v", a, err)
	}
	// The kernel leaves it to a worker to add the local route of an IPv6 address.
	nstest.Eventually(t, patience, func() error {
		family := map[bool]int{true: netlink.FAMILY_V4, false: netlink.FAMILY_V6}[a.Is4()]
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: only}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err == nil && len(routes) == 0 {
			err = fmt.Errorf("the node has no local route of %s", a)
		}
		return err
	})
	w.extra = append(w.extra, a)
}

// Masquerade returns the address that the node puts in place of a connection's source on the way to an
// endpoint.
func (w *World) Masquerade(endpoint netip.Addr) netip.Addr {
	f := model.FamilyOf(endpoint)
	for _, p := range w.Pods {
		if slices.Contains(p.Addrs, endpoint) {
			return ofFamily(f, w.Gateways)
		}
	}
	return w.Node.Addr(f)
}

// Packet is the first packet of a connection that a place opens, as the node meets it. A zero source is
// the address that the kernel chooses for an address that is routed through the node, or is the node's own.
func (w *World) Packet(from *Place, protocol model.Protocol, source netip.Addr, to netip.AddrPort) plan.Packet {
	switch {
	case source.IsValid():
	case from == w.Node && (to.Addr().IsLoopback() || slices.Contains(w.Own(), to.Addr())):
		source = to.Addr()
	default:
		source = from.Addr(model.FamilyOf(to.Addr()))
	}
	return plan.Packet{Protocol: protocol, Source: source, Interface: from.Interface, Dest: to, Host: w.Own()}
}

func closing(t testing.TB, end func() error) {
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}
