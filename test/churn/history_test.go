package churn

import (
	"context"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
)

// era is a plan that the kernel acknowledged. The kernel may have held it from begun on, and held it from
// acked on, until the next one's acked at most.
type era struct {
	plan         *plan.Plan
	begun, acked time.Time
}

// history are the plans of one family, in order.
type history struct {
	mu   sync.Mutex
	eras []*era
}

// add notes an acknowledged change.
func (h *history) add(c plan.Change, begun, acked time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	services := map[model.ServiceName]*plan.Service{}
	if n := len(h.eras); n > 0 {
		for name, s := range h.eras[n-1].plan.Services {
			if !c.Full || c.Hold[name] {
				services[name] = s
			}
		}
	}
	maps.Copy(services, c.Services)
	maps.DeleteFunc(services, func(_ model.ServiceName, s *plan.Service) bool { return s == nil })
	h.eras = append(h.eras, &era{&plan.Plan{Config: c.Config, Services: services}, begun, acked})
}

// window returns the plans that the kernel may have held at some moment between two, and so many more before
// them.
func (h *history) window(from, to time.Time, grace int) []*era {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := sort.Search(len(h.eras), func(i int) bool { return h.eras[i].acked.After(from) }) - 1 - grace
	last := sort.Search(len(h.eras), func(i int) bool { return h.eras[i].begun.After(to) })
	return slices.Clone(h.eras[max(first, 0):last])
}

// latest returns the last plan, nil if there is none.
func (h *history) latest() *plan.Plan {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.eras) == 0 {
		return nil
	}
	return h.eras[len(h.eras)-1].plan
}

// recorder is a backend whose acknowledged changes go into a history.
type recorder struct {
	proxier.Backend
	history *history
	failed  func(error)
}

// Apply implements proxier.Backend.
func (r *recorder) Apply(ctx context.Context, c plan.Change) (plan.Result, error) {
	begun := time.Now()
	res, err := r.Backend.Apply(ctx, c)
	switch {
	case err == nil:
		r.history.add(c, begun, time.Now())
	case ctx.Err() == nil:
		r.failed(err)
	}
	return res, err
}
