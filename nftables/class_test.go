package nftables

import (
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

func TestChainsNamesTellTheirClass(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range []uint32{1, 9, 10, 65535} {
		for _, nodePort := range []bool{false, true} {
			for _, local := range []bool{false, true} {
				for _, affinity := range []uint32{0, 1, 10800} {
					for _, masq := range []masquerade{masqNone, masqOthers, masqAll} {
						c := class{n: n, nodePort: nodePort, local: local, affinity: affinity, masq: masq}
						if got, ok := parseClass(c.chain()); !ok || got != c || seen[c.chain()] {
							t.Errorf("%+v is named %s, which is %+v, %v", c, c.chain(), got, ok)
						}
						seen[c.chain()] = true
					}
				}
			}
		}
	}
	for _, name := range []string{"", "lb-", "lb-0", "lb-03", "lb-x", "lb-3-", "lb-3-sticky-", "lb-3-sticky-0", "lb-3-masq-sticky-5", "lb-local-nodeport-3", "lb-99999999999", "theirs"} {
		if c, ok := parseClass(name); ok {
			t.Errorf("%q is the class %+v", name, c)
		}
	}
}

func TestIDsOfEndpointsDifferAndStay(t *testing.T) {
	b := builder{model.IPv4}
	name := model.ServicePortName{Service: serviceName(1), Protocol: model.TCP}
	endpoints, taken := b.endpoints(0, 60_000), map[string]bool{}
	all := endpointIDs(name, false, endpoints, taken)
	local := endpointIDs(name, true, endpoints[:100], taken)
	if len(taken) != len(all)+len(local) || len(all) != len(endpoints) || len(all[0]) != 4 {
		t.Fatalf("%d ids of %d endpoints in one list and %d in the other", len(taken), len(all), len(local))
	}
	moved := 0
	for i, id := range endpointIDs(name, false, endpoints[100:600], map[string]bool{}) {
		if all[100+i] != id {
			moved++ // it met another's id before
		}
	}
	if moved > 1 {
		t.Errorf("%d endpoints have another id in another list", moved)
	}
	if listID(name, true) == listID(name, false) {
		t.Error("both lists have one id")
	}
}

func TestWhatNoRuleCanDoIsAnErrorThatNamesTheService(t *testing.T) {
	b := builder{model.IPv4}
	for what, change := range map[string]func(*plan.ServicePort){
		"an endpoint of the other family":    func(p *plan.ServicePort) { p.Endpoints = builder{model.IPv6}.endpoints(0, 1) },
		"no endpoints":                       func(p *plan.ServicePort) { p.Endpoints = nil },
		"no local endpoints":                 func(p *plan.ServicePort) { p.Frontends[0].Outside.Local = true },
		"an unknown action":                  func(p *plan.ServicePort) { p.Frontends[0].Outside.Action = 9 },
		"an unknown kind":                    func(p *plan.ServicePort) { p.Frontends[0].Kind = 9 },
		"a node port with an address":        func(p *plan.ServicePort) { p.Frontends[0].Kind = plan.NodePort },
		"a frontend of the other family":     func(p *plan.ServicePort) { p.Frontends[0].Addr = builder{model.IPv6}.vip(1) },
		"other endpoints for pods":           func(p *plan.ServicePort) { p.Frontends[0].Pods.Action = plan.Drop },
		"masquerading for pods alone":        func(p *plan.ServicePort) { p.Frontends[0].Pods.Masquerade = true },
		"more endpoints than indices":        func(p *plan.ServicePort) { p.Endpoints = b.endpoints(0, localOffset) },
		"more local endpoints than indices.": func(p *plan.ServicePort) { p.Local = b.endpoints(0, localOffset) },
	} {
		s := b.service(1, b.endpoints(0, 2), model.TCP)
		change(&s.Ports[0])
		_, err := Render(planOf(b.config(), s))
		if se, ok := err.(*plan.ServiceError); !ok || se.Service != s.Name {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestTimeOutsAreWholeSecondsOfAtLeastOne(t *testing.T) {
	for d, want := range map[time.Duration]uint32{0: 0, time.Nanosecond: 1, time.Second: 1, 1500 * time.Millisecond: 2, 1 << 62: 4294967295} {
		if got := seconds(d); got != want {
			t.Errorf("%v: %d, want %d", d, got, want)
		}
	}
}
