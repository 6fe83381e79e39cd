package oracle

import (
	"net/netip"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/world"
)

// universe holds the few addresses of one family that everything drawn is made of: those of test/world, so
// that what is computed about can also be sent.
type universe struct {
	family model.Family
	// primary, gateway and vip are the node's own; vip is one that a load balancer's agent gave it.
	primary, gateway, vip netip.Addr
	pods, remotePods      []host
	hosts                 []host
	otherNode             netip.Addr
	clusterIPs            []netip.Addr
	// floating are addresses that something routes to the node.
	floating []netip.Addr
	// unallocated is a ClusterIP that no Service has.
	unallocated                                netip.Addr
	allPods, ownPods, serviceCIDR, outsideNets netip.Prefix
	loopback                                   netip.Addr
	loopbacks                                  netip.Prefix
	// podInterface is the one by which the first pod's packets come; those of the others begin alike.
	podInterface string
	interfaces   map[netip.Addr]string
}

// host is an address of its own.
type host netip.Addr

func (h host) addr() netip.Addr     { return netip.Addr(h) }
func (h host) prefix() netip.Prefix { return netip.PrefixFrom(h.addr(), h.addr().BitLen()) }

const (
	podCount, remotePodCount, hostCount = 3, 2, 2
	outsideInterface                    = "eth0"
)

// newUniverse returns the addresses of a family.
func newUniverse(f model.Family) *universe {
	pick := func(v4, v6 string) netip.Addr {
		if f == model.IPv4 {
			return netip.MustParseAddr(v4)
		}
		return netip.MustParseAddr(v6)
	}
	prefix := func(v4, v6 string) netip.Prefix {
		if f == model.IPv4 {
			return netip.MustParsePrefix(v4)
		}
		return netip.MustParsePrefix(v6)
	}
	u := &universe{
		family: f, primary: world.NodeAddr(f), gateway: pick("10.244.0.1", "fd00:10:244::1"), vip: pick("203.0.113.1", "2001:db8:113::1"),
		otherNode:   pick("172.18.0.3", "fc00:f853:ccd:e793::3"),
		clusterIPs:  []netip.Addr{pick("10.96.0.1", "fd00:10:96::1"), pick("10.96.0.2", "fd00:10:96::2"), pick("10.96.0.3", "fd00:10:96::3"), pick("10.96.0.4", "fd00:10:96::4")},
		floating:    []netip.Addr{pick("198.51.100.1", "2001:db8:100::1"), pick("198.51.100.2", "2001:db8:100::2")},
		unallocated: pick("10.96.0.99", "fd00:10:96::99"),
		allPods:     prefix("10.244.0.0/16", "fd00:10:244::/48"), ownPods: prefix("10.244.0.0/24", "fd00:10:244::/64"),
		serviceCIDR: prefix("10.96.0.0/24", "fd00:10:96::/120"), outsideNets: prefix("172.18.0.0/25", "fc00:f853:ccd:e793::/120"),
		loopback: pick("127.0.0.1", "::1"), loopbacks: prefix("127.0.0.0/8", "::1/128"),
		podInterface: "veth00000001", interfaces: map[netip.Addr]string{},
	}
	for i := range podCount {
		u.pods = append(u.pods, host(world.PodAddr(f, i)))
		u.interfaces[world.PodAddr(f, i)] = "veth0000000" + string(rune('1'+i))
	}
	for i := range remotePodCount {
		u.remotePods = append(u.remotePods, host(world.RemoteAddr(f, i)))
	}
	for i := range hostCount {
		u.hosts = append(u.hosts, host(world.HostAddr(f, i)))
	}
	return u
}

// own are the node's own addresses, loopback ones apart.
func (u *universe) own() []netip.Addr { return []netip.Addr{u.primary, u.gateway, u.vip} }

// origin is where packets come from.
type origin struct {
	source netip.Addr
	// iface is empty for the node's own packets.
	iface string
}

// origins are all of them. The node's own packets have any of its addresses.
func (u *universe) origins() []origin {
	out := []origin{{u.primary, ""}, {u.gateway, ""}, {u.vip, ""}, {u.loopback, ""}, {u.otherNode, outsideInterface}}
	for _, h := range u.pods {
		out = append(out, origin{h.addr(), u.interfaces[h.addr()]})
	}
	for _, h := range u.remotePods {
		out = append(out, origin{h.addr(), outsideInterface})
	}
	for _, h := range u.hosts {
		out = append(out, origin{h.addr(), outsideInterface})
	}
	return out
}

// destinations are all addresses worth a packet.
func (u *universe) destinations() []netip.Addr {
	out := append([]netip.Addr{u.unallocated, u.loopback, u.pods[0].addr(), u.hosts[0].addr()}, u.own()...)
	return append(append(out, u.clusterIPs...), u.floating...)
}

// numbers of ports. A node port's may also be a Service's.
var (
	servicePorts = []uint16{80, 443, 30080}
	nodePorts    = []uint16{0, 30080, 30443, 80}
	targetPorts  = []uint16{8080, 8081}
	protocols    = []model.Protocol{model.TCP, model.UDP, model.SCTP}
)

func (u *universe) packet(o origin, p model.Protocol, to netip.AddrPort) plan.Packet {
	return plan.Packet{Protocol: p, Source: o.source, Interface: o.iface, Dest: to, Host: u.own()}
}
