package traffic

import (
	"net/netip"
	"slices"
	"sync"
	"testing"

	"svcproxy/model"
	"svcproxy/test/world"
)

// frontend is where a Service listens for a protocol.
func frontend(vip netip.Addr, proto model.Protocol) netip.AddrPort {
	return netip.AddrPortFrom(vip, servicePorts[proto])
}

// askers are places of every kind.
func (w *cluster) askers() []*world.Place { return []*world.Place{w.clients[0], w.Node, w.outside} }

// everyAsker checks what becomes of connections from every kind of place over every protocol, at once, as most
// of the time is waiting.
func (w *cluster) everyAsker(t *testing.T, to func(model.Protocol) netip.AddrPort, want ...world.Verdict) {
	t.Helper()
	var wg sync.WaitGroup
	for _, from := range w.askers() {
		for _, proto := range protocols {
			wg.Go(func() {
				r, err := from.Ask(question(proto, to(proto)))
				if err != nil || !slices.Contains(want, r.Verdict) || r.Lost > 0 {
					t.Errorf("%s asks %s over %s: got %v, %v; want %v", from, to(proto), proto, r, err, want)
				}
			})
		}
	}
	wg.Wait()
}

func portsOf(vip netip.Addr) func(model.Protocol) netip.AddrPort {
	return func(p model.Protocol) netip.AddrPort { return frontend(vip, p) }
}

// nowhere is what packets meet that nobody takes.
var nowhere = []world.Verdict{world.Silent, world.Unreachable}

func TestServiceWithoutEndpointsRefusesAtOnce(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *cluster, d dataPlane, f model.Family) {
		p, vip := newProxy(t, w, d, clusterConfig(f)), clusterIP(f, 0)
		p.mustSync(t, service("empty", vip), service("full", clusterIP(f, 1), 0))
		w.everyAsker(t, portsOf(vip), world.Refused)
		w.everyAsker(t, portsOf(clusterIP(f, 1)), world.Answered)
		p.mustSync(t, service("empty", vip, 3))
		w.everyAsker(t, portsOf(vip), world.Answered)
		p.mustSync(t, service("empty", vip))
		w.everyAsker(t, portsOf(vip), world.Refused)
	})
}

func TestDeletedServiceIsNotAnswered(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *cluster, d dataPlane, f model.Family) {
		p, vip := newProxy(t, w, d, clusterConfig(f)), clusterIP(f, 0)
		p.mustSync(t, service("going", vip, 0, 1), service("staying", clusterIP(f, 1), 0, 1))
		w.everyAsker(t, portsOf(vip), world.Answered)
		p.mustSync(t, deleted("going"))
		w.everyAsker(t, portsOf(vip), nowhere...)
		w.everyAsker(t, portsOf(clusterIP(f, 1)), world.Answered)
		p.mustSync(t, service("going", vip, 2))
		w.everyAsker(t, portsOf(vip), world.Answered)
	})
}

// Where the data plane does not guard ClusterIPs, packets to what no Service has go to the routers.
func TestWhatNoServiceHas(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *cluster, d dataPlane, f model.Family) {
		p, vip := newProxy(t, w, d, clusterConfig(f)), clusterIP(f, 0)
		p.mustSync(t, service("web", vip, 0, 1))
		unknownPort, unallocated := []world.Verdict{world.Refused}, []world.Verdict{world.Silent}
		if !d.guards {
			unknownPort, unallocated = nowhere, nowhere
		}
		// The endpoints listen at these ports, but the Service does not.
		w.everyAsker(t, func(p model.Protocol) netip.AddrPort { return netip.AddrPortFrom(vip, serverPorts[p]) }, unknownPort...)
		w.everyAsker(t, portsOf(clusterIP(f, 1)), unallocated...)
		w.everyAsker(t, portsOf(vip), world.Answered)
	})
}
