package oracle

import (
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// The plan, what the kernel holds for nftables after every step, and what iptables reads, agree about every
// packet; and what the kernel holds is what a plan made from nothing renders to.
func TestPlanAndRulesAgree(t *testing.T) {
	t.Parallel()
	for _, f := range model.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			u := universes[f]
			s := newSubject(t, u, dataplane.NFTables, nstest.New(t).Path())
			dir := t.TempDir()
			clusters, sent := 0, 0
			rapid.Check(t, func(t *rapid.T) {
				sequence(t, s, 40, func(c *cluster, n *traced) error {
					clusters, sent = clusters+1, sent+len(n.packets)
					other, err := c.plan(u, proxier.IPTables)
					if err != nil {
						return err
					}
					i := trace(other, n.packets)
					if err := comparePlans(n, i); err != nil {
						return err
					}
					if err := compareIPTables(u, i); err != nil {
						return err
					}
					if clusters%16 == 1 {
						return replays(c, u, dir, n.Plan)
					}
					return nil
				})
			})
			t.Logf("%d clusters, %d packets", clusters, sent)
		})
	}
}

// The same for iptables in the kernel, by both of its kernel APIs.
func TestPlanAndIPTablesInTheKernelAgree(t *testing.T) {
	t.Parallel()
	for _, plane := range []dataplane.Plane{dataplane.IPTablesLegacy, dataplane.IPTablesNFT} {
		for _, f := range model.Families {
			t.Run(plane.Name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				s := newSubject(t, universes[f], plane, nstest.New(t).Path())
				rapid.Check(t, func(t *rapid.T) {
					sequence(t, s, 3, func(*cluster, *traced) error { return nil })
				})
			})
		}
	}
}

// sequence draws a cluster and changes to it, and holds the kernel against the plan after each.
func sequence(t *rapid.T, s *subject, steps int, more func(*cluster, *traced) error) {
	ctx := context.Background()
	c := drawCluster(t)
	err := s.begin(ctx, c)
	var before *cluster
	for i := range rapid.IntRange(1, steps).Draw(t, "steps") {
		if i > 0 {
			before, c = c, c.change(t)
			err = s.follow(ctx, c)
		}
		if err == nil {
			err = s.judge(ctx, c, more)
		}
		if err != nil {
			t.Fatalf("%s\nafter step %d, with %s", err, i, shown(before, c))
		}
	}
}

func (s *subject) judge(ctx context.Context, c *cluster, more func(*cluster, *traced) error) error {
	p, err := c.plan(s.u, s.mode)
	if err != nil {
		return err
	}
	said := trace(p, packets(s.u, p))
	if err := s.check(ctx, said); err != nil {
		return err
	}
	return more(c, said)
}

// shown prints a cluster, and the one before it if there was one.
func shown(before, c *cluster) string {
	if before == nil {
		return "this manifest, which replays as a file in testdata:\n" + c.manifest()
	}
	return fmt.Sprintf("this manifest, which replays as a file in testdata:\n%s\nwhich came after:\n%s", c.manifest(), before.manifest())
}

// replays tells whether the manifest leads to the same plan.
func replays(c *cluster, u *universe, dir string, want *plan.Plan) error {
	l, err := c.saved(dir)
	if err != nil {
		return fmt.Errorf("the manifest can't be loaded: %w", err)
	}
	return samePlan(want, l.plan(u, proxier.NFTables))
}
