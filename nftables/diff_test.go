package nftables

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// The kernel takes source ranges away in the order in which it got them in a thirtieth of the time.
func TestDiffOrdersSourceRanges(t *testing.T) {
	c := plan.Config{Family: model.IPv4}
	name := model.ServiceName{Namespace: "default", Name: "limited"}
	route := plan.Route{Action: plan.Reject}
	port := plan.ServicePort{Name: model.ServicePortName{Service: name, Port: "http", Protocol: model.TCP},
		Frontends: []plan.Frontend{{FrontendKey: plan.FrontendKey{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: model.TCP, Port: 80},
			Kind: plan.LoadBalancer, Pods: route, Node: route, Outside: route}}}
	for i := range 200 {
		port.SourceRanges = append(port.SourceRanges, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(i)}), 24))
	}
	limited, err := Render(&plan.Plan{Config: c, Services: map[model.ServiceName]*plan.Service{
		name: {Name: name, Ports: []plan.ServicePort{port}}}})
	if err != nil {
		t.Fatal(err)
	}
	limited.Exists = true
	empty, err := Render(&plan.Plan{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	empty.Exists = true
	for what, d := range map[string]*Delta{"added": Diff(empty, limited), "deleted": Diff(limited, empty)} {
		s := d.sets[sourceRangesSet]
		if s == nil || len(s.add)+len(s.del) != 200 {
			t.Fatalf("%s: not 200 source ranges: %+v", what, s)
		}
		if !slices.IsSortedFunc(slices.Concat(s.add, s.del), func(a, b KeyedElement) int { return strings.Compare(a.Key, b.Key) }) {
			t.Errorf("%s source ranges are not in order", what)
		}
	}
}
