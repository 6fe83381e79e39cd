package proxier

import (
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/plan"
)

// How long a Service in quarantine waits for its next trial: at first, and at most. The time doubles.
const (
	quarantineFirst = 10 * time.Second
	quarantineMost  = 5 * time.Minute
)

// quarantined is a Service that can't be programmed. It takes no part in changes, save in a trial.
type quarantined struct {
	// decision is what could not be programmed; another decision is tried at once.
	decision *plan.Service
	err      error
	since    time.Time
	retry    time.Time
	wait     time.Duration
	// trial says that it takes part again, until it fails or succeeds.
	trial bool
}

// isolate puts a Service into quarantine, or sends it back there.
func (a *application) isolate(name model.ServiceName, decision *plan.Service, err error) {
	now := a.clock.Now()
	q := a.quarantine[name]
	if q == nil {
		q = &quarantined{since: now, wait: quarantineFirst}
		a.quarantine[name] = q
	} else {
		q.wait = min(2*q.wait, quarantineMost)
	}
	q.decision, q.err, q.retry, q.trial = decision, err, now.Add(q.wait), false
	a.isolated = append(a.isolated, name)
	a.log.Error("Service can't be programmed; its last good rules, if any, stay", zap.Stringer("service", name),
		zap.Error(err), zap.Duration("retry", q.wait))
}

// release gives a trial to the Services in quarantine that changed or have waited long enough; the latter
// are added to changed.
func (p *pipeline) release(changed map[model.ServiceName]*plan.Service) {
	now := p.clock.Now()
	for name, q := range p.quarantine {
		decision, touched := changed[name]
		switch {
		case touched && !sameDecision(decision, q.decision):
			q.trial, q.wait = true, quarantineFirst/2 // which isolate doubles
		case !now.Before(q.retry):
			q.trial = true
		}
		if q.trial && !touched {
			changed[name] = q.decision
		}
	}
}

func sameDecision(a, b *plan.Service) bool {
	return a == b || a != nil && b != nil && a.Equal(b)
}

// pardon ends the quarantine of a Service whose trial succeeded.
func (p *pipeline) pardon(name model.ServiceName) {
	if q := p.quarantine[name]; q != nil && q.trial {
		delete(p.quarantine, name)
		p.log.Info("Service is programmed again", zap.Stringer("service", name))
	}
}

// out tells whether a Service takes no part in changes.
func (p *pipeline) out(name model.ServiceName) bool {
	q := p.quarantine[name]
	return q != nil && !q.trial
}

// nextRetry returns when the next Service in quarantine is to be tried again.
func (p *pipeline) nextRetry() (at time.Time, any bool) {
	for _, q := range p.quarantine {
		if !any || q.retry.Before(at) {
			at, any = q.retry, true
		}
	}
	return at, any
}

// disputed returns those of the held Services whose acknowledged frontends the given Services answer at
// now. Their last good rules can't stay: the kernel has room for one holder of a frontend.
func (p *pipeline) disputed(held map[model.ServiceName]bool, services map[model.ServiceName]*plan.Service) []model.ServiceName {
	holders := map[plan.FrontendKey][]model.ServiceName{}
	for name := range held {
		for key := range frontends(p.acked[name]) {
			holders[key] = append(holders[key], name)
		}
	}
	if len(holders) == 0 {
		return nil
	}
	found := map[model.ServiceName]bool{}
	for _, s := range services {
		for key := range frontends(s) {
			for _, name := range holders[key] {
				found[name] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), model.ServiceName.Compare)
}
