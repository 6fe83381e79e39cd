package oracle

import (
	"context"
	"fmt"
	"testing"

	"svcproxy/iptables"
	"svcproxy/nftables"
	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/world"
)

// subject is a backend that follows a cluster in a kernel, change by change, as the proxier has it do.
type subject struct {
	u       *universe
	mode    proxier.Mode
	plane   dataplane.Plane
	netns   string
	backend proxier.Backend

	objects *proxier.Objects
	store   *proxier.Store
	tracker *proxier.Tracker
	planner *plan.Planner
}

// newSubject opens a backend that is closed when the test ends.
func newSubject(t testing.TB, u *universe, plane dataplane.Plane, netns string) *subject {
	t.Helper()
	b, err := plane.Open(u.family, netns, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &subject{u: u, plane: plane, netns: netns, backend: b, mode: proxier.IPTables}
	if plane == dataplane.NFTables {
		s.mode = proxier.NFTables
	}
	return s
}

// begin brings a cluster into the kernel, whatever it holds.
func (s *subject) begin(ctx context.Context, c *cluster) error {
	objects, err := c.objects()
	if err != nil {
		return fmt.Errorf("a cluster that can't be: %w", err)
	}
	return s.program(ctx, c.setup, objects)
}

func (s *subject) program(ctx context.Context, settings setup, objects *proxier.Objects) error {
	s.objects, s.store = objects, proxier.NewStore(world.NodeName)
	s.tracker = s.store.Tracker(s.u.family)
	s.store.Update(*objects)
	batch := s.tracker.Take()
	s.planner = plan.NewPlanner(settings.config(s.u, s.mode, batch.Node, batch.ServiceCIDRs))
	s.planner.Update(batch.Inputs)
	p := s.planner.Plan()
	_, err := s.backend.Apply(ctx, plan.Change{Config: p.Config, Services: p.Services, Full: true})
	return err
}

// follow brings what has changed into the kernel.
func (s *subject) follow(ctx context.Context, c *cluster) error {
	objects, err := c.objects()
	if err != nil {
		return fmt.Errorf("a cluster that can't be: %w", err)
	}
	s.store.Update(update(s.objects, objects))
	s.objects = objects
	changed := s.planner.Update(s.tracker.Take().Inputs)
	_, err = s.backend.Apply(ctx, plan.Change{Config: s.planner.Config(), Services: changed})
	return err
}

// check holds what the kernel has against a plan that was made from nothing, as a whole and packet by packet.
func (s *subject) check(ctx context.Context, p *traced) error {
	held, err := s.observe(ctx, p.Plan)
	if err != nil {
		return err
	}
	return compare(p, s.plane.Name, held)
}

// observe reads the rules back. It is an error if they are not those that the plan renders to. Chains of
// nftables that nothing leads to any more may stay for a while.
func (s *subject) observe(ctx context.Context, p *plan.Plan) (tracer, error) {
	if s.mode == proxier.NFTables {
		held, err := nftables.Observe(ctx, nftables.Options{Family: s.u.family, NetNS: s.netns})
		if err != nil {
			return nil, err
		}
		rendered, err := nftables.Render(p)
		if err != nil {
			return nil, err
		}
		if d := nftables.Diff(held, rendered); !d.Empty() {
			return nil, fmt.Errorf("incremental is not full, in %d places: %s", d.Writes(), d.Example())
		}
		return held, nil
	}
	held, err := iptables.Observe(ctx, iptables.Options{Family: s.u.family, NetNS: s.netns, Binary: s.plane.Name})
	if err != nil {
		return nil, err
	}
	rendered, err := iptables.Render(p)
	if err != nil {
		return nil, err
	}
	if !held.Equal(rendered) {
		return nil, fmt.Errorf("incremental is not full: the kernel holds\n%s\nand the plan renders to\n%s", held.Text(), rendered.Text())
	}
	return held, nil
}
