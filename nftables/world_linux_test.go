package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

// land are the addresses that Services have in worlds of one family.
type land struct {
	family model.Family
	// clusterIPs, externals and balancers are the beginnings of addresses that are routed to the node.
	clusterIPs, externals, balancers string
}

var lands = []land{
	{model.IPv4, "10.96.0.", "198.51.100.", "203.0.113."},
	{model.IPv6, "fd00:10:96::", "2001:db8:51::", "2001:db8:113::"},
}

func at(prefix string, i int) netip.Addr { return netip.MustParseAddr(fmt.Sprint(prefix, i)) }

// config is the usual configuration in a world.
func (l land) config(w *world.World) plan.Config {
	pods, services := "10.244.0.0/16", "10.96.0.0/16"
	if l.family == model.IPv6 {
		pods, services = "fd00:10:244::/63", "fd00:10:96::/112"
	}
	return plan.Config{Family: l.family, NodeName: world.NodeName, NodeAddrs: []netip.Addr{w.Node.Addr(l.family)},
		Detector:     plan.Detector{Prefixes: []netip.Prefix{netip.MustParsePrefix(pods)}},
		NodePorts:    plan.NodePorts{All: true},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix(services)}, GuardClusterIPs: true,
		MasqueradeMark: plan.DefaultMasqueradeMark}
}

// service is the i-th Service: TCP and UDP with every kind of frontend, behind it some pods of this node and
// of another.
func (l land) service(i, pods, remote int, change func(*model.Service)) plan.Input {
	s := &model.Service{Name: serviceName(i), ClusterIPs: []netip.Addr{at(l.clusterIPs, i)}, ExternalIPs: []netip.Addr{at(l.externals, i)},
		LoadBalancerIPs: []netip.Addr{at(l.balancers, i)}}
	sl := &model.Slice{Name: model.SliceName{Namespace: "test", Name: s.Name.Name}, Service: s.Name, Family: l.family}
	for p, target := range map[model.Protocol]uint16{model.TCP: 8080, model.UDP: 5353, model.SCTP: 9000} {
		s.Ports = append(s.Ports, model.ServicePort{Name: p.String(), Protocol: p, Port: 80, NodePort: 30000 + uint16(i)})
		sl.Ports = append(sl.Ports, model.SlicePort{Name: p.String(), Protocol: p, Port: target})
	}
	for k := range pods {
		sl.Endpoints = append(sl.Endpoints, model.Endpoint{Addr: world.PodAddr(l.family, k), Ready: true, Serving: true, NodeName: world.NodeName})
	}
	for k := range remote {
		sl.Endpoints = append(sl.Endpoints, model.Endpoint{Addr: world.RemoteAddr(l.family, k), Ready: true, Serving: true, NodeName: world.OtherNodeName})
	}
	if change != nil {
		change(s)
	}
	return plan.Input{Name: s.Name, Service: s, Slices: []*model.Slice{sl}}
}

// services are every class of Services there is.
func (l land) services(w *world.World) []plan.Input {
	local := func(s *model.Service) { s.ExternalLocal = true }
	host := world.HostAddr(l.family, 0)
	only := []netip.Prefix{netip.PrefixFrom(host, host.BitLen())}
	return []plan.Input{
		l.service(1, 2, 1, nil),
		l.service(2, 1, 1, local),
		l.service(3, 0, 2, local),
		l.service(4, 1, 1, func(s *model.Service) { s.InternalLocal = true }),
		l.service(5, 0, 1, func(s *model.Service) { s.InternalLocal, s.ExternalLocal = true, true }),
		l.service(6, 0, 0, nil),
		l.service(7, 1, 0, func(s *model.Service) { s.SourceRanges = only }),
		l.service(8, 1, 0, func(s *model.Service) { // at an address of the node's, which is in the ranges
			s.LoadBalancerIPs = []netip.Addr{w.Node.Addr(l.family)}
			s.SourceRanges = append(slices.Clone(only), netip.PrefixFrom(w.Node.Addr(l.family), host.BitLen()))
		}),
		l.service(9, 2, 0, func(s *model.Service) { s.Affinity = time.Hour }),
		l.service(10, 1, 1, func(s *model.Service) { s.Affinity, s.ExternalLocal = time.Hour, true }),
		// A node port with the number of another Service's own port, whose external address is the node's.
		l.service(11, 1, 0, func(s *model.Service) {
			s.ExternalIPs = []netip.Addr{w.Gateways[slices.IndexFunc(w.Gateways, func(a netip.Addr) bool { return model.FamilyOf(a) == l.family })]}
			s.LoadBalancerIPs = nil
		}),
		l.service(12, 0, 1, func(s *model.Service) {
			s.ExternalLocal = true
			for i := range s.Ports {
				s.Ports[i].Port, s.Ports[i].NodePort = 81, 80
			}
		}),
		l.hostNetwork(w),
	}
}

// hostNetwork is a Service whose only endpoint is a process on the node itself.
func (l land) hostNetwork(w *world.World) plan.Input {
	in := l.service(13, 1, 0, nil)
	in.Slices[0].Endpoints[0].Addr = w.Node.Addr(l.family)
	return in
}

// targets are all frontends of a plan as packets meet them, and addresses of no Service.
func targets(p *plan.Plan, w *world.World) map[model.Protocol][]netip.AddrPort {
	out := map[model.Protocol][]netip.AddrPort{}
	add := func(proto model.Protocol, a netip.Addr, port uint16) {
		if to := netip.AddrPortFrom(a, port); !slices.Contains(out[proto], to) {
			out[proto] = append(out[proto], to)
		}
	}
	for _, s := range p.Services {
		for _, port := range s.Ports {
			for _, f := range port.Frontends {
				if f.Addr.IsValid() {
					add(f.Protocol, f.Addr, f.Port)
					continue
				}
				for _, a := range append(w.Own(), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()) {
					if model.FamilyOf(a) == p.Config.Family {
						add(f.Protocol, a, f.Port)
					}
				}
			}
		}
	}
	return out
}

// verify asks from every place for every target and compares what comes of it with the plan's trace. Of SCTP a
// place asks for one after another, since a raw socket gets the errors of all that go to its address.
func verify(t *testing.T, w *world.World, p *plan.Plan, protocols ...model.Protocol) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	to := targets(p, w)
	ask := func(proto model.Protocol, from *world.Place, dest netip.AddrPort) {
		slots <- struct{}{}
		defer func() { <-slots }()
		packet := w.Packet(from, proto, netip.Addr{}, dest)
		if err := agrees(w, from, packet, p.Trace(packet)); err != nil {
			t.Errorf("%s from %s to %s: %v", proto, from, dest, err)
		}
	}
	for _, proto := range protocols {
		for _, from := range []*world.Place{w.Node, w.Pods[0], w.Pods[1], w.Remote[0], w.Hosts[0], w.Hosts[1]} {
			wg.Go(func() {
				for i, dest := range to[proto] {
					if dest.Addr().IsLoopback() && from != w.Node {
						continue
					}
					if proto == model.SCTP && i == nstest.Sized(4, len(to[proto])) {
						break
					}
					if proto == model.SCTP {
						ask(proto, from, dest)
					} else {
						wg.Go(func() { ask(proto, from, dest) })
					}
				}
			})
		}
	}
	wg.Wait()
}

// aside tells whether answers may find a way past the node, as they do from another node's pod to a client that
// is not on this one either and keeps its address, the endpoint itself among them. Nobody translates those back.
func aside(w *world.World, from *world.Place, want plan.Outcome) bool {
	here := from == w.Node || slices.Contains(w.Pods, from)
	return !here && slices.ContainsFunc(want.Targets, func(target plan.Target) bool {
		remote := slices.ContainsFunc(w.Remote, func(p *world.Place) bool { return slices.Contains(p.Addrs, target.Endpoint.Addr()) })
		return remote && (!target.Masquerade || slices.Contains(from.Addrs, target.Endpoint.Addr()))
	})
}

// agrees makes a connection and tells how what comes of it differs from what was foretold.
func agrees(w *world.World, from *world.Place, p plan.Packet, want plan.Outcome) error {
	r, err := from.Ask(world.Question{Protocol: p.Protocol, To: p.Dest})
	if err != nil {
		return err
	}
	verdicts := map[plan.Verdict]world.Verdict{plan.Translate: world.Answered, plan.Refuse: world.Refused, plan.Discard: world.Silent}
	if foretold, ok := verdicts[want.Verdict]; !ok || r.Verdict != foretold {
		if want.Verdict == plan.Pass && r.Verdict != world.Answered || r.Verdict == world.Silent && aside(w, from, want) {
			return nil
		}
		return fmt.Errorf("%v, want %v", r, want)
	}
	if r.Verdict != world.Answered {
		return nil
	}
	i := slices.IndexFunc(want.Targets, func(target plan.Target) bool { return target.Endpoint == r.Endpoint })
	if i < 0 {
		return fmt.Errorf("%v, want %v", r, want)
	}
	source := p.Source
	switch {
	case want.Targets[i].Masquerade && from == w.Node && slices.Contains(w.Own(), r.Endpoint.Addr()):
		source = r.Source.Addr() // the node chooses any of its own for what it sends to itself
	case want.Targets[i].Masquerade:
		source = w.Masquerade(r.Endpoint.Addr())
	}
	if r.Source.Addr() != source || r.Lost > 0 {
		return fmt.Errorf("%v, want it seen as %s: %v", r, source, want)
	}
	return nil
}

func TestRealPacketsFareAsThePlanSays(t *testing.T) {
	for _, l := range lands {
		w := world.New(t, world.Config{Families: []model.Family{l.family}, Pods: 2, RemotePods: 2, Hosts: 2})
		w.Node.ServeAt(t, w.Node.Addr(l.family), model.TCP, 8080)
		w.Node.ServeAt(t, w.Node.Addr(l.family), model.UDP, 5353)
		w.Node.ServeAt(t, w.Node.Addr(l.family), model.SCTP, 9000)
		b, err := New(Options{Family: l.family, NetNS: w.Node.Path()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}()
		configs := map[string]func(*plan.Config){
			"pods by prefix":     func(*plan.Config) {},
			"pods by interface":  func(c *plan.Config) { c.Detector = plan.Detector{Interface: w.Pods[0].Interface} },
			"pods by interfaces": func(c *plan.Config) { c.Detector = plan.Detector{Interface: w.Pods[0].Interface[:3] + "+"} },
			"no pods":            func(c *plan.Config) { c.Detector = plan.Detector{} },
			"masquerade all":     func(c *plan.Config) { c.MasqueradeAll, c.MasqueradeMark = true, 1<<20 },
			"some node ports": func(c *plan.Config) {
				c.NodePorts = plan.NodePorts{Prefixes: []netip.Prefix{netip.PrefixFrom(w.Hosts[0].Addr(l.family), 8)}}
			},
		}
		for name, change := range configs {
			t.Run(fmt.Sprintf("%s/%s", l.family, name), func(t *testing.T) {
				c := l.config(w)
				change(&c)
				p := plan.Build(c, l.services(w))
				apply(t, b, full(p))
				protocols := []model.Protocol{model.TCP}
				if name == "pods by prefix" {
					protocols = []model.Protocol{model.TCP, model.UDP, model.SCTP}
				}
				verify(t, w, p, protocols...)
			})
		}
	}
}
