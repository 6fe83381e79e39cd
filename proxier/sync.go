package proxier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"svcproxy/model"
	"svcproxy/plan"
)

// pipeline leads the changes of one IP family into its backend. Its methods are called from one goroutine,
// status apart.
type pipeline struct {
	family   model.Family
	backend  Backend
	tracker  *Tracker
	planner  *plan.Planner
	settings Settings
	clock    clock.PassiveClock
	log      *zap.Logger
	metrics  *familyMetrics
	flows    *flows
	// notes are those of both families.
	notes *noteLog
	// health answers at health-check node ports.
	health *healthPorts

	// full says that the kernel may hold anything, so that the next change must be a full one.
	full bool
	// acked are the decisions that the backend acknowledged.
	acked      map[model.ServiceName]*plan.Service
	quarantine map[model.ServiceName]*quarantined

	mu     sync.Mutex
	public FamilyStatus
	// applied is the version of what was last programmed; published is closed when it may be another.
	applied   uint64
	published chan struct{}
}

// syncReport is what a sync did.
type syncReport struct {
	full   bool
	writes int
	drift  int
	// example describes one drifted rule or element.
	example string
}

// sync applies what changed. With full it also compares everything with the kernel. After an error all of
// it is dirty again, and the next sync is a full one.
func (p *pipeline) sync(ctx context.Context, full bool) (report syncReport, err error) {
	p.pend()
	batch, trusted := p.tracker.Take(), !p.full
	if lacks := p.settings.undetected(batch.Node); p.notes.changed("local detection", lacks) {
		p.log.Warn(lacks)
	}
	if c := p.settings.Config(p.family, batch.Node, batch.ServiceCIDRs); !c.Equal(p.planner.Config()) {
		p.planner.SetConfig(c)
		p.full = true
	}
	a := &application{pipeline: p, ctx: ctx, changed: p.planner.Update(batch.Inputs), trusted: trusted}
	p.release(a.changed)
	p.warn(a.changed)
	a.report.full = p.full || full
	defer func() {
		report = a.report
		if err != nil {
			p.full = true
			p.tracker.PutBack(slices.Collect(maps.Keys(a.changed)))
		}
		p.publish(batch.version, err)
	}()
	if len(a.changed) == 0 && !a.report.full {
		return a.report, nil
	}
	if err := a.apply(); err != nil {
		return a.report, fmt.Errorf("%s: %w", p.family, err)
	}
	p.full = false
	a.publishHealth()
	return a.report, nil
}

// application is the application of one set of changes.
type application struct {
	*pipeline
	ctx     context.Context
	changed map[model.ServiceName]*plan.Service
	report  syncReport
	// isolated are the Services that went to quarantine.
	isolated []model.ServiceName
	// trusted says that the kernel should hold what was acknowledged, so that anything else is the work of
	// others.
	trusted bool
}

// apply brings the changes into the backend: at once if it takes them; else, if it refuses, after a full
// comparison, since the kernel may not hold what was acknowledged; else without the Services at fault.
func (a *application) apply() error {
	if !a.report.full {
		err := a.incremental(a.changed)
		if !refused(err) {
			return err
		}
		a.log.Warn("refused; comparing everything with the kernel", zap.Error(err))
		a.report.full = true
	}
	err := a.compare(nil)
	if !refused(err) {
		return err
	}
	a.log.Warn("refused again; looking for the Service at fault", zap.Error(err))
	return a.search(err)
}

// refused tells whether a Service may be at fault.
func refused(err error) bool {
	var r *plan.RefusedError
	return errors.As(err, &r)
}

// incremental applies decisions against what was acknowledged, those about Services in quarantine apart.
// Services that the backend names as unrenderable go there, and the rest is applied without them.
func (a *application) incremental(decisions map[model.ServiceName]*plan.Service) error {
	for {
		services := maps.Clone(decisions)
		maps.DeleteFunc(services, func(name model.ServiceName, _ *plan.Service) bool { return a.out(name) })
		for _, name := range a.disputed(a.held(nil), services) {
			services[name] = nil
		}
		if len(services) == 0 {
			return nil
		}
		err := a.do(plan.Change{Config: a.planner.Config(), Services: services})
		if !a.isolateFault(err, services) {
			return err
		}
	}
}

// compare applies the whole plan, comparing with the kernel. The Services in hold and those in quarantine
// keep what was acknowledged for them.
func (a *application) compare(hold map[model.ServiceName]bool) error {
	for {
		held := a.held(hold)
		services := a.planner.Plan().Services
		maps.DeleteFunc(services, func(name model.ServiceName, _ *plan.Service) bool { return held[name] })
		for _, name := range a.disputed(held, services) {
			delete(held, name)
		}
		err := a.do(plan.Change{Config: a.planner.Config(), Services: services, Full: true, Hold: held})
		if !a.isolateFault(err, services) {
			return err
		}
	}
}

// held returns the Services in hold and those in quarantine.
func (p *pipeline) held(hold map[model.ServiceName]bool) map[model.ServiceName]bool {
	held := make(map[model.ServiceName]bool, len(hold)+len(p.quarantine))
	maps.Copy(held, hold)
	for name := range p.quarantine {
		if p.out(name) {
			held[name] = true
		}
	}
	return held
}

// isolateFault quarantines the Service that an error names, and tells whether it named one of these.
func (a *application) isolateFault(err error, services map[model.ServiceName]*plan.Service) bool {
	var fault *plan.ServiceError
	if !errors.As(err, &fault) {
		return false
	}
	decision, applied := services[fault.Service]
	if !applied || a.out(fault.Service) {
		return false
	}
	a.isolate(fault.Service, decision, err)
	return true
}

// do hands one change to the backend, and remembers what it acknowledged.
func (a *application) do(c plan.Change) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	start := a.clock.Now()
	result, err := a.backend.Apply(a.ctx, c)
	if err != nil {
		// Of what is refused nothing was taken; anything else may have left anything.
		if !refused(err) {
			a.trusted = false
			a.flows.failed(c)
		}
		return err
	}
	a.metrics.applied(c.Full, a.clock.Since(start))
	a.flows.acknowledged(c, a.acked)
	a.report.writes += result.Writes
	if result.Drift > 0 && a.trusted {
		a.report.drift += result.Drift
		a.report.example = result.Example
	}
	if c.Full {
		a.trusted = true
		maps.DeleteFunc(a.acked, func(name model.ServiceName, _ *plan.Service) bool { return !c.Hold[name] })
		for name := range a.quarantine {
			if !c.Hold[name] {
				a.pardon(name)
			}
		}
	}
	for name, s := range c.Services {
		if s == nil {
			delete(a.acked, name)
		} else {
			a.acked[name] = s
		}
		a.pardon(name)
	}
	return nil
}

// publishHealth lets load balancers know what was programmed.
func (a *application) publishHealth() {
	var names []model.ServiceName // all
	if !a.report.full && len(a.quarantine) == 0 {
		names = slices.Collect(maps.Keys(a.changed))
	}
	a.health.take(a.planner.Config().NodePorts, a.acked, names)
}

// pend notes that there is something to do.
func (p *pipeline) pend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.public.Pending.IsZero() {
		p.public.Pending = p.clock.Now()
	}
}

// publish makes the pipeline's state visible to others, after a sync of what the Tracker had at a version.
func (p *pipeline) publish(version uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		close(p.published)
		p.published = make(chan struct{})
	}()
	p.public.Services = len(p.acked)
	p.public.Err = err
	if err == nil {
		p.public.Synced, p.public.Pending = p.clock.Now(), time.Time{}
		p.applied = version
	}
	p.public.Quarantined = p.public.Quarantined[:0:0]
	for _, name := range slices.SortedFunc(maps.Keys(p.quarantine), model.ServiceName.Compare) {
		q := p.quarantine[name]
		p.public.Quarantined = append(p.public.Quarantined, Quarantined{Service: name, Err: q.err, Since: q.since, Retry: q.retry})
	}
	p.metrics.synced(p.public)
}

// status returns the pipeline's state.
func (p *pipeline) status() FamilyStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.public
}

// FamilyStatus is the state of one IP family's data plane.
type FamilyStatus struct {
	// Synced is when a sync last succeeded; zero until one does.
	Synced time.Time
	// Pending is since when there has been something to program or to compare that was not done; zero if
	// there is nothing.
	Pending time.Time
	// Err is why the last sync failed, or nil.
	Err error
	// Services is the number of Services that are programmed.
	Services int
	// Quarantined are the Services that can't be programmed, in order; the last good rules of each stay.
	Quarantined []Quarantined
	// Fighting says that something keeps changing what is programmed, so that repairs are held back.
	Fighting bool
}

// HealthTimeout is how long changes may wait to be programmed until the proxy counts as unhealthy: twice
// kube-proxy's syncPeriod, as for kube-proxy.
const HealthTimeout = time.Minute

// Healthy tells whether what is programmed is up to date, or has not been overdue for long.
func (s FamilyStatus) Healthy(now time.Time) bool {
	return s.Pending.IsZero() || now.Sub(s.Pending) < HealthTimeout
}

// Quarantined is a Service that can't be programmed.
type Quarantined struct {
	Service model.ServiceName
	Err     error
	Since   time.Time
	// Retry is when it will be tried again, unless it changes before.
	Retry time.Time
}
