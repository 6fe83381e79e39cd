package hostile

import (
	"context"
	"errors"
	"sync"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
)

// recorder is a backend that remembers what it acknowledged and every error. It refuses a change that has one
// of the Services that it was told to.
type recorder struct {
	proxier.Backend
	refuse map[model.ServiceName]bool

	mu     sync.Mutex
	acked  map[model.ServiceName]*plan.Service
	errors []error
}

func record(b proxier.Backend, refuse ...model.ServiceName) *recorder {
	r := &recorder{Backend: b, refuse: map[model.ServiceName]bool{}, acked: map[model.ServiceName]*plan.Service{}}
	for _, name := range refuse {
		r.refuse[name] = true
	}
	return r
}

func (r *recorder) Apply(ctx context.Context, c plan.Change) (plan.Result, error) {
	for name, s := range c.Services {
		if s != nil && r.refuse[name] {
			return plan.Result{}, &plan.RefusedError{Err: errors.New("invalid argument")}
		}
	}
	res, err := r.Backend.Apply(ctx, c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.errors = append(r.errors, err)
		return res, err
	}
	if c.Full {
		for name := range r.acked {
			if !c.Hold[name] {
				delete(r.acked, name)
			}
		}
	}
	merge(r.acked, c.Services)
	return res, nil
}

// holds tells whether what was acknowledged is a plan.
func (r *recorder) holds(p *plan.Plan) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.acked) != len(p.Services) {
		return false
	}
	for name, s := range p.Services {
		if a := r.acked[name]; a == nil || !a.Equal(s) {
			return false
		}
	}
	return true
}

// failures returns the errors so far.
func (r *recorder) failures() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errors
}

// service returns what was acknowledged of one Service, or nil.
func (r *recorder) service(name model.ServiceName) *plan.Service {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked[name]
}
