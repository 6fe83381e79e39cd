package iptables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// cluster is a node with pods, of which the last is planned as another node's, and hosts outside, and a Service
// of each class.
type cluster struct {
	*traffic
	hosts  []*sandbox.Host
	shared netip.Addr
	own    []netip.Addr
}

// client is where connections come from.
type client struct {
	name   string
	netns  *sandbox.Netns
	addr   netip.Addr
	iface  string
	onNode bool
}

func newCluster(t *testing.T, f model.Family, binary string) *cluster {
	t.Helper()
	ips := all(f, "10.244.0.3", "10.244.0.4", "10.244.0.5")
	hosts := []netip.Addr{netip.MustParseAddr("172.18.0.100"), netip.MustParseAddr("172.18.0.101")}
	if f == model.IPv6 {
		ips = []netip.Addr{netip.MustParseAddr("fd00:10:244::3"), netip.MustParseAddr("fd00:10:244::4"), netip.MustParseAddr("fd00:10:244::5")}
		hosts = []netip.Addr{netip.MustParseAddr("fc00:f853:ccd:e793::100"), netip.MustParseAddr("fc00:f853:ccd:e793::101")}
	}
	node, pods := pods(t, ips...)
	backend, err := New(Options{Family: f, NetNS: node.Path(), Binary: binary})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{traffic: &traffic{node, pods, ips, f, backend}, shared: in(f, "198.51.100.9")}
	for i, addr := range hosts {
		h, err := node.AddHost(sandbox.HostConfig{Name: fmt.Sprintf("host-%d", i), Addrs: []netip.Addr{addr}})
		if err != nil {
			t.Fatal(err)
		}
		c.hosts = append(c.hosts, h)
	}
	for _, limit := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} {
		if err := node.SetSysctl(limit, "0"); err != nil {
			t.Fatal(err)
		}
	}
	c.ip(t, "addr", "add", host(c.shared).String(), "dev", "lo", "nodad")
	c.own = slices.DeleteFunc(slices.Concat(node.Addrs, node.Gateways, []netip.Addr{c.shared}), func(a netip.Addr) bool { return model.FamilyOf(a) != f })
	return c
}

func (c *cluster) ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.node.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// iface returns the interface of the node that leads to an address.
func (c *cluster) iface(t *testing.T, a netip.Addr) string {
	t.Helper()
	_, rest, _ := strings.Cut(c.ip(t, "-o", "route", "get", a.String()), " dev ")
	name, _, _ := strings.Cut(rest, " ")
	return name
}

func (c *cluster) clients(t *testing.T) []client {
	all := []client{{name: "node", netns: c.node.Netns, onNode: true}}
	for i, p := range c.pods[:2] {
		all = append(all, client{p.Name, p.Netns, c.ips[i], c.iface(t, c.ips[i]), false})
	}
	for _, h := range c.hosts {
		all = append(all, client{h.Name, h.Netns, h.Addrs[0], c.iface(t, h.Addrs[0]), false})
	}
	return all
}

// input returns a Service of the i-th class.
func (c *cluster) input(i int, name string, change func(*model.Service), endpoints ...int) plan.Input {
	n := model.ServiceName{Namespace: "ns", Name: name}
	s := &model.Service{Name: n, ClusterIPs: []netip.Addr{in(c.family, fmt.Sprintf("10.96.0.%d", i))},
		ExternalIPs:     []netip.Addr{in(c.family, fmt.Sprintf("198.51.100.1%d", i))},
		LoadBalancerIPs: []netip.Addr{in(c.family, fmt.Sprintf("198.51.100.2%d", i))},
		Ports:           []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80, NodePort: uint16(30080 + i)}}}
	change(s)
	slice := &model.Slice{Service: n, Family: c.family, Ports: []model.SlicePort{{Name: "http", Protocol: model.TCP, Port: 8080}}}
	for _, e := range endpoints {
		on := drawnNode
		if e == len(c.ips)-1 {
			on = "n2"
		}
		slice.Endpoints = append(slice.Endpoints, model.Endpoint{Addr: c.ips[e], Ready: true, Serving: true, NodeName: on})
	}
	return plan.Input{Name: n, Service: s, Slices: []*model.Slice{slice}}
}

func (c *cluster) inputs() []plan.Input {
	local := func(s *model.Service) { s.ExternalLocal = true }
	return []plan.Input{
		c.input(1, "cluster", func(*model.Service) {}, 0, 2),
		c.input(2, "local", local, 0, 2),
		c.input(3, "elsewhere", func(s *model.Service) { s.ExternalLocal, s.InternalLocal = true, true }, 2),
		c.input(4, "none", func(*model.Service) {}),
		c.input(5, "ranges", func(s *model.Service) {
			s.ExternalLocal = true
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, c.shared)
			s.SourceRanges = []netip.Prefix{host(c.hosts[0].Addrs[0]), host(c.node.Addrs[0])}
			if c.family == model.IPv6 {
				s.SourceRanges[1] = host(c.own[0])
			}
		}, 0, 2),
		c.input(6, "sticky", func(s *model.Service) { s.Affinity = time.Hour }, 0, 1, 2),
		c.input(7, "inside", func(s *model.Service) { s.InternalLocal = true }, 1, 2),
	}
}

// want returns what the plan says about a client's connection.
func (c *cluster) want(p *plan.Plan, from client, to netip.AddrPort) plan.Outcome {
	source := from.addr
	if from.onNode {
		source = c.own[0]
		if packet := (plan.Packet{Host: c.own}); packet.Own(to.Addr()) {
			source = to.Addr()
		}
	}
	return p.Trace(plan.Packet{Protocol: model.TCP, Source: source, Interface: from.iface, Dest: to, Host: c.own})
}

// meets tells how an answer differs from what the plan says, if it does.
func meets(want plan.Outcome, from client, answer string, err error) error {
	switch want.Verdict {
	case plan.Refuse:
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%q, %v, want connection refused", answer, err)
		}
	case plan.Discard:
		if !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(fmt.Sprint(err), "timeout") {
			return fmt.Errorf("%q, %v, want silence", answer, err)
		}
	case plan.Translate:
		var endpoint, seen string
		if _, scan := fmt.Sscanf(answer, "%s sees %s", &endpoint, &seen); err != nil || scan != nil {
			return fmt.Errorf("%q, %v, want an answer", answer, err)
		}
		for _, target := range want.Targets {
			if target.Endpoint.Addr().String() == endpoint {
				if kept := seen == from.addr.String(); !from.onNode && kept == target.Masquerade {
					return fmt.Errorf("%q, want it masqueraded: %v", answer, target.Masquerade)
				}
				return nil
			}
		}
		return fmt.Errorf("%q, want one of %v", answer, want)
	}
	return nil
}

// agrees asks every frontend from everywhere, all at once, and compares with the plan.
func (c *cluster) agrees(t *testing.T, p *plan.Plan, clients []client) {
	t.Helper()
	var wg sync.WaitGroup
	for _, to := range c.frontends(p) {
		for _, from := range clients {
			want := c.want(p, from, to)
			if want.Verdict == plan.Pass || to.Addr().IsLoopback() && !from.onNode {
				continue
			}
			wg.Go(func() {
				// A first packet is often refused before its sender is done with sending it, which makes the
				// kernel miss the refusal; the second comes after a second.
				patience := 12 * time.Second
				if want.Verdict == plan.Discard {
					patience = 1500 * time.Millisecond
				}
				answer, err := askAt(t.Context(), from.netns, to, patience)
				if err := meets(want, from, answer, err); err != nil {
					t.Errorf("from %s to %s: %v\n%s", from.name, to, err, want)
				}
			})
		}
	}
	wg.Wait()
}

// frontends returns all addresses and ports that Services answer at.
func (c *cluster) frontends(p *plan.Plan) (found []netip.AddrPort) {
	nodes := append(slices.Clip(c.own), loopback(c.family).Addr())
	if c.family == model.IPv4 {
		nodes[len(nodes)-1] = netip.MustParseAddr("127.0.0.1")
	}
	for _, s := range p.Services {
		for _, f := range s.Ports[0].Frontends {
			if f.Kind != plan.NodePort {
				found = append(found, netip.AddrPortFrom(f.Addr, f.Port))
				continue
			}
			for _, a := range nodes {
				found = append(found, netip.AddrPortFrom(a, f.Port))
			}
		}
	}
	return slices.DeleteFunc(found, func(a netip.AddrPort) bool { return !a.IsValid() })
}

// askAt connects and returns the answer.
func askAt(ctx context.Context, from *sandbox.Netns, to netip.AddrPort, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// TestTrafficOfEveryClass sends real packets from everywhere to every frontend of every class of Services, with
// every kind of detector, and holds what becomes of them against the plan. The kernel APIs and families share
// the detectors in a short run.
func TestTrafficOfEveryClass(t *testing.T) {
	turn := 0
	for _, binary := range []string{"iptables-legacy", "iptables-nft"} {
		for _, f := range model.Families {
			turn++
			t.Run(fmt.Sprintf("%s/%s", binary, f), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, f, binary)
				clients := c.clients(t)
				detectors := c.detectors(clients[1].iface)
				for i := range nstest.Sized(2, len(detectors)) {
					detector := detectors[(2*turn+i)%len(detectors)]
					config := plan.Config{Family: f, NodeName: drawnNode, NodeAddrs: c.own[:1], Detector: detector,
						NodePorts: plan.NodePorts{All: true, Loopback: true}, MasqueradeMark: 1 << 20}
					p := plan.Build(config, c.inputs())
					if _, err := c.backend.Apply(t.Context(), full(p)); err != nil {
						t.Fatal(err)
					}
					t.Run(fmt.Sprint(detector), func(t *testing.T) { c.agrees(t, p, clients) })
				}
				c.sticks(t, clients[3])
			})
		}
	}
}

// detectors returns one of every kind, given the interface of the first pod.
func (c *cluster) detectors(iface string) []plan.Detector {
	pods := netip.PrefixFrom(c.ips[0], map[model.Family]int{model.IPv4: 16, model.IPv6: 48}[c.family]).Masked()
	return []plan.Detector{
		{Prefixes: []netip.Prefix{pods}}, {}, {Interface: iface}, {Prefixes: []netip.Prefix{host(c.ips[0]), host(c.ips[1])}}, {Interface: iface[:4] + "+"},
	}
}

// sticks asks a Service with session affinity again and again, over several of its frontends.
func (c *cluster) sticks(t *testing.T, from client) {
	t.Helper()
	answers := map[string]bool{}
	for i := range 12 {
		to := in(c.family, []string{"10.96.0.6", "198.51.100.16", "198.51.100.26"}[i%3])
		answer, err := askAt(t.Context(), from.netns, netip.AddrPortFrom(to, 80), 3*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		endpoint, _, _ := strings.Cut(answer, " ")
		answers[endpoint] = true
	}
	if len(answers) != 1 {
		t.Errorf("a client with session affinity got %v", answers)
	}
}

// TestNeighboursDoNotReachLoopback sends what route_localnet lets in (CVE-2020-8558): packets to 127.0.0.1 from a
// host next door. They arrive where svcproxy's rule is missing, and no longer once it is back.
func TestNeighboursDoNotReachLoopback(t *testing.T) {
	for _, binary := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(binary, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, model.IPv4, binary)
			neighbour := c.hosts[0]
			if err := neighbour.SetSysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
				t.Fatal(err)
			}
			for _, args := range []string{"rule add pref 10 lookup local", "rule del pref 0", "rule add pref 5 to 127.0.0.1 lookup 77",
				"route add 127.0.0.1/32 via 172.18.0.2 dev eth0 src 172.18.0.100 table 77"} {
				if out, err := neighbour.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
					t.Fatalf("ip %s: %v: %s", args, err, out)
				}
			}
			l, err := c.node.Listen(t.Context(), "tcp", "127.0.0.1:9999")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			to, config := netip.MustParseAddrPort("127.0.0.1:9999"), plan.Config{Family: model.IPv4, NodePorts: plan.NodePorts{All: true, Loopback: true}}
			connects := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				conn, err := neighbour.Dial(ctx, "tcp", to.String())
				if err == nil {
					conn.Close()
				}
				return err
			}
			apply := func() {
				t.Helper()
				if _, err := c.backend.Apply(t.Context(), plan.Change{Config: config, Full: true}); err != nil {
					t.Fatal(err)
				}
			}
			apply()
			if connects() == nil {
				t.Error("a neighbour reaches what listens on 127.0.0.1")
			}
			if out, err := c.node.Command(binary, "-w", "-F", chainNodePorts).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if err := connects(); err != nil {
				t.Errorf("without the rule nothing else is in the way, yet: %v", err)
			}
			apply()
			if connects() == nil {
				t.Error("a neighbour reaches what listens on 127.0.0.1 after the repair")
			}
		})
	}
}
