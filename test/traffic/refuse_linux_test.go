package traffic

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"svcproxy/model"
)

// frontend is where a Service listens for a protocol.
func frontend(vip netip.Addr, proto model.Protocol) netip.AddrPort {
	return netip.AddrPortFrom(vip, servicePorts[proto])
}

// askers are places of every kind, by their names.
func (w *world) askers() map[string]place {
	return map[string]place{"a pod": w.clients[0], "the node": w.node, "a host outside": w.outside}
}

// expectation checks what becomes of a connection.
type expectation func(t *testing.T, who string, from place, proto model.Protocol, to netip.AddrPort)

// everyAsker checks connections from every kind of place over every protocol, at once, as most of the time
// is waiting.
func (w *world) everyAsker(t *testing.T, to func(model.Protocol) netip.AddrPort, expect expectation) {
	t.Helper()
	var wg sync.WaitGroup
	for who, from := range w.askers() {
		for _, proto := range protocols {
			wg.Go(func() { expect(t, who, from, proto, to(proto)) })
		}
	}
	wg.Wait()
}

func portsOf(vip netip.Addr) func(model.Protocol) netip.AddrPort {
	return func(p model.Protocol) netip.AddrPort { return frontend(vip, p) }
}

func answered(t *testing.T, who string, from place, proto model.Protocol, to netip.AddrPort) {
	if _, err := from.askOnce(proto, to, patience); err != nil {
		t.Errorf("%s asks: %v", who, err)
	}
}

// refused wants a refusal before the client gives up hope. The limit leaves room for a second SYN: TCP does
// not heed an ICMP error that arrives while connect still holds the socket.
func refused(t *testing.T, who string, from place, proto model.Protocol, to netip.AddrPort) {
	const atOnce = 2500 * time.Millisecond
	begin := time.Now()
	a, err := from.askOnce(proto, to, patience)
	if took := time.Since(begin); !errors.Is(err, syscall.ECONNREFUSED) || took > atOnce {
		t.Errorf("%s asks %s over %s: after %v got %v, %v; want connection refused at once", who, to, proto, took, a, err)
	}
}

// unanswered wants that nobody answers, or that a router says that the address is nowhere.
func unanswered(t *testing.T, who string, from place, proto model.Protocol, to netip.AddrPort) {
	a, err := from.askOnce(proto, to, briefly)
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("%s asks %s over %s: got %v, %v; want no answer", who, to, proto, a, err)
	}
}

// silent wants nothing at all.
func silent(t *testing.T, who string, from place, proto model.Protocol, to netip.AddrPort) {
	if a, err := from.askOnce(proto, to, briefly); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s asks %s over %s: got %v, %v; want silence", who, to, proto, a, err)
	}
}

func TestServiceWithoutEndpointsRefusesAtOnce(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *world, d dataPlane, f model.Family) {
		p, vip := newProxy(t, w, d, clusterConfig(f)), clusterIP(f, 0)
		p.mustSync(t, service("empty", vip), service("full", clusterIP(f, 1), 0))
		w.everyAsker(t, portsOf(vip), refused)
		w.everyAsker(t, portsOf(clusterIP(f, 1)), answered)
		p.mustSync(t, service("empty", vip, 3))
		w.everyAsker(t, portsOf(vip), answered)
		p.mustSync(t, service("empty", vip))
		w.everyAsker(t, portsOf(vip), refused)
	})
}

func TestDeletedServiceIsNotAnswered(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *world, d dataPlane, f model.Family) {
		p, vip := newProxy(t, w, d, clusterConfig(f)), clusterIP(f, 0)
		p.mustSync(t, service("going", vip, 0, 1), service("staying", clusterIP(f, 1), 0, 1))
		w.everyAsker(t, portsOf(vip), answered)
		p.mustSync(t, deleted("going"))
		w.everyAsker(t, portsOf(vip), unanswered)
		w.everyAsker(t, portsOf(clusterIP(f, 1)), answered)
		p.mustSync(t, service("going", vip, 2))
		w.everyAsker(t, portsOf(vip), answered)
	})
}

// Where the data plane does not guard ClusterIPs, packets to what no Service has go to the routers.
func TestWhatNoServiceHas(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *world, d dataPlane, f model.Family) {
		p, vip := newProxy(t, w, d, clusterConfig(f)), clusterIP(f, 0)
		p.mustSync(t, service("web", vip, 0, 1))
		unknownPort, unallocated := refused, silent
		if !d.guards {
			unknownPort, unallocated = unanswered, unanswered
		}
		// The endpoints listen at these ports, but the Service does not.
		w.everyAsker(t, func(p model.Protocol) netip.AddrPort { return netip.AddrPortFrom(vip, serverPorts[p]) }, unknownPort)
		w.everyAsker(t, portsOf(clusterIP(f, 1)), unallocated)
		w.everyAsker(t, portsOf(vip), answered)
	})
}
