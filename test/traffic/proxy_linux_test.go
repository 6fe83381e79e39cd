package traffic

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
)

// dataPlanes are all the ways to program a kernel, by their names.
var dataPlanes = []dataPlane{
	{"nftables", true, func(netns string, f model.Family, log *zap.Logger) (backend, error) {
		return nftables.New(nftables.Options{Family: f, NetNS: netns, Log: log})
	}},
	{"iptables-legacy", false, func(netns string, f model.Family, log *zap.Logger) (backend, error) {
		return iptables.New(iptables.Options{Family: f, NetNS: netns, Binary: "iptables-legacy", Log: log})
	}},
	{"iptables-nft", false, func(netns string, f model.Family, log *zap.Logger) (backend, error) {
		return iptables.New(iptables.Options{Family: f, NetNS: netns, Binary: "iptables-nft", Log: log})
	}},
}

type dataPlane struct {
	name string
	// guards tells whether it answers for what no Service has: it rejects unknown ports of a ClusterIP and
	// drops what is for an unallocated one.
	guards bool
	new    func(netns string, f model.Family, log *zap.Logger) (backend, error)
}

// backend is what a test needs of proxier.Backend.
type backend interface {
	Apply(context.Context, plan.Change) (plan.Result, error)
	Close() error
}

// proxy plans Services and brings them into a node's kernel.
type proxy struct {
	planner *plan.Planner
	backend backend
	guards  bool
	// inputs are the Services that there are: the Planner keeps none.
	inputs map[model.ServiceName]plan.Input
}

// clusterConfig is the configuration of a cluster whose pods are known.
func clusterConfig(f model.Family) plan.Config {
	c := plan.Config{Family: f, MasqueradeMark: plan.DefaultMasqueradeMark}
	if f == model.IPv4 {
		c.Detector.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	} else {
		c.Detector.Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00:10:244::/56")}
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("fd00:10:96::/112")}
	}
	return c
}

// newProxy returns a proxy in the world's node that has programmed no Service yet.
func newProxy(t *testing.T, w *cluster, d dataPlane, c plan.Config) *proxy {
	t.Helper()
	b, err := d.new(w.Node.Path(), c.Family, zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &proxy{planner: plan.NewPlanner(c), backend: b, guards: d.guards, inputs: map[model.ServiceName]plan.Input{}}
	p.configure(t, c)
	return p
}

// configure changes the configuration.
func (p *proxy) configure(t *testing.T, c plan.Config) {
	t.Helper()
	c.GuardClusterIPs = p.guards
	p.planner.SetConfig(c)
	p.planner.Update(slices.Collect(maps.Values(p.inputs)))
	if _, err := p.backend.Apply(t.Context(), plan.Change{Config: c, Services: p.planner.Plan().Services, Full: true}); err != nil {
		t.Fatal(err)
	}
}

// sync brings changed Services into the kernel.
func (p *proxy) sync(ctx context.Context, changed ...plan.Input) error {
	for _, in := range changed {
		p.inputs[in.Name] = in
	}
	_, err := p.backend.Apply(ctx, plan.Change{Config: p.planner.Config(), Services: p.planner.Update(changed)})
	return err
}

func (p *proxy) mustSync(t *testing.T, changed ...plan.Input) {
	t.Helper()
	if err := p.sync(t.Context(), changed...); err != nil {
		t.Fatal(err)
	}
}

// service returns a Service at an address, with a port for each protocol, and the servers behind it.
func service(name string, at netip.Addr, servers ...int) plan.Input {
	id := model.ServiceName{Namespace: "default", Name: name}
	s := &model.Service{Name: id, Created: time.Unix(1, 0), ClusterIPs: []netip.Addr{at}}
	slice := &model.Slice{Name: model.SliceName{Namespace: "default", Name: name + "-1"}, Service: id, Family: model.FamilyOf(at)}
	for _, p := range protocols {
		s.Ports = append(s.Ports, model.ServicePort{Name: "of-" + p.String(), Protocol: p, Port: servicePorts[p]})
		slice.Ports = append(slice.Ports, model.SlicePort{Name: "of-" + p.String(), Protocol: p, Port: serverPorts[p]})
	}
	for _, i := range servers {
		slice.Endpoints = append(slice.Endpoints, model.Endpoint{Addr: serverAddr(slice.Family, i), Ready: true, Serving: true, NodeName: "node-a"})
	}
	return plan.Input{Name: id, Service: s, Slices: []*model.Slice{slice}}
}

// deleted returns what is left of a Service.
func deleted(name string) plan.Input {
	return plan.Input{Name: model.ServiceName{Namespace: "default", Name: name}}
}

// everyDataPlane runs a test in every data plane and family.
func everyDataPlane(t *testing.T, test func(*testing.T, *cluster, dataPlane, model.Family)) {
	for _, d := range dataPlanes {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			everyFamily(t, d, test)
		})
	}
}

// everyFamily runs a test in a world of a data plane.
func everyFamily(t *testing.T, d dataPlane, test func(*testing.T, *cluster, dataPlane, model.Family)) {
	w := newCluster(t)
	for _, f := range model.Families {
		t.Run(f.String(), func(t *testing.T) { test(t, w, d, f) })
	}
}
