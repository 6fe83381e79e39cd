package iptables

import (
	"net/netip"
	"strings"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

func TestFewServicesStayFlat(t *testing.T) {
	for _, f := range model.Families {
		p := planOf(f)
		for i := range flatLimit {
			s := service(f, i, 1)
			p.Services[s.Name] = s
		}
		if got := len(render(t, p).NAT.Chains[chainServices]); got != flatLimit {
			t.Errorf("%s: %d rules in KUBE-SERVICES, want %d", f, got, flatLimit)
		}
	}
}

// TestManyServicesAreFound looks up every frontend as the kernel would, and counts the rules on the way.
func TestManyServicesAreFound(t *testing.T) {
	const n = 10_000
	for _, f := range model.Families {
		p := planOf(f)
		for i := range n {
			s := service(f, i, i%2)
			p.Services[s.Name] = s
		}
		r := render(t, p)
		worst := 0
		for i := range n {
			table, want := &r.Filter, targetReject
			if i%2 == 1 {
				table, want = &r.NAT, model.ServiceChain(service(f, i, 1).Ports[0].Name)
			}
			met, target := lookup(table, chainServices, vip(f, i), 80)
			if target != want {
				t.Fatalf("%s: Service %d leads to %q, want %s", f, i, target, want)
			}
			worst = max(worst, met)
		}
		miss, target := lookup(&r.NAT, chainServices, pod(f, 0, 0), 80)
		t.Logf("%s: a packet to a Service meets at most %d rules, one to a pod %d", f, worst, miss)
		if worst > 150 || miss > 16 || target != "" {
			t.Errorf("%s: at most %d rules to a Service, %d to a pod, which leads to %q", f, worst, miss, target)
		}
	}
}

// lookup follows a new TCP connection through a chain, and returns how many rules it meets and where it is
// led in the end.
func lookup(t *Table, chain string, to netip.Addr, port uint16) (met int, target string) {
	for _, r := range t.Chains[chain] {
		met++
		if !r.Dest.Contains(to) || r.Protocol != 0 && r.Protocol != model.TCP || r.DestPort != 0 && r.DestPort != port {
			continue
		}
		if r.DestPort != 0 {
			return met, r.Target
		}
		more, target := lookup(t, r.Target, to, port)
		if met += more; target != "" {
			return met, target
		}
	}
	return met, ""
}

// TestOneMoreServiceLeavesTheTreeAlone crosses the limits one Service at a time.
func TestOneMoreServiceLeavesTheTreeAlone(t *testing.T) {
	s, err := newState(config(model.IPv4), usual, map[model.ServiceName]*plan.Service{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 700 {
		one := service(model.IPv4, i, 1)
		p, err := s.step(map[model.ServiceName]*plan.Service{one.Name: one})
		if err != nil {
			t.Fatal(err)
		}
		d := diff(tableNAT, p.base, p.want, nil)
		if limit := 2*flatLimit + 40; d.rules > limit || i > 500 && d.rules > 2*leafLimit+40 {
			t.Errorf("Service %d writes %d rules", i, d.rules)
		}
		s.commit(p)
	}
}

func TestPortsOfOneAddressShareALeaf(t *testing.T) {
	big := service(model.IPv4, 1, 1)
	for i := range 500 {
		port := big.Ports[0]
		port.Name.Port = "p" + strings.Repeat("x", i)
		port.Frontends = []plan.Frontend{port.Frontends[0]}
		port.Frontends[0].Port = uint16(1000 + i)
		big.Ports = append(big.Ports, port)
	}
	r := render(t, planOf(model.IPv4, big, service(model.IPv4, 2, 1)))
	for _, port := range []uint16{80, 1000, 1499} {
		if _, target := lookup(&r.NAT, chainServices, vip(model.IPv4, 1), port); target == "" {
			t.Errorf("port %d is not found", port)
		}
	}
}
