package hostile

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

// proxy is a Proxier at work in a world.
type proxy struct {
	*proxier.Proxier
	world    *cluster
	plane    dataplane.Plane
	backends map[model.Family]*recorder
}

// startProxy runs a Proxier of both families until the test ends.
func startProxy(t *testing.T, w *cluster, d dataplane.Plane, source proxier.Source, refuse ...model.ServiceName) *proxy {
	t.Helper()
	p := &proxy{world: w, plane: d, backends: map[model.Family]*recorder{}}
	given := map[model.Family]proxier.Backend{}
	for _, f := range world.Families() {
		b, err := d.Open(f, w.Node.Path(), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		p.backends[f] = record(b, refuse...)
		given[f] = p.backends[f]
	}
	var err error
	p.Proxier, err = proxier.New(proxier.Options{Source: source, Backends: given, Log: zap.NewNop(), Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the proxy ended: %v", err)
		}
	})
	return p
}

// waitFor waits until everything that the objects want is acknowledged.
func (p *proxy) waitFor(t *testing.T, o *proxier.Objects) {
	t.Helper()
	for f, b := range p.backends {
		want := o.Plan(f, settings, "")
		nstest.Eventually(t, 2*time.Minute, func() error {
			if !b.holds(want) {
				return fmt.Errorf("%s, %s: what is acknowledged is not what is wanted; errors so far: %w", p.plane.Name, f, errors.Join(b.failures()...))
			}
			return nil
		})
	}
}

// check fails the test unless the kernel holds exactly what the objects want.
func (p *proxy) check(t *testing.T, o *proxier.Objects) {
	t.Helper()
	for f := range p.backends {
		if err := p.plane.Check(t.Context(), p.world.Node.Path(), o.Plan(f, settings, "")); err != nil {
			t.Error(err)
		}
	}
}

// checkFaultless fails the test if the backend reported any error or any Service went to quarantine.
func (p *proxy) checkFaultless(t *testing.T) {
	t.Helper()
	for f, b := range p.backends {
		for _, err := range b.failures() {
			t.Errorf("%s, %s: apply failed: %v", p.plane.Name, f, err)
		}
		if q := p.Status().Families[f].Quarantined; len(q) > 0 {
			t.Errorf("%s, %s: %d Services in quarantine, the first: %v", p.plane.Name, f, len(q), q[0])
		}
	}
}

// checkHealthy fails the test unless the kernel's healthy Services have their endpoints, and answer.
func (p *proxy) checkHealthy(t *testing.T) {
	t.Helper()
	for f := range p.backends {
		view, err := p.plane.View(t.Context(), f, p.world.Node.Path())
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, s := range view.Services {
			found[s.Name] = len(s.Endpoints)
		}
		for i := range healthyServices {
			name := healthyNamespace + "/" + healthyName(i) + ":http"
			if n := found[name]; n != servers {
				t.Errorf("%s, %s: %s has %d endpoints in the kernel, want %d", p.plane.Name, f, name, n, servers)
			}
		}
	}
	p.world.askHealthy(t)
}

// checkTools fails the test unless the tools of operators read what is programmed.
func (p *proxy) checkTools(t *testing.T) {
	t.Helper()
	node := &nstest.NS{Netns: p.world.Node.Netns}
	if p.plane == dataplane.NFTables {
		node.Run(t, "nft", "list", "ruleset")
		node.Run(t, "nft", "-j", "list", "ruleset")
		return
	}
	for f := range p.backends {
		binary := p.plane.Name
		if f == model.IPv6 {
			binary = "ip6" + binary[len("ip"):]
		}
		saved := node.Run(t, binary+"-save")
		node.RunInput(t, saved, binary+"-restore", "--test")
	}
}
