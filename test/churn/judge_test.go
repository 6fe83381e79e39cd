package churn

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// Two plans of a Service with session affinity: the first endpoint leaves at second 10, and nothing is left at
// second 20.
var (
	start  = time.Unix(1000, 0)
	one    = netip.MustParseAddrPort("10.244.0.1:8080")
	two    = netip.MustParseAddrPort("10.244.0.2:8080")
	asked  = ask{"pod", model.TCP, netip.MustParseAddrPort("10.96.0.10:80")}
	source = netip.MustParseAddrPort("10.244.0.9:40000")
)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

func newChecker() *checker {
	h := &history{}
	name := model.ServiceName{Namespace: "churn", Name: "web"}
	for i, endpoints := range [][]netip.AddrPort{{one, two}, {two}, {}} {
		port := plan.ServicePort{Name: model.ServicePortName{Service: name, Port: "tcp", Protocol: model.TCP}, Affinity: time.Hour}
		route := plan.Route{Action: plan.Balance}
		if len(endpoints) == 0 {
			route.Action = plan.Reject
		}
		port.Frontends = []plan.Frontend{{FrontendKey: plan.FrontendKey{Addr: asked.to.Addr(), Protocol: model.TCP, Port: 80}, Pods: route, Node: route, Outside: route}}
		for _, e := range endpoints {
			port.Endpoints = append(port.Endpoints, plan.Endpoint{Addr: e.Addr(), Port: e.Port()})
		}
		s := &plan.Service{Name: name, Ports: []plan.ServicePort{port}}
		moment := at(float64(10 * i))
		h.add(plan.Change{Full: i == 0, Services: map[model.ServiceName]*plan.Service{name: s}}, moment, moment.Add(time.Second))
	}
	return &checker{
		histories: map[model.Family]*history{model.IPv4: h}, masks: map[string]bool{"pod": true}, traced: map[traceKey]plan.Outcome{},
		packet: func(a ask) plan.Packet {
			return plan.Packet{Protocol: a.protocol, Source: source.Addr(), Interface: "veth0", Dest: a.to}
		},
		stops: map[netip.AddrPort][]time.Time{one: {at(15)}},
	}
}

func TestEveryKindOfWrongIsJudged(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		record
		want string
	}{
		"an endpoint in force":                    {record{begun: at(5), ended: at(5), endpoint: one, source: source}, ""},
		"removed while it was asked":              {record{begun: at(9), ended: at(12), endpoint: one, source: source}, ""},
		"removed before it was asked":             {record{begun: at(12), ended: at(12), endpoint: one, source: source}, "not so by any"},
		"masqueraded without need":                {record{begun: at(5), ended: at(5), endpoint: one, source: two}, "not so by any"},
		"lost while there were endpoints":         {record{begun: at(5), ended: at(6), err: broken}, "failed"},
		"its SYN lost while there were some":      {record{begun: at(5), ended: at(6), endpoint: one, source: source, repeats: 1}, "lost"},
		"refused without endpoints":               {record{begun: at(25), ended: at(25), err: broken}, ""},
		"a kept flow one sync late":               {record{kind: keptUDP, begun: at(12), ended: at(12), endpoint: one}, ""},
		"a kept flow two syncs late":              {record{kind: keptUDP, begun: at(25), ended: at(25), endpoint: one}, "more than one sync"},
		"a kept connection of a stopped server":   {record{kind: keptTCP, opened: at(5), begun: at(14), ended: at(16), peer: one, err: broken}, ""},
		"a kept connection of a live server":      {record{kind: keptTCP, opened: at(5), begun: at(14), ended: at(16), peer: two, err: broken}, "was alive"},
		"a kept connection answered by another":   {record{kind: keptTCP, opened: at(5), begun: at(14), ended: at(16), peer: two, endpoint: one}, "was answered by"},
		"a kept connection that a removal leaves": {record{kind: keptTCP, opened: at(5), begun: at(14), ended: at(14), peer: one, endpoint: one}, ""},
	} {
		c.ask = asked
		err := newChecker().judge(c.record)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestAffinityIsJudged(t *testing.T) {
	answered := func(seconds float64, by netip.AddrPort) record {
		return record{ask: asked, begun: at(seconds), ended: at(seconds), endpoint: by, source: source}
	}
	for name, c := range map[string]struct {
		records []record
		wrong   int
	}{
		"a client stays":                      {[]record{answered(2, one), answered(3, one)}, 0},
		"a client leaves what is there":       {[]record{answered(2, one), answered(3, two)}, 1},
		"a client leaves what goes":           {[]record{answered(2, one), answered(12, two)}, 0},
		"a client is taken from what remains": {[]record{answered(2, two), answered(5, one)}, 1},
	} {
		if wrong := newChecker().judgeAffinity(c.records); len(wrong) != c.wrong {
			t.Errorf("%s: got %v, want %d", name, wrong, c.wrong)
		}
	}
}
