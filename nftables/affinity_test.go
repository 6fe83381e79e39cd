package nftables

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// learns binds clients to each endpoint of a Service port's lists, as the rules would.
func (h *harness) learns(p *plan.ServicePort, clients int) {
	bound := h.fake.r.Sets[affinityMap].Elements
	n := 0
	for b, e := range endpointsByBinding(p) {
		for range clients {
			n++
			key := addrKey(builder{h.family}.endpoint(1<<16+n).Addr) + b.list
			bound[key] = Element{Data: b.endpoint, Comment: e} // the comment is for the test's eyes
		}
	}
}

// endpointsByBinding returns what clients of a port may be bound to, in words.
func endpointsByBinding(p *plan.ServicePort) map[binding]string {
	out, taken := map[binding]string{}, map[string]bool{}
	for _, l := range []struct {
		local     bool
		endpoints []plan.Endpoint
	}{{false, p.Endpoints}, {true, p.Local}} {
		for i, id := range endpointIDs(p.Name, l.local, l.endpoints, taken) {
			out[binding{listID(p.Name, l.local), id}] = boundText(p.Name.Service, l.local, l.endpoints[i])
		}
	}
	return out
}

func boundText(n model.ServiceName, local bool, e plan.Endpoint) string {
	return fmt.Sprintf("%s: %s, local %v", n, e.AddrPort(), local)
}

// bound counts the clients by what they are bound to.
func (h *harness) bound() map[string]int {
	out := map[string]int{}
	for _, el := range h.fake.r.Sets[affinityMap].Elements {
		out[el.Comment]++
	}
	return out
}

// clinging returns a Service with session affinity whose frontend leads outsiders to some local endpoints.
func clinging(b builder, i int, endpoints, local []plan.Endpoint) *plan.Service {
	s := b.service(i, endpoints, model.TCP)
	s.Ports[0].Affinity, s.Ports[0].Local = time.Hour, local
	s.Ports[0].Frontends[0].Kind, s.Ports[0].Frontends[0].Outside.Local = plan.ExternalIP, true
	return s
}

const boundEach = 400

// clung returns a backend that has two such Services and knows their clients.
func clung(t *testing.T, b builder) (h *harness, c plan.Config) {
	t.Helper()
	h, c = newHarness(b.family), b.config()
	one, two := clinging(b, 1, b.endpoints(0, 4), b.endpoints(0, 2)), clinging(b, 2, b.endpoints(0, 2), b.endpoints(0, 2))
	h.apply(t, full(planOf(c, one, two)))
	h.learns(&one.Ports[0], boundEach)
	h.learns(&two.Ports[0], boundEach)
	return h, c
}

func TestClientsOfAnEndpointThatLeavesAreReleased(t *testing.T) {
	for _, f := range model.Families {
		b := builder{f}
		for what, change := range map[string]func(h *harness, c plan.Config) plan.Result{
			"incremental": func(h *harness, c plan.Config) plan.Result {
				return h.apply(t, partial(c, clinging(b, 1, b.endpoints(0, 3), b.endpoints(1, 2))))
			},
			"full": func(h *harness, c plan.Config) plan.Result {
				return h.apply(t, full(planOf(c, clinging(b, 1, b.endpoints(0, 3), b.endpoints(1, 2)), clinging(b, 2, b.endpoints(0, 2), b.endpoints(0, 2)))))
			},
			"full after a restart": func(h *harness, c plan.Config) plan.Result {
				h.Backend = newBackend(f, h.fake, nil)
				return h.apply(t, full(planOf(c, clinging(b, 1, b.endpoints(0, 3), b.endpoints(1, 2)), clinging(b, 2, b.endpoints(0, 2), b.endpoints(0, 2)))))
			},
			"after an answer was lost": func(h *harness, c plan.Config) plan.Result {
				h.fake.lose = true
				return h.apply(t, partial(c, clinging(b, 1, b.endpoints(0, 3), b.endpoints(1, 2))))
			},
		} {
			h, c := clung(t, b)
			before := h.bound()
			change(h, c)
			after := h.bound()
			gone := []string{boundText(serviceName(1), false, b.endpoint(3)), boundText(serviceName(1), true, b.endpoint(0))}
			for _, e := range gone { // the latter has left one list and not the other
				if after[e] != 0 {
					t.Errorf("%s, %s: %d clients are still bound to %s", f, what, after[e], e)
				}
				delete(before, e)
			}
			if !maps.Equal(after, before) {
				t.Errorf("%s, %s: others are %v, want %v", f, what, after, before)
			}
		}
	}
}

func TestNobodyIsLookedForUnlessAnEndpointWithAffinityLeft(t *testing.T) {
	b := builder{model.IPv4}
	h, c := clung(t, b)
	h.apply(t, partial(c, clinging(b, 1, b.endpoints(0, 5), b.endpoints(0, 3)), b.service(3, b.endpoints(0, 5), model.TCP)))
	h.apply(t, partial(c, b.service(3, b.endpoints(0, 2), model.TCP)))
	h.apply(t, full(planOf(c, clinging(b, 1, b.endpoints(0, 5), b.endpoints(0, 3)), clinging(b, 2, b.endpoints(0, 2), b.endpoints(0, 2)))))
	if h.fake.listed != 0 {
		t.Errorf("the learned clients were read %d times", h.fake.listed)
	}
}

func TestReleasingClientsNeverFailsAChange(t *testing.T) {
	b := builder{model.IPv4}
	h, c := clung(t, b)
	less := clinging(b, 1, b.endpoints(0, 3), b.endpoints(0, 2))
	h.fake.deaf = errors.New("no answer")
	h.apply(t, partial(c, less))
	gone := boundText(serviceName(1), false, b.endpoint(3))
	if h.bound()[gone] != boundEach {
		t.Fatalf("released without a list: %v", h.bound())
	}
	h.fake.deaf, h.fake.expired = nil, map[string]Element{}
	for e := range endpointsByBinding(&clinging(b, 1, b.endpoints(3, 1), nil).Ports[0]) {
		for i := range 3 {
			h.fake.expired[addrKey(b.endpoint(1<<17+i).Addr)+e.list] = Element{Data: e.endpoint}
		}
	}
	h.fake.room = 8192
	h.apply(t, partial(c, less))
	if n := h.bound()[gone]; n != 0 || len(h.departed) != 0 {
		t.Errorf("%d clients are still bound, %d bindings noted", n, len(h.departed))
	}
}

func TestAChangeThatIsRefusedReleasesNobody(t *testing.T) {
	b := builder{model.IPv4}
	h, c := clung(t, b)
	before := h.bound()
	h.fake.fail = errors.New("refused")
	if _, err := h.Apply(t.Context(), partial(c, clinging(b, 1, b.endpoints(0, 3), b.endpoints(0, 2)))); err == nil {
		t.Fatal("no error")
	}
	h.fake.fail = nil
	h.apply(t, partial(c, b.service(3, b.endpoints(0, 5), model.TCP)))
	if after := h.bound(); !maps.Equal(after, before) {
		t.Errorf("%v became %v", before, after)
	}
}
