package traffic

import (
	"testing"

	"svcproxy/model"
	"svcproxy/test/world"
)

// TestEstablishedConnectionsSurvive changes everything around connections. TCP is left to its endpoint to
// the end; what happens to UDP flows whose endpoint goes is not the backend's to decide, so only those of
// endpoints that stay are looked at.
func TestEstablishedConnectionsSurvive(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *cluster, d dataPlane, f model.Family) {
		config, vip := clusterConfig(f), clusterIP(f, 0)
		p := newProxy(t, w, d, config)
		p.mustSync(t, service("web", vip, 0, 1, 2), service("other", clusterIP(f, 1), 2, 3))
		kept := establish(t, w, p, f)

		changes := []struct {
			what string
			do   func()
		}{
			{"an endpoint is removed", func() { p.mustSync(t, service("web", vip, 1, 2)) }},
			{"endpoints are added", func() { p.mustSync(t, service("web", vip, 1, 2, 3, 4, 5, 6)) }},
			{"the first endpoint comes back", func() { p.mustSync(t, service("web", vip, 0, 1, 2)) }},
			{"another Service loses an endpoint", func() { p.mustSync(t, service("other", clusterIP(f, 1), 3)) }},
			{"another Service is left without endpoints", func() { p.mustSync(t, service("other", clusterIP(f, 1))) }},
			{"another Service is deleted, a new one is made", func() {
				p.mustSync(t, deleted("other"), service("new", clusterIP(f, 2), 0, 1, 2))
			}},
			{"everything is masqueraded", func() {
				c := config
				c.MasqueradeAll = true
				p.configure(t, c)
			}},
			{"the whole is synced", func() { p.configure(t, config) }},
		}
		for _, c := range changes {
			c.do()
			kept.check(t, c.what)
		}
		kept.stopUDP()
		p.mustSync(t, service("web", vip))
		kept.check(t, "no endpoint is left")
		p.mustSync(t, deleted("web"))
		kept.check(t, "the Service is deleted")
	})
}

// keptConn is a connection and the answer that it got first.
type keptConn struct {
	*world.Conn
	first world.Answer
}

type keptConns struct{ list []keptConn }

// establish makes connections from every kind of place, until every endpoint has some.
func establish(t *testing.T, w *cluster, p *proxy, f model.Family) *keptConns {
	t.Helper()
	k := &keptConns{}
	for _, from := range w.askers() {
		for _, proto := range []model.Protocol{model.TCP, model.UDP} {
			for range 8 {
				c, err := from.Dial(question(proto, frontend(clusterIP(f, 0), proto)))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(c.Close)
				r, err := c.Ask()
				if err := unanswered(r, err); err != nil {
					t.Fatal(err)
				}
				if proto == model.TCP || r.Endpoint.Addr() != serverAddr(f, 0) {
					k.list = append(k.list, keptConn{c, r.Answer})
				}
			}
		}
	}
	return k
}

func (k *keptConns) check(t *testing.T, after string) {
	t.Helper()
	for _, c := range k.list {
		if r, err := c.Ask(); err != nil || r.Verdict != world.Answered || r.Answer != c.first {
			t.Errorf("after %s, %s connection of %v: got %v, %v", after, c.Protocol, c.first, r, err)
		}
	}
}

// stopUDP looks no more at UDP flows.
func (k *keptConns) stopUDP() {
	tcp := k.list[:0]
	for _, c := range k.list {
		if c.Protocol == model.TCP {
			tcp = append(tcp, c)
		}
	}
	k.list = tcp
}
