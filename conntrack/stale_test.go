package conntrack

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// addr returns an address of a family that reads alike in both.
func addr(f model.Family, net, host int) netip.Addr {
	if f == model.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10:%d::%d", net, host))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", net, host))
}

// world is a node of one family with one Service.
type world struct {
	f       model.Family
	config  plan.Config
	service *model.Service
	slice   *model.Slice
	host    Host
	tombs   Tombstones
	start   bool
}

func newWorld(f model.Family) *world {
	name := model.ServiceName{Namespace: "kube-system", Name: "kube-dns"}
	w := &world{
		f: f,
		config: plan.Config{
			Family: f, NodeName: "node-a", Zone: "zone-a", NodePorts: plan.NodePorts{All: true},
			ServiceCIDRs: []netip.Prefix{netip.PrefixFrom(addr(f, 96, 0), f.Bits()/2).Masked()},
		},
		service: &model.Service{
			Name: name, ClusterIPs: []netip.Addr{addr(f, 96, 10)}, ExternalIPs: []netip.Addr{addr(f, 50, 1)},
			LoadBalancerIPs: []netip.Addr{addr(f, 50, 2)},
			Ports:           []model.ServicePort{{Name: "dns", Protocol: model.UDP, Port: 53, NodePort: 30053}},
		},
		slice: &model.Slice{
			Name: model.SliceName{Namespace: name.Namespace, Name: "kube-dns-1"}, Service: name, Family: f,
			Ports: []model.SlicePort{{Name: "dns", Protocol: model.UDP, Port: 5353}},
		},
		host: NewHost([]netip.Prefix{netip.PrefixFrom(nodeAddr(f), f.Bits()), netip.PrefixFrom(loopback(f), f.Bits())}),
	}
	w.endpoint(3, "node-a")
	w.endpoint(4, "node-b")
	return w
}

// nodeAddr is the node's address.
func nodeAddr(f model.Family) netip.Addr { return addr(f, 18, 2) }

func loopback(f model.Family) netip.Addr {
	if f == model.IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// endpoint adds a ready endpoint and returns it, to be changed.
func (w *world) endpoint(host int, node string) *model.Endpoint {
	w.slice.Endpoints = append(w.slice.Endpoints, model.Endpoint{Addr: addr(w.f, 244, host), Ready: true, Serving: true, NodeName: node})
	return &w.slice.Endpoints[len(w.slice.Endpoints)-1]
}

func (w *world) plan() *plan.Plan {
	if w.service == nil {
		return plan.Build(w.config, nil)
	}
	return plan.Build(w.config, []plan.Input{{Name: w.service.Name, Service: w.service, Slices: []*model.Slice{w.slice}}})
}

func (w *world) situation() Situation {
	return Situation{Plan: *w.plan(), Tombstones: w.tombs, Host: w.host, Start: w.start}
}

// remove deletes the Service and leaves its tombstones, as a cleaner would.
func (w *world) remove() {
	c := NewCleaner(w.f, nil)
	was := w.plan()
	c.Acknowledged(plan.Change{Config: w.config, Full: true, Services: was.Services}, nil)
	c.Acknowledged(plan.Change{Config: w.config, Services: map[model.ServiceName]*plan.Service{w.service.Name: nil}}, was.Services)
	w.service, w.tombs = nil, c.journal.tombstones
}

var clients = 0

// flow returns a client's flow to a frontend, whose answers come from an endpoint.
func flow(f model.Family, frontend, endpoint netip.AddrPort) Flow {
	clients++
	client := netip.AddrPortFrom(addr(f, 244, 2), uint16(1024+clients%60000))
	return Flow{Protocol: model.UDP, Original: Tuple{client, frontend}, Reply: Tuple{endpoint, client}}
}

func (w *world) to(net, host, port int) netip.AddrPort {
	return netip.AddrPortFrom(addr(w.f, net, host), uint16(port))
}

// pod returns the endpoint address 244.host at the target port.
func (w *world) pod(host int) netip.AddrPort { return w.to(244, host, 5353) }

// frontends are the Service's at the four kinds of frontends.
func (w *world) frontends() map[string]netip.AddrPort {
	return map[string]netip.AddrPort{
		"ClusterIP": w.to(96, 10, 53), "external IP": w.to(50, 1, 53), "load balancer": w.to(50, 2, 53), "node port": w.to(18, 2, 30053),
	}
}

// each runs a test in both families.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	for _, f := range model.Families {
		t.Run(f.String(), func(t *testing.T) { test(t, newWorld(f)) })
	}
}

// expect fails the test unless a flow is stale or is not.
func (w *world) expect(t *testing.T, what string, f Flow, stale bool) {
	t.Helper()
	got := slices.Collect(Stale(w.situation(), slices.Values([]Flow{f})))
	if (len(got) == 1) != stale {
		t.Errorf("%s: %s: stale: %t, want %t", what, f, len(got) == 1, stale)
	}
}

func TestFlowsToEndpointsStay(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for kind, frontend := range w.frontends() {
			masqueraded := flow(w.f, frontend, w.pod(3))
			masqueraded.Reply.Dest = w.to(18, 2, 61000)
			hairpin := flow(w.f, frontend, w.pod(3))
			hairpin.Original.Source = w.to(244, 3, 40000)
			hairpin.Reply.Dest = w.to(18, 2, 61001)
			w.expect(t, kind, flow(w.f, frontend, w.pod(4)), false)
			w.expect(t, kind+", masqueraded", masqueraded, false)
			w.expect(t, kind+", hairpin", hairpin, false)
		}
	})
}

func TestScaleToZero(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.slice.Endpoints = nil
		for kind, frontend := range w.frontends() {
			w.expect(t, kind, flow(w.f, frontend, w.pod(3)), true)
			w.expect(t, kind+", never translated", flow(w.f, frontend, frontend), true)
		}
	})
}

func TestEndpointGone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for kind, frontend := range w.frontends() {
			hairpin := flow(w.f, frontend, w.pod(9))
			hairpin.Original.Source = w.to(244, 9, 40000)
			hairpin.Reply.Dest = w.to(18, 2, 61001)
			w.expect(t, kind, flow(w.f, frontend, w.pod(9)), true)
			w.expect(t, kind+", hairpin", hairpin, true)
		}
	})
}

func TestDeletedService(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		frontends := w.frontends()
		w.remove()
		for kind, frontend := range frontends {
			w.expect(t, kind, flow(w.f, frontend, w.pod(3)), true)
			w.expect(t, kind+", for no Service", flow(w.f, frontend, frontend), false)
		}
		w.tombs = nil
		for kind, frontend := range frontends {
			w.expect(t, kind+", without a tombstone", flow(w.f, frontend, w.pod(3)), false)
		}
	})
}

func TestFrontendThatCameBackIsJudgedByItsEndpoints(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		again, frontends := w.service, w.frontends()
		w.remove()
		w.service = again
		for kind, frontend := range frontends {
			w.expect(t, kind, flow(w.f, frontend, w.pod(3)), false)
			w.expect(t, kind, flow(w.f, frontend, w.pod(9)), true)
		}
	})
}

func TestChangedTargetPort(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		old := w.pod(3)
		w.slice.Ports[0].Port = 5454
		for kind, frontend := range w.frontends() {
			w.expect(t, kind, flow(w.f, frontend, old), true)
			w.expect(t, kind, flow(w.f, frontend, w.to(244, 3, 5454)), false)
		}
	})
}

func TestFlowMadeBeforeTheFrontend(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for kind, frontend := range w.frontends() {
			w.expect(t, kind, flow(w.f, frontend, frontend), true)
		}
	})
}

func TestUnrelatedFlowOnTheNumberOfANodePort(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		elsewhere := w.to(70, 1, 30053)
		for _, endpoints := range []string{"with endpoints", "without"} {
			w.expect(t, endpoints+", to another host", flow(w.f, elsewhere, elsewhere), false)
			w.expect(t, endpoints+", to another host, translated by others", flow(w.f, elsewhere, w.to(71, 1, 30053)), false)
			w.expect(t, endpoints+", to a pod", flow(w.f, w.to(244, 9, 30053), w.to(244, 9, 30053)), false)
			from := flow(w.f, w.to(70, 1, 53), w.to(70, 1, 53))
			from.Original.Source = w.to(18, 2, 30053)
			w.expect(t, endpoints+", from that number", from, false)
			w.slice.Endpoints = nil
		}
	})
}

func TestNodePortOnlyWhereItAnswers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		gone := w.pod(9)
		own, local := w.to(18, 2, 30053), netip.AddrPortFrom(loopback(w.f), 30053)
		w.config.NodePorts = plan.NodePorts{Prefixes: []netip.Prefix{netip.PrefixFrom(addr(w.f, 18, 77), w.f.Bits())}}
		w.expect(t, "at another address only", flow(w.f, own, gone), false)
		w.config.NodePorts = plan.NodePorts{All: true}
		w.expect(t, "not at loopback", flow(w.f, local, gone), false)
		w.config.NodePorts.Loopback = true
		w.expect(t, "at loopback", flow(w.f, local, gone), w.f == model.IPv4)
		w.expect(t, "at all", flow(w.f, own, gone), true)
	})
}

func TestNodePortsThatAnswerElsewhereNow(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		own := w.to(18, 2, 30053)
		c, was := NewCleaner(w.f, nil), w.plan()
		c.Acknowledged(plan.Change{Config: w.config, Full: true, Services: was.Services}, nil)
		w.config.NodePorts = plan.NodePorts{}
		c.Acknowledged(plan.Change{Config: w.config, Full: true, Services: was.Services}, was.Services)
		w.tombs = c.journal.tombstones
		w.expect(t, "translated", flow(w.f, own, w.pod(3)), true)
		w.expect(t, "for the node", flow(w.f, own, own), false)
		w.expect(t, "of another host", flow(w.f, w.to(70, 1, 30053), w.pod(3)), false)
	})
}

func TestFrontendOfItsOwnComesBeforeANodePort(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.service.ExternalIPs = []netip.Addr{nodeAddr(w.f)}
		w.service.Ports = append(w.service.Ports, model.ServicePort{Name: "other", Protocol: model.UDP, Port: 30053})
		w.slice.Ports = append(w.slice.Ports, model.SlicePort{Name: "other", Protocol: model.UDP, Port: 7777})
		w.expect(t, "to the external IP's endpoint", flow(w.f, w.to(18, 2, 30053), w.to(244, 3, 7777)), false)
		w.expect(t, "to the node port's endpoint", flow(w.f, w.to(18, 2, 30053), w.pod(3)), true)
	})
}

func TestTakeoverFlowsWithoutMarks(t *testing.T) {
	// A Flow has no mark at all: there is nothing that could be asked for one.
	each(t, func(t *testing.T, w *world) {
		w.start = true
		for kind, frontend := range w.frontends() {
			w.expect(t, kind+", healthy", flow(w.f, frontend, w.pod(3)), false)
			w.expect(t, kind+", stale", flow(w.f, frontend, w.pod(9)), true)
		}
	})
}

func TestRestart(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.start = true
		w.expect(t, "healthy", flow(w.f, w.to(96, 10, 53), w.pod(3)), false)
		w.expect(t, "of a Service that is gone", flow(w.f, w.to(96, 77, 53), w.pod(3)), true)
		w.expect(t, "of a port that is gone", flow(w.f, w.to(96, 10, 5300), w.pod(3)), true)
		w.expect(t, "to an address that no Service has, not translated", flow(w.f, w.to(96, 77, 53), w.to(96, 77, 53)), false)
		w.expect(t, "outside the Service range", flow(w.f, w.to(97, 77, 53), w.pod(3)), false)
		w.config.ServiceCIDRs = nil
		w.expect(t, "range unknown", flow(w.f, w.to(96, 77, 53), w.pod(3)), false)
		w = newWorld(w.f)
		w.expect(t, "later than at the start", flow(w.f, w.to(96, 77, 53), w.pod(3)), false)
	})
}

// In another proxy mode, or by other flags, node ports answered at more addresses.
func TestRestartWithNodePortsElsewhere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.start = true
		w.config.NodePorts = plan.NodePorts{Prefixes: []netip.Prefix{netip.PrefixFrom(addr(w.f, 18, 77), w.f.Bits())}}
		own, local := w.to(18, 2, 30053), netip.AddrPortFrom(loopback(w.f), 30053)
		w.expect(t, "translated", flow(w.f, own, w.pod(3)), true)
		w.expect(t, "translated, at loopback", flow(w.f, local, w.pod(3)), true)
		w.expect(t, "for the node", flow(w.f, own, own), false)
		w.expect(t, "of another number", flow(w.f, w.to(18, 2, 30054), w.pod(3)), false)
		w.expect(t, "of another host", flow(w.f, w.to(70, 1, 30053), w.pod(3)), false)
		w.start = false
		w.expect(t, "later than at the start", flow(w.f, own, w.pod(3)), false)
	})
}

func TestEndpointsThatServeKeepTheirFlows(t *testing.T) {
	for what, change := range map[string]func(w *world){
		"hinted to another zone": func(w *world) {
			w.slice.Endpoints[0].ZoneHints = []string{"zone-a"}
			w.slice.Endpoints[1].ZoneHints = []string{"zone-b"}
		},
		"hinted to another node": func(w *world) {
			w.slice.Endpoints[0].NodeHints = []string{"node-a"}
			w.slice.Endpoints[1].NodeHints = []string{"node-b"}
		},
		"terminating": func(w *world) {
			w.slice.Endpoints[1].Ready, w.slice.Endpoints[1].Terminating = false, true
		},
		"all terminating": func(w *world) {
			for i := range w.slice.Endpoints {
				w.slice.Endpoints[i].Ready, w.slice.Endpoints[i].Terminating = false, true
			}
		},
		"not ready, but serving": func(w *world) { w.slice.Endpoints[1].Ready = false },
		"on another node, all policies Local": func(w *world) {
			w.service.InternalLocal, w.service.ExternalLocal = true, true
		},
		"on another node, external policy Local": func(w *world) { w.service.ExternalLocal = true },
		"on another node, and none here": func(w *world) {
			w.service.InternalLocal, w.service.ExternalLocal = true, true
			w.slice.Endpoints = w.slice.Endpoints[1:]
		},
	} {
		t.Run(what, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				change(w)
				for kind, frontend := range w.frontends() {
					w.expect(t, kind, flow(w.f, frontend, w.pod(4)), false)
				}
				w.slice.Endpoints[len(w.slice.Endpoints)-1].Serving = false
				w.slice.Endpoints[len(w.slice.Endpoints)-1].Ready = false
				for kind, frontend := range w.frontends() {
					w.expect(t, kind+", and it serves no longer", flow(w.f, frontend, w.pod(4)), true)
				}
			})
		})
	}
}

func TestOthersFlowsStay(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		zoned := flow(w.f, w.to(96, 10, 53), w.pod(9))
		zoned.Zone = 3
		w.expect(t, "of another zone", zoned, false)
		for _, p := range []model.Protocol{model.TCP, model.SCTP, 1} {
			f := flow(w.f, w.to(96, 10, 53), w.pod(9))
			f.Protocol = p
			w.expect(t, p.String(), f, false)
		}
		w.expect(t, "for no Service", flow(w.f, w.to(70, 1, 53), w.to(70, 1, 53)), false)
		w.expect(t, "another port of a ClusterIP", flow(w.f, w.to(96, 10, 54), w.to(96, 10, 54)), false)
		w.expect(t, "straight to an endpoint", flow(w.f, w.pod(9), w.pod(9)), false)
		other := newWorld(model.IPv4 + model.IPv6 - w.f)
		w.expect(t, "of the other family", flow(other.f, other.to(96, 10, 53), other.pod(9)), false)
	})
}
