package plan

import (
	"slices"
	"testing"

	"svcproxy/model"
)

// here is the configuration of node n1 in zone z1.
var here = Config{Family: model.IPv4, NodeName: "n1", Zone: "z1"}

func on(node string, e model.Endpoint) model.Endpoint { e.NodeName = node; return e }

func hinted(nodes, zones []string, e model.Endpoint) model.Endpoint {
	e.NodeHints, e.ZoneHints = nodes, zones
	return e
}

func texts(all []Endpoint) (out []string) {
	for _, e := range all {
		out = append(out, e.Addr.String())
	}
	return out
}

func TestTopology(t *testing.T) {
	n1, n2, z1, z2 := []string{"n1"}, []string{"n2"}, []string{"z1"}, []string{"z2"}
	for _, c := range []struct {
		name      string
		endpoints []model.Endpoint
		want      []string
	}{
		{"node hints that name this node count",
			[]model.Endpoint{hinted(n1, z1, ready("10.0.0.1")), hinted(n2, z1, ready("10.0.0.2"))}, []string{"10.0.0.1"}},
		{"node hints that name others alone leave it to the zones",
			[]model.Endpoint{hinted(n2, z1, ready("10.0.0.1")), hinted(n2, z2, ready("10.0.0.2"))}, []string{"10.0.0.1"}},
		{"a ready endpoint without a node hint leaves it to the zones",
			[]model.Endpoint{hinted(n1, z2, ready("10.0.0.1")), hinted(nil, z1, ready("10.0.0.2"))}, []string{"10.0.0.2"}},
		{"a ready endpoint without any hint means that none count",
			[]model.Endpoint{hinted(nil, z1, ready("10.0.0.1")), ready("10.0.0.2")}, []string{"10.0.0.1", "10.0.0.2"}},
		{"zones that are all elsewhere mean that none count",
			[]model.Endpoint{hinted(nil, z2, ready("10.0.0.1"))}, []string{"10.0.0.1"}},
		{"an endpoint that is not ready has no say",
			[]model.Endpoint{hinted(nil, z1, ready("10.0.0.1")), hinted(nil, z2, ready("10.0.0.2")), notReady("10.0.0.3")}, []string{"10.0.0.1"}},
		{"the last resort knows no topology",
			[]model.Endpoint{hinted(n2, z2, terminating("10.0.0.1")), hinted(n1, z1, terminating("10.0.0.2"))}, []string{"10.0.0.1", "10.0.0.2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Build(here, []Input{{web, service(web, 0, "10.96.0.1"), []*model.Slice{slice("a", c.endpoints...)}}})
			if got := texts(p.Services[web].Ports[0].Endpoints); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	for _, c := range []struct {
		name      string
		config    Config
		endpoints []model.Endpoint
		want      []string
		action    Action
	}{
		{"takes the endpoints of this node", here,
			[]model.Endpoint{on("n1", ready("10.0.0.1")), on("n2", ready("10.0.0.2"))}, []string{"10.0.0.1"}, Balance},
		{"does not ask for hints", here,
			[]model.Endpoint{on("n1", hinted([]string{"n2"}, nil, ready("10.0.0.1"))), hinted([]string{"n1"}, nil, ready("10.0.0.2"))}, []string{"10.0.0.1"}, Balance},
		{"takes one that terminates here before one that is ready elsewhere", here,
			[]model.Endpoint{on("n1", terminating("10.0.0.1")), on("n2", ready("10.0.0.2"))}, []string{"10.0.0.1"}, Balance},
		{"drops where all are elsewhere", here, []model.Endpoint{on("n2", ready("10.0.0.2")), ready("10.0.0.3")}, nil, Drop},
		{"rejects where there are none", here, []model.Endpoint{on("n1", notReady("10.0.0.2"))}, nil, Reject},
		{"finds nothing on a node without a name", Config{Family: model.IPv4}, []model.Endpoint{ready("10.0.0.1")}, nil, Drop},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := service(web, 0, "10.96.0.1")
			s.InternalLocal = true
			p := Build(c.config, []Input{{web, s, []*model.Slice{slice("a", c.endpoints...)}}})
			port := p.Services[web].Ports[0]
			if got := texts(port.Local); !slices.Equal(got, c.want) {
				t.Errorf("endpoints: got %v, want %v", got, c.want)
			}
			if got := port.Frontends[0].Outside.Action; got != c.action {
				t.Errorf("action: got %v, want %v", got, c.action)
			}
			if got := len(port.Local) + len(port.Excluded); got != len(c.endpoints) {
				t.Errorf("%d of %d endpoints are accounted for: %+v", got, len(c.endpoints), port)
			}
		})
	}
}

func TestEndpointsOfOtherNodesAreRemote(t *testing.T) {
	p := Build(here, []Input{{web, service(web, 0, "10.96.0.1"), []*model.Slice{
		slice("a", on("n1", ready("10.0.0.1")), on("n2", ready("10.0.0.2")), ready("10.0.0.3"))}}})
	for i, want := range []bool{false, true, false} {
		if e := p.Services[web].Ports[0].Endpoints[i]; e.Remote != want {
			t.Errorf("%v: remote is %v", e.AddrPort(), e.Remote)
		}
	}
}
