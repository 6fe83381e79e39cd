package traffic

import (
	"net/netip"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/world"
)

func TestSourceAddressThatEndpointsSee(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *cluster, d dataPlane, f model.Family) {
		known := clusterConfig(f)
		unknown, all := known, known
		unknown.Detector.Prefixes = nil
		all.MasqueradeAll = true
		p, vip := newProxy(t, w, d, known), clusterIP(f, 0)
		p.mustSync(t, service("web", vip, 0))

		gateway := w.Masquerade(serverAddr(f, 0))
		for _, c := range []struct {
			what   string
			config plan.Config
			who    string
			from   *world.Place
			want   netip.Addr
		}{
			{"pods are known", known, "a pod", w.clients[0], w.clients[0].Addr(f)},
			{"pods are known", known, "another endpoint's pod", w.servers[1], w.servers[1].Addr(f)},
			{"pods are known", known, "the endpoint itself", w.servers[0], gateway},
			{"pods are known", known, "the node", w.Node, gateway},
			{"pods are known", known, "a host outside", w.outside, gateway},
			{"pods are unknown", unknown, "a pod", w.clients[0], w.clients[0].Addr(f)},
			{"pods are unknown", unknown, "the endpoint itself", w.servers[0], gateway},
			{"pods are unknown", unknown, "the node", w.Node, w.Node.Addr(f)},
			{"pods are unknown", unknown, "a host outside", w.outside, w.outside.Addr(f)},
			{"everything is masqueraded", all, "a pod", w.clients[0], gateway},
			{"everything is masqueraded", all, "the endpoint itself", w.servers[0], gateway},
			{"everything is masqueraded", all, "the node", w.Node, gateway},
			{"everything is masqueraded", all, "a host outside", w.outside, gateway},
			{"pods are known again", known, "a pod", w.clients[0], w.clients[0].Addr(f)},
		} {
			p.configure(t, c.config)
			for _, proto := range protocols {
				a, err := ask(c.from, proto, frontend(vip, proto))
				if err != nil || a.Source.Addr() != c.want {
					t.Errorf("%s, %s asks over %s: the endpoint saw %v, want %v; %v", c.what, c.who, proto, a.Source, c.want, err)
				}
			}
		}
	})
}

// Masquerading is for connections to Services only: pods that talk without one are never hidden.
func TestConnectionsPastServicesKeepTheirSource(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *cluster, d dataPlane, f model.Family) {
		c := clusterConfig(f)
		c.MasqueradeAll = true
		newProxy(t, w, d, c).mustSync(t, service("web", clusterIP(f, 0), 0, 1))
		for _, from := range []*world.Place{w.clients[0], w.servers[0], w.outside} {
			for _, proto := range protocols {
				to := netip.AddrPortFrom(serverAddr(f, 1), serverPorts[proto])
				if a := mustAsk(t, from, proto, to); a.Endpoint != to || a.Source.Addr() != from.Addr(f) {
					t.Errorf("%s from %v to %s: got %v", proto, from, to, a)
				}
			}
		}
	})
}
