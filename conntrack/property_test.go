package conntrack

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/plan"
)

// The worlds of the properties are small, so that things meet: few addresses, ports and Services.

// draw is one source of random choices.
type draw struct {
	*rapid.T
	f model.Family
}

func (d draw) yes(what string) bool         { return rapid.Bool().Draw(d.T, what) }
func (d draw) below(n int, what string) int { return rapid.IntRange(0, n-1).Draw(d.T, what) }

func (d draw) some(what string, most int, make func() netip.Addr) (all []netip.Addr) {
	for range d.below(most+1, what) {
		all = append(all, make())
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

var portNumbers = []uint16{53, 54, 30053, 30054}

func (d draw) port() uint16 { return portNumbers[d.below(len(portNumbers), "port")] }

// external returns an address of the node or of nobody.
func (d draw) external() netip.Addr { return addr(d.f, 18, 1+d.below(4, "external")) }

func (d draw) clusterIP() netip.Addr { return addr(d.f, 96, 1+d.below(4, "ClusterIP")) }

// clusterRange is where ClusterIPs come from.
func clusterRange(f model.Family) netip.Prefix {
	return netip.PrefixFrom(addr(f, 96, 0), f.Bits()/2).Masked()
}

func (d draw) podAddr() netip.Addr { return addr(d.f, 244, 1+d.below(5, "pod")) }

// ownAddrs returns some of the addresses of external.
func (d draw) ownAddrs() []netip.Prefix {
	own := []netip.Prefix{netip.PrefixFrom(loopback(d.f), d.f.Bits())}
	for _, a := range d.some("own", 3, d.external) {
		own = append(own, netip.PrefixFrom(a, d.f.Bits()))
	}
	return own
}

func (d draw) config() plan.Config {
	c := plan.Config{Family: d.f, NodeName: "node-a", Zone: "zone-a", NodePorts: plan.NodePorts{All: d.yes("all"), Loopback: d.yes("loopback")}}
	if !c.NodePorts.All {
		for _, a := range d.some("nodePortAddresses", 2, d.external) {
			c.NodePorts.Prefixes = append(c.NodePorts.Prefixes, netip.PrefixFrom(a, d.f.Bits()))
		}
	}
	if d.yes("ranges known") {
		c.ServiceCIDRs = []netip.Prefix{clusterRange(d.f)}
	}
	return c
}

// input returns a Service, or none, of which there are three.
func (d draw) input() plan.Input {
	name := model.ServiceName{Namespace: "ns", Name: []string{"a", "b", "c"}[d.below(3, "name")]}
	if d.below(5, "gone") == 0 {
		return plan.Input{Name: name}
	}
	s := &model.Service{
		Name: name, ClusterIPs: []netip.Addr{d.clusterIP()}, ExternalIPs: d.some("externalIPs", 1, d.external),
		LoadBalancerIPs: d.some("load balancers", 1, d.external), InternalLocal: d.yes("internal"), ExternalLocal: d.yes("external"),
	}
	slice := &model.Slice{Name: model.SliceName{Namespace: "ns", Name: name.Name + "-1"}, Service: name, Family: d.f}
	protocols := []model.Protocol{model.UDP, model.UDP, model.TCP}
	for i := range 1 + d.below(2, "ports") {
		p := model.ServicePort{Name: []string{"x", "y"}[i], Protocol: protocols[d.below(3, "protocol")], Port: d.port()}
		if d.yes("node port") {
			p.NodePort = d.port()
		}
		s.Ports = append(s.Ports, p)
		slice.Ports = append(slice.Ports, model.SlicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(5353 + d.below(2, "target"))})
	}
	for range d.below(4, "endpoints") {
		e := model.Endpoint{Addr: d.podAddr(), Ready: d.yes("ready"), NodeName: []string{"node-a", "node-b"}[d.below(2, "node")]}
		e.Serving = e.Ready || d.yes("serving")
		e.Terminating = !e.Ready && d.yes("terminating")
		if d.yes("hinted") {
			e.ZoneHints = []string{[]string{"zone-a", "zone-b"}[d.below(2, "zone")]}
		}
		slice.Endpoints = append(slice.Endpoints, e)
	}
	return plan.Input{Name: name, Service: s, Slices: []*model.Slice{slice}}
}

// dest returns an address that a client may send to.
func (d draw) dest() netip.AddrPort {
	a := []func() netip.Addr{d.clusterIP, d.external, d.podAddr, func() netip.Addr { return loopback(d.f) }}[d.below(4, "to")]()
	return netip.AddrPortFrom(a, d.port())
}

// anyFlow returns any flow at all.
func (d draw) anyFlow() Flow {
	fl := flow(d.f, d.dest(), netip.AddrPortFrom(d.podAddr(), uint16(5353+d.below(2, "target"))))
	if d.below(3, "untranslated") == 0 {
		fl.Reply.Source = fl.Original.Dest
	}
	if d.below(8, "protocol") == 0 {
		fl.Protocol = model.TCP
	}
	fl.Zone = uint16(d.below(10, "zone") / 9)
	return fl
}

// stalePlainly is the definition of a stale flow, for one flow at a time and without any index.
func stalePlainly(s Situation, f Flow) bool {
	if f.Protocol != model.UDP || f.Zone != 0 || model.FamilyOf(f.Original.Dest.Addr()) != s.Plan.Config.Family {
		return false
	}
	to, answers := f.Original.Dest, f.Reply.Source
	packet := plan.Packet{Protocol: model.UDP, Source: f.Original.Source.Addr(), Dest: to}
	answersHere := func(at plan.NodePorts) bool { return s.Host.Own(to.Addr()) && at.Match(to.Addr()) }
	var holder *plan.ServicePort
	for _, exact := range []bool{true, false} {
		for _, service := range s.Plan.Services {
			for i, p := range service.Ports {
				for _, fe := range p.Frontends {
					same := fe.Protocol == packet.Protocol && fe.Port == to.Port()
					if exact && same && fe.Addr == to.Addr() || !exact && same && fe.Kind == plan.NodePort && answersHere(s.Plan.Config.NodePorts) {
						if holder == nil {
							holder = &service.Ports[i]
						}
					}
				}
			}
		}
	}
	if holder != nil {
		for _, e := range slices.Concat(holder.Endpoints, holder.Local) {
			if e.AddrPort() == answers {
				return false
			}
		}
		for _, e := range holder.Excluded {
			if e.Serving && e.Endpoint.AddrPort() == answers {
				return false
			}
		}
		return true
	}
	if answers == to {
		return false
	}
	for key, places := range s.Tombstones {
		if key.Protocol == model.UDP && key.Port == to.Port() && (key.Addr == to.Addr() || !key.Addr.IsValid() && slices.ContainsFunc(places, answersHere)) {
			return true
		}
	}
	for _, service := range s.Plan.Services {
		for _, p := range service.Ports {
			for _, fe := range p.Frontends {
				if s.Start && fe.Kind == plan.NodePort && fe.Protocol == model.UDP && fe.Port == to.Port() && s.Host.Own(to.Addr()) {
					return true
				}
			}
		}
	}
	return s.Start && slices.ContainsFunc(s.Plan.Config.ServiceCIDRs, func(r netip.Prefix) bool { return r.Contains(to.Addr()) })
}

// history is a cleaner that is told of random changes.
type history struct {
	draw
	*Cleaner
	planner *plan.Planner
	acked   map[model.ServiceName]*plan.Service
	table   *fakeKernel
	first   bool
}

func newHistory(d draw) *history {
	table := &fakeKernel{own: d.ownAddrs()}
	return &history{draw: d, Cleaner: NewCleaner(d.f, table), planner: plan.NewPlanner(d.config()),
		acked: map[model.ServiceName]*plan.Service{}, table: table, first: true}
}

// change plans a random change and acknowledges it, as a pipeline does.
func (h *history) change() (full bool) {
	full = h.first || h.below(4, "full") == 0
	h.first = false
	if full && h.yes("configure") {
		h.planner.SetConfig(h.config())
	}
	var inputs []plan.Input
	for range h.below(3, "changes") {
		in := h.input()
		if !slices.ContainsFunc(inputs, func(o plan.Input) bool { return o.Name == in.Name }) {
			inputs = append(inputs, in)
		}
	}
	changed := h.planner.Update(inputs)
	c := plan.Change{Config: h.planner.Config(), Services: changed, Full: full}
	if full {
		c.Services = h.planner.Plan().Services
		// One that is gone may stay programmed as it was.
		for _, name := range slices.SortedFunc(maps.Keys(h.acked), model.ServiceName.Compare) {
			if c.Services[name] == nil && h.yes("hold "+name.Name) {
				c.Hold = map[model.ServiceName]bool{name: true}
			}
		}
	}
	h.settle(&c)
	h.Acknowledged(c, h.acked)
	if full {
		maps.DeleteFunc(h.acked, func(name model.ServiceName, _ *plan.Service) bool { return !c.Hold[name] })
	}
	for name, s := range c.Services {
		if s == nil {
			delete(h.acked, name)
		} else {
			h.acked[name] = s
		}
	}
	return full
}

// settle takes what others claim now from Services that stay programmed as they were.
func (h *history) settle(c *plan.Change) {
	planned := h.planner.Plan().Services
	for name, old := range h.acked {
		for key := range frontendsOf(old) {
			if planned[name] == nil && c.Services[name] == nil && claimed(c.Services, key) {
				delete(c.Hold, name)
				if !c.Full {
					c.Services[name] = nil
				}
			}
		}
	}
}

func claimed(by map[model.ServiceName]*plan.Service, key plan.FrontendKey) bool {
	for _, s := range by {
		if frontendsOf(s)[key] != nil {
			return true
		}
	}
	return false
}

func (h *history) plan() plan.Plan {
	return plan.Plan{Config: h.planner.Config(), Services: h.acked}
}

func (h *history) situation(start bool) Situation {
	return Situation{h.plan(), h.journal.tombstones, NewHost(h.table.own), start}
}

func eachDrawn(t *testing.T, property func(d draw)) {
	for _, f := range model.Families {
		t.Run(f.String(), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { property(draw{rt, f}) })
		})
	}
}

func TestStaleIsWhatTheDefinitionSays(t *testing.T) {
	stale, healthy := 0, 0
	eachDrawn(t, func(d draw) {
		h := newHistory(d)
		for range 1 + d.below(4, "steps") {
			h.change()
		}
		s := h.situation(d.yes("start"))
		var all, want []Flow
		for range 40 {
			f := d.anyFlow()
			all = append(all, f)
			if stalePlainly(s, f) {
				want = append(want, f)
			}
		}
		got := slices.Collect(Stale(s, slices.Values(all)))
		if !slices.Equal(got, want) {
			d.Fatalf("stale: %v\nwant %v", got, want)
		}
		stale, healthy = stale+len(want), healthy+len(all)-len(want)
	})
	if stale*50 < healthy {
		t.Errorf("only %d of %d flows were stale: the property says little", stale, stale+healthy)
	}
}

// A clean-up that is skipped is one that would have found nothing, whatever flows the rules made meanwhile.
func TestNothingIsStaleAfterACleanUpThatWasSkipped(t *testing.T) {
	skipped, ran := 0, 0
	eachDrawn(t, func(d draw) {
		h := newHistory(d)
		ours := map[Flow]bool{} // made by the rules for a frontend
		// A node port's flow at an address that is the node's no longer is left alone, also when it is again.
		readdressed := false
		for step := range 2 + d.below(10, "steps") {
			full := h.change()
			if d.below(6, "readdress") == 0 {
				h.table.own, readdressed = h.ownAddrs(), true
			}
			if d.below(3, "failed") > 0 { // else there was no clean-up, as the sync failed after all
				s := h.situation(!h.settledFor(h.planner.Config()))
				report, err := h.Clean(t.Context(), Occasion{Plan: h.plan(), Full: full})
				if err != nil {
					d.Fatal(err)
				}
				if report.Skipped {
					skipped++
				} else {
					ran++
				}
				for _, f := range h.table.flows {
					switch {
					case stalePlainly(s, f):
						d.Fatalf("step %d: skipped: %t, but stale: %s", step, report.Skipped, f)
					case ours[f] && newIndex(&s).holder(f.Original.Dest) == nil && (!readdressed || clusterRange(d.f).Contains(f.Original.Dest.Addr())):
						d.Fatalf("step %d: left, though its frontend is gone: %s", step, f)
					}
				}
			}
			for range 10 {
				f, frontend := h.made()
				h.table.flows = append(h.table.flows, f)
				ours[f] = frontend
			}
		}
		if h.table.left != 0 {
			d.Fatalf("%d tables were not closed", h.table.left)
		}
	})
	if skipped < 5 || ran < 5 {
		t.Errorf("%d skipped, %d not: the property says little", skipped, ran)
	}
}

// made returns a flow as the rules that are acknowledged would make it, and whether it is for a frontend.
func (h *history) made() (f Flow, frontend bool) {
	f = h.anyFlow()
	f.Reply.Source = f.Original.Dest
	s := h.situation(false)
	p := newIndex(&s).holder(f.Original.Dest)
	switch {
	case p == nil:
		if h.below(4, "others") == 0 { // somebody else translates it
			f.Reply.Source = netip.AddrPortFrom(h.podAddr(), 9999)
		}
	case f.Protocol == model.UDP:
		all := slices.Concat(p.Endpoints, p.Local)
		if len(all) == 0 { // refused: no flow at all
			f.Protocol = model.TCP
			break
		}
		f.Reply.Source = all[h.below(len(all), "endpoint")].AddrPort()
		return f, f.Zone == 0
	}
	return f, false
}
