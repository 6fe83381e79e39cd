package world

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/test/nstest"
)

// everyQuestion asks from every place over every protocol and family, all at once.
func everyQuestion(t *testing.T, w *World, to func(*Place, model.Protocol, model.Family) netip.AddrPort, check func(Question, *Place, Result) error) {
	t.Helper()
	var wg sync.WaitGroup
	for _, from := range w.Places() {
		for protocol := range w.ports {
			for _, f := range w.families {
				q := Question{Protocol: protocol, To: to(from, protocol, f)}
				wg.Go(func() {
					r, err := from.Ask(q)
					if err == nil {
						err = check(q, from, r)
					}
					if err != nil {
						t.Errorf("%s asks %s %s: %v", from, q.To, q.Protocol, err)
					}
				})
			}
		}
	}
	wg.Wait()
}

func port(p model.Protocol) uint16 { return DefaultPorts[p][0] }

func is(want Verdict) func(Question, *Place, Result) error {
	return func(_ Question, _ *Place, r Result) error {
		if r.Verdict != want {
			return fmt.Errorf("%v, want %v", r, want)
		}
		return nil
	}
}

func TestEveryPlaceReachesEveryServer(t *testing.T) {
	t.Parallel()
	w := New(t, Config{})
	for _, server := range w.Places()[1:] {
		everyQuestion(t, w, func(_ *Place, p model.Protocol, f model.Family) netip.AddrPort {
			return netip.AddrPortFrom(server.Addr(f), port(p))
		}, func(q Question, from *Place, r Result) error {
			source := from.Addr(model.FamilyOf(q.To.Addr()))
			if from == w.Node && server.Kind == Pod {
				source = ofFamily(model.FamilyOf(source), w.Gateways)
			}
			want := Answer{q.To, netip.AddrPortFrom(source, r.From)}
			if from == server {
				want.Source = netip.AddrPortFrom(q.To.Addr(), r.From)
			}
			if r.Verdict != Answered || r.Answer != want || r.Lost > 0 {
				return fmt.Errorf("got %v, want %v", r, want)
			}
			return nil
		})
	}
}

// program makes the node treat five addresses of each family each in its way.
const program = `
table inet test {
	chain judge {
		ip daddr 10.96.0.2 drop
		ip6 daddr fd00:10:96::2 drop
		ip daddr 10.96.0.3 reject with icmp port-unreachable
		ip6 daddr fd00:10:96::3 reject with icmpv6 port-unreachable
		ip daddr 10.96.0.4 meta l4proto tcp reject with tcp reset
		ip6 daddr fd00:10:96::4 meta l4proto tcp reject with tcp reset
		ip daddr 10.96.0.4 reject
		ip6 daddr fd00:10:96::4 reject
	}
	chain forward { type filter hook forward priority 0; jump judge; }
	chain output { type filter hook output priority 0; jump judge; }
	chain translate {
		ip daddr 10.96.0.1 dnat ip to 10.244.0.11
		ip6 daddr fd00:10:96::1 dnat ip6 to fd00:10:244::11
	}
	chain prerouting { type nat hook prerouting priority -100; jump translate; }
	chain outputnat { type nat hook output priority -100; jump translate; }
	chain postrouting {
		type nat hook postrouting priority 100
		ct original ip daddr 10.96.0.1 masquerade
		ct original ip6 daddr fd00:10:96::1 masquerade
	}
}`

func service(f model.Family, n int) netip.Addr { return numbered(f, "10.96.0.", "fd00:10:96::", n) }

func TestEveryVerdictAtEveryPlace(t *testing.T) {
	t.Parallel()
	w := New(t, Config{})
	(&nstest.NS{Netns: w.Node.Netns}).RunInput(t, program, "nft", "-f", "-")
	for n, want := range map[int]Verdict{1: Answered, 2: Silent, 3: Refused, 4: Refused, 5: Unreachable} {
		t.Run(fmt.Sprintf("%d %s", n, want), func(t *testing.T) {
			begin := time.Now()
			everyQuestion(t, w, func(_ *Place, p model.Protocol, f model.Family) netip.AddrPort {
				return netip.AddrPortFrom(service(f, n), port(p))
			}, is(want))
			t.Logf("took %v", time.Since(begin).Round(time.Millisecond))
		})
	}
}

func TestMasqueradedAndHairpinSources(t *testing.T) {
	t.Parallel()
	w := New(t, Config{})
	(&nstest.NS{Netns: w.Node.Netns}).RunInput(t, program, "nft", "-f", "-")
	everyQuestion(t, w, func(_ *Place, p model.Protocol, f model.Family) netip.AddrPort {
		return netip.AddrPortFrom(service(f, 1), port(p))
	}, func(q Question, _ *Place, r Result) error {
		server := w.Pods[0].Addr(model.FamilyOf(q.To.Addr()))
		if want := w.Masquerade(server); r.Source.Addr() != want || r.Endpoint != netip.AddrPortFrom(server, q.To.Port()) {
			return fmt.Errorf("got %v, want the endpoint %s to see %s", r, server, want)
		}
		return nil
	})
}

// A path that carries nothing at all must not pass for a Service that drops.
func TestNoVerdictWithoutCanaries(t *testing.T) {
	t.Parallel()
	w := New(t, Config{Pods: 1, Hosts: 1})
	(&nstest.NS{Netns: w.Node.Netns}).RunInput(t, "table inet test { chain f { type filter hook forward priority 0; policy drop; }; }", "nft", "-f", "-")
	r, err := w.Hosts[0].Ask(Question{Protocol: model.UDP, To: netip.AddrPortFrom(w.Pods[0].Addr(model.IPv4), port(model.UDP))})
	if err == nil {
		t.Errorf("a node that forwards nothing led to the verdict %v", r)
	}
}

func TestPacketsComeByTheInterfaceThatThePlaceTells(t *testing.T) {
	t.Parallel()
	w := New(t, Config{})
	for _, from := range w.Places()[1:] {
		for _, f := range w.families {
			to := netip.AddrPortFrom(w.Pods[0].Addr(f), port(model.TCP))
			if from == w.Pods[0] {
				to = netip.AddrPortFrom(w.Pods[1].Addr(f), port(model.TCP))
			}
			p := w.Packet(from, model.TCP, netip.Addr{}, to)
			words := map[model.Family]string{model.IPv4: "ip", model.IPv6: "ip6"}[f]
			rule := fmt.Sprintf("table inet only { chain f { type filter hook forward priority 0; meta l4proto tcp tcp dport %d iifname %q %s saddr %s accept; meta l4proto tcp tcp dport %d drop; }; }",
				to.Port(), p.Interface, words, p.Source, to.Port())
			ns := &nstest.NS{Netns: w.Node.Netns}
			ns.RunInput(t, rule, "nft", "-f", "-")
			if r, err := from.Ask(Question{Protocol: model.TCP, To: to}); err != nil || r.Verdict != Answered {
				t.Errorf("%s, told to be behind %q with %s: %v, %v", from, p.Interface, p.Source, r, err)
			}
			ns.Run(t, "nft", "delete", "table", "inet", "only")
		}
	}
}

func TestSourcesAreThoseAskedFor(t *testing.T) {
	t.Parallel()
	w := New(t, Config{})
	own := netip.MustParseAddr("203.0.113.1")
	w.AddNodeAddr(t, own)
	for protocol := range w.ports {
		for _, source := range []netip.AddrPort{netip.AddrPortFrom(w.Node.Addrs[0], 1111), netip.AddrPortFrom(w.Gateways[0], 2222), netip.AddrPortFrom(own, 3333)} {
			r, err := w.Node.Ask(Question{Protocol: protocol, To: netip.AddrPortFrom(w.Pods[0].Addr(model.IPv4), port(protocol)), Source: source})
			if err != nil || r.Source != source {
				t.Errorf("%s from %s: %v, %v", protocol, source, r, err)
			}
		}
	}
	w.Node.Serve(t, model.UDP, 7000)
	w.Node.ServeAt(t, own, model.TCP, 7000)
	for _, from := range w.Places() {
		for q := range map[Question]bool{
			{Protocol: model.UDP, To: netip.AddrPortFrom(w.Node.Addrs[0], 7000)}: true,
			{Protocol: model.TCP, To: netip.AddrPortFrom(own, 7000)}:             true,
		} {
			p := w.Packet(from, q.Protocol, netip.Addr{}, q.To)
			if r, err := from.Ask(q); err != nil || r.Endpoint != q.To || r.Source.Addr() != p.Source {
				t.Errorf("%s asks the node's own %s: %v, %v; want to be seen as %s", from, q.To, r, err, p.Source)
			}
		}
	}
}

func TestNodeWithoutIPv6(t *testing.T) {
	t.Parallel()
	w := New(t, Config{Families: []model.Family{model.IPv4}})
	everyQuestion(t, w, func(_ *Place, p model.Protocol, f model.Family) netip.AddrPort {
		return netip.AddrPortFrom(w.Remote[0].Addr(f), port(p))
	}, is(Answered))
	if a := w.Node.Addr(model.IPv6); a.IsValid() {
		t.Errorf("the node has %s", a)
	}
}

func TestConnectionsStay(t *testing.T) {
	t.Parallel()
	w := New(t, Config{})
	for protocol := range w.ports {
		c, err := w.Hosts[0].Dial(Question{Protocol: protocol, To: netip.AddrPortFrom(w.Pods[0].Addr(model.IPv6), port(protocol))})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		first, err := c.Ask()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := c.Ask(); err != nil || again != first {
			t.Errorf("%s: first %v, then %v, %v", protocol, first, again, err)
		}
	}
}

func TestWorldsAreQuickAndApart(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 4 {
		begin := time.Now()
		w := New(t, Config{})
		t.Logf("made in %v", time.Since(begin).Round(time.Millisecond))
		to := netip.AddrPortFrom(w.Pods[0].Addr(model.IPv4), port(model.TCP))
		wg.Go(func() {
			if r, err := w.Hosts[1].Ask(Question{Protocol: model.TCP, To: to}); err != nil || r.Source.Port() != r.From {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
	wg.Wait()
}
