package traffic

import (
	"net/netip"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

func TestSourceAddressThatEndpointsSee(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *world, d dataPlane, f model.Family) {
		known := clusterConfig(f)
		unknown, all := known, known
		unknown.Detector.Prefixes = nil
		all.MasqueradeAll = true
		p, vip := newProxy(t, w, d, known), clusterIP(f, 0)
		p.mustSync(t, service("web", vip, 0))

		gateway := ofFamily(f, w.gateways)
		own := func(from place) netip.Addr { return ofFamily(f, from.addrs) }
		for _, c := range []struct {
			what   string
			config plan.Config
			who    string
			from   place
			want   netip.Addr
		}{
			{"pods are known", known, "a pod", w.clients[0], own(w.clients[0])},
			{"pods are known", known, "another endpoint's pod", w.servers[1], own(w.servers[1])},
			{"pods are known", known, "the endpoint itself", w.servers[0], gateway},
			{"pods are known", known, "the node", w.node, gateway},
			{"pods are known", known, "a host outside", w.outside, gateway},
			{"pods are unknown", unknown, "a pod", w.clients[0], own(w.clients[0])},
			{"pods are unknown", unknown, "the endpoint itself", w.servers[0], gateway},
			{"pods are unknown", unknown, "the node", w.node, own(w.node)},
			{"pods are unknown", unknown, "a host outside", w.outside, own(w.outside)},
			{"everything is masqueraded", all, "a pod", w.clients[0], gateway},
			{"everything is masqueraded", all, "the endpoint itself", w.servers[0], gateway},
			{"everything is masqueraded", all, "the node", w.node, gateway},
			{"everything is masqueraded", all, "a host outside", w.outside, gateway},
			{"pods are known again", known, "a pod", w.clients[0], own(w.clients[0])},
		} {
			if !c.config.Equal(p.planner.Config()) {
				p.configure(t, c.config)
			}
			for _, proto := range protocols {
				a, err := c.from.askOnce(proto, frontend(vip, proto), patience)
				if err != nil || a.source.Addr() != c.want {
					t.Errorf("%s, %s asks over %s: the endpoint saw %v, want %v; %v", c.what, c.who, proto, a.source, c.want, err)
				}
			}
		}
	})
}

// Masquerading is for connections to Services only: pods that talk without one are never hidden.
func TestConnectionsPastServicesKeepTheirSource(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *world, d dataPlane, f model.Family) {
		c := clusterConfig(f)
		c.MasqueradeAll = true
		newProxy(t, w, d, c).mustSync(t, service("web", clusterIP(f, 0), 0, 1))
		for _, from := range []place{w.clients[0], w.servers[0], w.outside} {
			for _, proto := range protocols {
				to := netip.AddrPortFrom(serverAddr(f, 1), serverPorts[proto])
				if a := from.mustAsk(t, proto, to); a.endpoint != to || a.source.Addr() != ofFamily(f, from.addrs) {
					t.Errorf("%s from %v to %s: got %v", proto, from.addrs, to, a)
				}
			}
		}
	})
}
