package traffic

import (
	"testing"

	"svcproxy/model"
	"svcproxy/test/world"
)

// Under the internal traffic policy Local a node without endpoints of its own drops, and one with some
// leads to these alone.
func TestInternalTrafficPolicyLocal(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *cluster, d dataPlane, f model.Family) {
		c, vip := clusterConfig(f), clusterIP(f, 0)
		c.NodeName = "node-b"
		p := newProxy(t, w, d, c)
		web := service("web", vip, 0, 1, 2)
		web.Service.InternalLocal = true
		web.Slices[0].Endpoints[2].NodeName = "node-b"

		p.mustSync(t, web)
		for range 20 {
			a, err := ask(w.clients[0], model.TCP, frontend(vip, model.TCP))
			if err != nil || a.Endpoint.Addr() != serverAddr(f, 2) {
				t.Fatalf("got %+v, %v; want the answer of server 2, which is on the node", a, err)
			}
		}

		web.Slices = []*model.Slice{cloned(web.Slices[0])}
		web.Slices[0].Endpoints[2].NodeName = "node-a"
		p.mustSync(t, web)
		w.everyAsker(t, portsOf(vip), world.Silent)

		web.Slices = nil
		p.mustSync(t, web)
		w.everyAsker(t, portsOf(vip), world.Refused)
	})
}

func cloned(s *model.Slice) *model.Slice {
	c := *s
	c.Endpoints = append([]model.Endpoint(nil), s.Endpoints...)
	return &c
}
