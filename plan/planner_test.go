package plan

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"svcproxy/model"
)

var (
	config = Config{Family: model.IPv4, MasqueradeMark: DefaultMasqueradeMark}
	web    = model.ServiceName{Namespace: "default", Name: "web"}
	epoch  = time.Unix(1_700_000_000, 0)
)

func service(name model.ServiceName, age time.Duration, ips ...string) *model.Service {
	s := &model.Service{Name: name, Created: epoch.Add(-age), Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}}}
	for _, ip := range ips {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(ip))
	}
	return s
}

func slice(name string, endpoints ...model.Endpoint) *model.Slice {
	family := model.IPv4
	if len(endpoints) > 0 && endpoints[0].Addr.Is6() {
		family = model.IPv6
	}
	return &model.Slice{
		Name: model.SliceName{Namespace: "default", Name: name}, Service: web, Family: family,
		Ports:     []model.SlicePort{{Name: "http", Protocol: model.TCP, Port: 8080}},
		Endpoints: endpoints,
	}
}

func ready(ip string) model.Endpoint {
	return model.Endpoint{Addr: netip.MustParseAddr(ip), Ready: true, Serving: true}
}

func terminating(ip string) model.Endpoint {
	return model.Endpoint{Addr: netip.MustParseAddr(ip), Serving: true, Terminating: true}
}

func notReady(ip string) model.Endpoint { return model.Endpoint{Addr: netip.MustParseAddr(ip)} }

func TestEndpointsOfOnePort(t *testing.T) {
	for _, c := range []struct {
		name     string
		slices   []*model.Slice
		want     []string
		excluded map[string]Reason
	}{
		{name: "slices merge, in order", slices: []*model.Slice{slice("a", ready("10.244.0.4")), slice("b", ready("10.244.0.3"))},
			want: []string{"10.244.0.3:8080", "10.244.0.4:8080"}},
		{name: "the same endpoint in two slices counts once", slices: []*model.Slice{slice("a", ready("10.244.0.3")), slice("b", ready("10.244.0.3"))},
			want: []string{"10.244.0.3:8080"}},
		{name: "of duplicates the one that is not terminating counts", slices: []*model.Slice{slice("a", terminating("10.244.0.3")), slice("b", ready("10.244.0.3"))},
			want: []string{"10.244.0.3:8080"}},
		{name: "an endpoint that is not ready gets nothing", slices: []*model.Slice{slice("a", ready("10.244.0.3"), notReady("10.244.0.4"))},
			want: []string{"10.244.0.3:8080"}, excluded: map[string]Reason{"10.244.0.4": NotReady}},
		{name: "a terminating endpoint gets nothing while another is ready", slices: []*model.Slice{slice("a", ready("10.244.0.3"), terminating("10.244.0.4"))},
			want: []string{"10.244.0.3:8080"}, excluded: map[string]Reason{"10.244.0.4": Terminating}},
		{name: "terminating endpoints that serve are the last resort", slices: []*model.Slice{slice("a", notReady("10.244.0.3"), terminating("10.244.0.4"))},
			want: []string{"10.244.0.4:8080"}, excluded: map[string]Reason{"10.244.0.3": NotReady}},
		{name: "nobody gets at the node through an endpoint", slices: []*model.Slice{slice("a", ready("127.0.0.1"), ready("169.254.169.254"), ready("224.0.0.1"), ready("0.0.0.0"), ready("255.255.255.255"))},
			excluded: map[string]Reason{"127.0.0.1": BadAddress, "169.254.169.254": BadAddress, "224.0.0.1": BadAddress, "0.0.0.0": BadAddress, "255.255.255.255": BadAddress}},
		{name: "a bad address is no reason to forget the last resort", slices: []*model.Slice{slice("a", ready("127.0.0.1"), terminating("10.244.0.4"))},
			want: []string{"10.244.0.4:8080"}, excluded: map[string]Reason{"127.0.0.1": BadAddress}},
		{name: "the other family's slices don't count", slices: []*model.Slice{slice("a", ready("fd00::3")), slice("b", ready("10.244.0.3"))},
			want: []string{"10.244.0.3:8080"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Build(config, []Input{{web, service(web, 0, "10.96.0.1"), c.slices}})
			port := p.Services[web].Ports[0]
			var got []string
			for _, e := range port.Endpoints {
				got = append(got, e.AddrPort().String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("endpoints: got %v, want %v", got, c.want)
			}
			excluded := map[string]Reason{}
			for _, e := range port.Excluded {
				excluded[e.Endpoint.Addr.String()] = e.Reason
			}
			if !maps.Equal(excluded, c.excluded) {
				t.Errorf("excluded: got %v, want %v", excluded, c.excluded)
			}
			want := Balance
			if len(c.want) == 0 {
				want = Reject
			}
			if port.Frontends[0].Outside.Action != want {
				t.Errorf("action: got %v, want %v", port.Frontends[0].Outside.Action, want)
			}
		})
	}
}

func TestPortsMatchByNameAndProtocol(t *testing.T) {
	s := service(web, 0, "10.96.0.1")
	s.Ports = []model.ServicePort{{Name: "dns", Protocol: model.UDP, Port: 53}, {Name: "", Protocol: model.TCP, Port: 80}}
	sl := slice("a", ready("10.244.0.3"))
	sl.Ports = []model.SlicePort{{Name: "dns", Protocol: model.TCP, Port: 1}, {Name: "dns", Protocol: model.UDP, Port: 5353}, {Name: "", Protocol: model.TCP, Port: 2}}
	ports := Build(config, []Input{{web, s, []*model.Slice{sl}}}).Services[web].Ports
	for i, want := range []uint16{2, 5353} {
		if e := ports[i].Endpoints; len(e) != 1 || e[0].Port != want {
			t.Errorf("%v: got %v, want one endpoint at port %d", ports[i].Name, e, want)
		}
	}
}

func TestEachFamilyHasItsOwnFrontends(t *testing.T) {
	in := []Input{{web, service(web, 0, "10.96.0.1", "fd00::1"), nil}}
	for family, want := range map[model.Family]string{model.IPv4: "10.96.0.1", model.IPv6: "fd00::1"} {
		f := Build(Config{Family: family}, in).Services[web].Ports[0].Frontends
		if len(f) != 1 || f[0].Addr.String() != want {
			t.Errorf("%v: got %v, want %s alone", family, f, want)
		}
	}
}

func TestTheOlderServiceHoldsADisputedClusterIP(t *testing.T) {
	older, younger := model.ServiceName{Namespace: "z", Name: "older"}, model.ServiceName{Namespace: "a", Name: "younger"}
	p := NewPlanner(config)
	p.Update([]Input{{younger, service(younger, 0, "10.96.0.1"), nil}})
	changed := p.Update([]Input{{older, service(older, time.Hour, "10.96.0.1"), nil}})
	if len(changed) != 2 {
		t.Fatalf("changed: got %v, want both Services", slices.Collect(maps.Keys(changed)))
	}
	if port := changed[younger].Ports[0]; len(port.Frontends) != 0 || len(port.Lost) != 1 || port.Lost[0].Holder.Service != older {
		t.Errorf("the younger one: got %+v, want its frontend lost to %v", port, older)
	}
	if port := changed[older].Ports[0]; len(port.Frontends) != 1 {
		t.Errorf("the older one: got %+v, want its frontend", port)
	}

	changed = p.Update([]Input{{Name: older}})
	if s, ok := changed[older]; s != nil || !ok {
		t.Errorf("the deleted one: got %v, want nil", s)
	}
	if s := changed[younger]; s == nil || len(s.Ports[0].Frontends) != 1 {
		t.Errorf("the loser was not revived: %+v", s)
	}
}

func TestTheNameDecidesBetweenServicesOfOneAge(t *testing.T) {
	a, b := model.ServiceName{Namespace: "default", Name: "a"}, model.ServiceName{Namespace: "default", Name: "b"}
	p := Build(config, []Input{{b, service(b, 0, "10.96.0.1"), nil}, {a, service(a, 0, "10.96.0.1"), nil}})
	if len(p.Services[a].Ports[0].Frontends) != 1 || len(p.Services[b].Ports[0].Frontends) != 0 {
		t.Errorf("got %+v and %+v, want a to hold the frontend", p.Services[a], p.Services[b])
	}
}

// Whatever the order of changes, the incremental plan is the one that is built from nothing, what Update
// returned, put together, is that plan too, and it does with packets what is documented.
func TestIncrementalEqualsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawConfig(t)
		p := NewPlanner(c)
		inputs := map[model.ServiceName]Input{}
		told := map[model.ServiceName]*Service{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			in := drawInput(t)
			if in.Service == nil {
				delete(inputs, in.Name)
			} else {
				inputs[in.Name] = in
			}
			for name, s := range p.Update([]Input{in}) {
				if s == nil {
					delete(told, name)
				} else {
					told[name] = s
				}
			}
			all := slices.Collect(maps.Values(inputs))
			full := Build(c, all).Services
			same := func(a, b *Service) bool { return a.Equal(b) }
			if !maps.EqualFunc(full, p.Plan().Services, same) {
				t.Fatalf("the planner holds %v, a full plan is %v", p.Plan().Services, full)
			}
			if !maps.EqualFunc(full, told, same) {
				t.Fatalf("the updates add up to %v, a full plan is %v", told, full)
			}
			for range 5 {
				packet := drawPacket(t)
				if got, want := p.Plan().Trace(packet), reference(c, all, packet); !got.Equal(want) {
					t.Fatalf("%+v: the plan says %v, documented is %v", packet, got, want)
				}
			}
		}
		if len(inputs) == 0 && len(p.claims) != 0 {
			t.Fatalf("claims are left over: %v", p.claims)
		}
	})
}
