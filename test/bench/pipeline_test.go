package bench

import (
	"context"
	"slices"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
)

// pipeline is the way of a change from memory to the kernel, without the loop that paces it.
type pipeline struct {
	store   *proxier.Store
	tracker *proxier.Tracker
	planner *plan.Planner
	backend proxier.Backend
}

func newPipeline(b proxier.Backend) *pipeline {
	store := proxier.NewStore("node")
	return &pipeline{store, store.Tracker(model.IPv4), plan.NewPlanner(config()), b}
}

// cost is what one sync took.
type cost struct {
	// plan is svcproxy's own share before the backend.
	plan, total time.Duration
	writes      int
}

// sync takes objects to the kernel.
func (p *pipeline) sync(ctx context.Context, o proxier.Objects, full bool) (cost, error) {
	start := time.Now()
	p.store.Update(o)
	services := p.planner.Update(p.tracker.Take().Inputs)
	planned := time.Since(start)
	res, err := p.backend.Apply(ctx, plan.Change{Config: p.planner.Config(), Services: services, Full: full})
	return cost{planned, time.Since(start), res.Writes}, err
}

// samples are the costs of many syncs.
type samples []cost

// quantile returns the nearest-rank quantile of something about the costs.
func quantile[T int | time.Duration](s samples, q float64, of func(cost) T) T {
	values := make([]T, len(s))
	for i, c := range s {
		values[i] = of(c)
	}
	slices.Sort(values)
	return values[min(int(q*float64(len(values))), len(values)-1)]
}

func total(c cost) time.Duration    { return c.total }
func planning(c cost) time.Duration { return c.plan }
func writes(c cost) int             { return c.writes }

// sample syncs n changes, one at a time.
func (p *pipeline) sample(ctx context.Context, c *cluster, next change, n int) (samples, error) {
	var all samples
	for range n {
		slice := next(c)
		took, err := p.sync(ctx, proxier.Objects{Slices: map[model.SliceName]*model.Slice{slice.Name: slice}}, false)
		if err != nil {
			return nil, err
		}
		all = append(all, took)
	}
	return all, nil
}

// plan returns the plan of everything, computed from nothing.
func (c *cluster) plan() *plan.Plan { return plan.Build(config(), c.inputs()) }
