package nftables

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

// sticky is a world with a backend and one way to ask in it.
type sticky struct {
	land
	*world.World
	backend *Backend
	ns      *nstest.NS
}

// marks counts the packets of new connections whose mark, set by somebody else, did not survive but for the bit
// that is svcproxy's.
const marks = `
table inet others {
	chain first { type filter hook prerouting priority -300; meta mark set 0x5a80bfff; }
	chain first-output { type route hook output priority -300; meta mark set 0x5a80bfff; }
	chain last {
		type filter hook postrouting priority 300
		ct status dnat meta mark and 0xffffbfff != 0x5a80bfff counter comment "lost"
		ct status dnat meta mark and 0xffffbfff == 0x5a80bfff counter comment "kept"
	}
}
`

func newSticky(t *testing.T, l land) *sticky {
	t.Helper()
	w := world.New(t, world.Config{Families: []model.Family{l.family}, Pods: 3, RemotePods: 1, Hosts: 2})
	s := &sticky{land: l, World: w, ns: &nstest.NS{Netns: w.Node.Netns}}
	s.open(t)
	s.ns.RunInput(t, marks, "nft", "-f", "-")
	return s
}

// kept fails the test if any mark did not survive.
func (s *sticky) kept(t *testing.T) {
	t.Helper()
	out := s.ns.Run(t, "nft", "list", "table", "inet", "others")
	if !strings.Contains(out, `counter packets 0 bytes 0 comment "lost"`) || strings.Contains(out, `counter packets 0 bytes 0 comment "kept"`) {
		t.Errorf("others' mark did not survive:\n%s", out)
	}
}

func (s *sticky) open(t *testing.T) {
	t.Helper()
	b, err := New(Options{Family: s.family, NetNS: s.Node.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	s.backend = b
}

// asks makes connections and returns how many each endpoint answered.
func (s *sticky) asks(t *testing.T, n int, from *world.Place, to ...netip.AddrPort) map[netip.Addr]int {
	t.Helper()
	got := map[netip.Addr]int{}
	for range n {
		for _, dest := range to {
			r, err := from.Ask(world.Question{Protocol: model.TCP, To: dest})
			if err != nil || r.Verdict != world.Answered || r.Lost > 0 {
				t.Fatalf("%s to %s: %v, %v", from, dest, r, err)
			}
			got[r.Endpoint.Addr()]++
		}
	}
	return got
}

// only returns the only endpoint that answered.
func only(t *testing.T, what string, got map[netip.Addr]int) netip.Addr {
	t.Helper()
	if len(got) != 1 {
		t.Fatalf("%s: %v answered", what, got)
	}
	for a := range got {
		return a
	}
	return netip.Addr{}
}

func (s *sticky) frontends(i int) []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(at(s.clusterIPs, i), 80), netip.AddrPortFrom(at(s.externals, i), 80),
		netip.AddrPortFrom(at(s.balancers, i), 80), netip.AddrPortFrom(s.Node.Addr(s.family), 30000+uint16(i))}
}

func lasting(d time.Duration) func(*model.Service) {
	return func(s *model.Service) { s.Affinity = d }
}

func TestAClientStaysWithItsEndpointOverAllFrontends(t *testing.T) {
	for _, l := range lands {
		t.Run(l.family.String(), func(t *testing.T) {
			s := newSticky(t, l)
			defer s.kept(t)
			c := l.config(s.World)
			three := plan.Build(c, []plan.Input{l.service(1, 3, 0, lasting(time.Hour))})
			apply(t, s.backend, full(three))
			bound := map[*world.Place]netip.Addr{}
			for _, from := range []*world.Place{s.Hosts[0], s.Remote[0], s.Pods[0], s.Node} {
				bound[from] = only(t, from.Name, s.asks(t, 4, from, s.frontends(1)...))
			}
			s.ns.Run(t, "nft", "list", "ruleset")
			s.ns.Run(t, "nft", "-j", "list", "ruleset")

			s.open(t) // what was learned is no drift, and outlives a restart
			if res := apply(t, s.backend, full(three)); res.Writes != 0 || res.Drift != 0 {
				t.Errorf("after clients were learned: %+v", res)
			}
			s.goneAndBack(t, c, bound)
		})
	}
}

// goneAndBack takes a client's endpoint away and brings it back.
func (s *sticky) goneAndBack(t *testing.T, c plan.Config, bound map[*world.Place]netip.Addr) {
	t.Helper()
	host := s.Hosts[0]
	in := s.service(1, 3, 0, lasting(time.Hour))
	for i, e := range in.Slices[0].Endpoints {
		if e.Addr == bound[host] {
			in.Slices[0].Endpoints = append(in.Slices[0].Endpoints[:i:i], in.Slices[0].Endpoints[i+1:]...)
			break
		}
	}
	two := plan.Build(c, []plan.Input{in})
	apply(t, s.backend, plan.Change{Config: c, Services: two.Services})
	next := only(t, "after its endpoint went", s.asks(t, 4, host, s.frontends(1)...))
	if next == bound[host] {
		t.Fatalf("%s answers though it went", next)
	}
	for from, e := range bound {
		if e != bound[host] {
			if now := only(t, from.Name, s.asks(t, 2, from, s.frontends(1)...)); now != e {
				t.Errorf("%s moved from %s to %s", from, e, now)
			}
		}
	}
	three := plan.Build(c, []plan.Input{s.service(1, 3, 0, lasting(time.Hour))})
	apply(t, s.backend, plan.Change{Config: c, Services: three.Services})
	if now := only(t, "after it came back", s.asks(t, 4, host, s.frontends(1)...)); now != next {
		t.Errorf("the client moved from %s to %s", next, now)
	}
}

// TestAClientIsFreeAgainWhenItsEndpointWasAway asks nothing while the endpoint is away, many times: a client that
// is free gets the same endpoint again half of the time.
func TestAClientIsFreeAgainWhenItsEndpointWasAway(t *testing.T) {
	for _, l := range lands {
		t.Run(l.family.String(), func(t *testing.T) {
			s := newSticky(t, l)
			c := l.config(s.World)
			lists := func(pods, remote int) plan.Change {
				in := l.service(1, pods, remote, func(m *model.Service) { m.ExternalLocal, m.Affinity = true, time.Hour })
				return plan.Change{Config: c, Services: plan.Build(c, []plan.Input{in}).Services}
			}
			first := lists(2, 1)
			first.Full = true
			apply(t, s.backend, first)
			outside, inside := s.frontends(1)[1:], s.frontends(1)
			last := world.PodAddr(l.family, 1)
			moved := map[*world.Place]bool{}
			for range 30 {
				bound := map[*world.Place]netip.Addr{
					s.Hosts[0]: only(t, "outside", s.asks(t, 1, s.Hosts[0], outside...)),
					s.Hosts[1]: only(t, "outside", s.asks(t, 1, s.Hosts[1], outside...)),
					s.Pods[0]:  only(t, "inside", s.asks(t, 1, s.Pods[0], inside...)),
				}
				apply(t, s.backend, lists(1, 1))
				apply(t, s.backend, lists(2, 1))
				for from, e := range bound {
					to := from.Name
					now := only(t, to, s.asks(t, 1, from, outside...))
					if e != last && now != e {
						t.Fatalf("%s moved from %s, which did not leave, to %s", from, e, now)
					}
					moved[from] = moved[from] || e == last && now != e
				}
				if moved[s.Hosts[0]] && moved[s.Hosts[1]] && moved[s.Pods[0]] {
					return
				}
				apply(t, s.backend, lists(0, 0)) // and with the others everybody else is free
				apply(t, s.backend, lists(2, 1))
			}
			t.Errorf("clients who were free of the endpoint that left: %v", moved)
		})
	}
}

func TestAffinityKeepsToTheListInUse(t *testing.T) {
	for _, l := range lands {
		t.Run(l.family.String(), func(t *testing.T) {
			s := newSticky(t, l)
			defer s.kept(t)
			c := l.config(s.World)
			in := l.service(1, 1, 1, func(m *model.Service) { m.ExternalLocal, m.Affinity = true, time.Hour })
			apply(t, s.backend, full(plan.Build(c, []plan.Input{in})))
			for range 3 {
				if e := only(t, "outside", s.asks(t, 2, s.Hosts[0], s.frontends(1)[1:]...)); e != world.PodAddr(l.family, 0) {
					t.Errorf("%s answers though it is not on this node", e)
				}
				only(t, "node", s.asks(t, 2, s.Node, s.frontends(1)...))
			}
		})
	}
}

func TestWhoIsNotRememberedConnectsAllTheSame(t *testing.T) {
	least := maps.Clone(minSetSizes)
	minSetSizes[affinityMap] = 2
	defer func() { minSetSizes = least }()
	for _, l := range lands {
		t.Run(l.family.String(), func(t *testing.T) {
			s := newSticky(t, l)
			defer s.kept(t)
			var inputs []plan.Input
			for i := range 5 {
				inputs = append(inputs, l.service(1+i, 2, 0, lasting(time.Hour)))
			}
			apply(t, s.backend, full(plan.Build(l.config(s.World), inputs)))
			got := map[netip.Addr]int{}
			for i := range inputs {
				for a, n := range s.asks(t, 6, s.Hosts[1], s.frontends(1+i)...) {
					got[a] += n
				}
			}
			if len(got) != 2 {
				t.Errorf("endpoints that answered: %v", got)
			}
			if out := s.learned(t); strings.Count(out, "expires") != 2 {
				t.Errorf("learned: %s", out)
			}
		})
	}
}

func (s *sticky) learned(t *testing.T) string {
	t.Helper()
	return s.ns.Run(t, "nft", "list", "map", familyWord(s.family), TableName, affinityMap)
}

func TestAClientIsForgottenInTime(t *testing.T) {
	s := newSticky(t, lands[0])
	defer s.kept(t)
	apply(t, s.backend, full(plan.Build(s.config(s.World), []plan.Input{s.service(1, 2, 0, lasting(time.Second))})))
	s.asks(t, 1, s.Hosts[0], s.frontends(1)[0])
	if out := s.learned(t); !strings.Contains(out, "timeout 1s") {
		t.Fatalf("learned: %s", out)
	}
	nstest.Eventually(t, 5*time.Second, func() error {
		if out := s.learned(t); strings.Contains(out, "expires") {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
}

// TestEveryClientOfAnEndpointThatLeavesIsReleased puts many clients into the map, as many packets would.
func TestEveryClientOfAnEndpointThatLeavesIsReleased(t *testing.T) {
	for _, f := range model.Families {
		b := builder{f}
		backend, ns, _ := open(t, f)
		apply(t, backend, full(planOf(b.config(), clinging(b, 1, b.endpoints(0, 3), b.endpoints(0, 2)))))
		var elements []string
		for e := range endpointsByBinding(&clinging(b, 1, b.endpoints(0, 3), b.endpoints(0, 2)).Ports[0]) {
			// nft takes the number in a map's data for one in network order.
			list, endpoint := binary.NativeEndian.Uint32([]byte(e.list)), binary.BigEndian.Uint32([]byte(e.endpoint))
			for range nstest.Sized(500, 10_000) {
				elements = append(elements, fmt.Sprintf("%s . %#x timeout 1h : %#x", b.endpoint(1<<16+len(elements)).Addr, list, endpoint))
			}
		}
		ns.RunInput(t, fmt.Sprintf("add element %s %s %s { %s }\n", familyWord(f), TableName, affinityMap, strings.Join(elements, ", ")), "nft", "-f", "-")
		start := time.Now()
		apply(t, backend, partial(b.config(), clinging(b, 1, b.endpoints(0, 2), b.endpoints(1, 2))))
		t.Logf("%s: %d clients, two in five released in %v", f, len(elements), time.Since(start))
		left := strings.Count(ns.Run(t, "nft", "list", "map", familyWord(f), TableName, affinityMap), "expires")
		if left != len(elements)/5*3 || len(backend.departed) != 0 {
			t.Errorf("%s: %d of %d clients are left", f, left, len(elements))
		}
	}
}
