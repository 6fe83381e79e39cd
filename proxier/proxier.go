package proxier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/plan"
)

// DefaultMinSync is kube-proxy's default minSyncPeriod.
const DefaultMinSync = time.Second

// DefaultFullSync is how often everything is compared with the kernel without any reason to. Iptables
// gives no notice of a single rule that others change, so it is found after at most this long.
const DefaultFullSync = 5 * time.Minute

// Options are what a Proxier is made of.
type Options struct {
	// Source, Backends and Log are necessary.
	Source   Source
	Backends map[model.Family]Backend
	Log      *zap.Logger
	// BackendName names the backends in metrics and logs: "nftables" or "iptables".
	BackendName string
	Settings    Settings
	// NodeName is the Node to follow.
	NodeName string
	// NetNS is the path of the network namespace that the backends program, empty for the process's own:
	// load balancers' health checks are answered there.
	NetNS string
	// MinSync is the least time from the end of a sync to the next that applies changes; 0 is none.
	MinSync time.Duration
	// FullSync is the time between full comparisons; 0 is DefaultFullSync.
	FullSync time.Duration
	// Conntrack is where stale UDP flows are removed after each sync; nil leaves them.
	Conntrack conntrack.Kernel
	// Metrics belong to this Proxier alone; nil makes new ones.
	Metrics *Metrics
	// Programmed, if any, is called once for each family, after its first sync that succeeded and before the
	// next, from a goroutine of that family.
	Programmed func(ctx context.Context, f model.Family)
	// Clock paces; nil is the real one.
	Clock clock.WithTicker
}

// Proxier brings what a source says into the data planes of both families.
type Proxier struct {
	source Source
	store  *Store
	loops  map[model.Family]*loop
	log    *zap.Logger
	// ended is closed when Run returns.
	ended chan struct{}
}

// New returns a Proxier. It owns the backends from then on: Run closes them.
func New(o Options) (*Proxier, error) {
	switch {
	case o.Source == nil:
		return nil, errors.New("proxier: no source")
	case len(o.Backends) == 0:
		return nil, errors.New("proxier: no backend")
	case o.Log == nil:
		return nil, errors.New("proxier: no log")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	if o.Programmed == nil {
		o.Programmed = func(context.Context, model.Family) {}
	}
	if o.FullSync <= 0 {
		o.FullSync = DefaultFullSync
	}
	notes := &noteLog{log: o.Log}
	p := &Proxier{source: o.Source, store: NewStore(o.NodeName), loops: map[model.Family]*loop{}, log: o.Log, ended: make(chan struct{})}
	o.Metrics.follow(p.store)
	for family, backend := range o.Backends {
		if family != model.IPv4 && family != model.IPv6 {
			return nil, fmt.Errorf("proxier: no such family: %d", family)
		}
		p.loops[family] = newLoop(&o, p.store, family, backend, notes)
	}
	return p, nil
}

func newLoop(o *Options, store *Store, family model.Family, backend Backend, notes *noteLog) *loop {
	t := store.Tracker(family)
	o.Metrics.pending(family, o.BackendName, t)
	p := &pipeline{
		family:     family,
		backend:    backend,
		tracker:    t,
		planner:    plan.NewPlanner(o.Settings.Config(family, model.Node{Name: o.NodeName}, nil)),
		settings:   o.Settings,
		clock:      o.Clock,
		log:        o.Log.With(zap.Stringer("family", family)),
		metrics:    &familyMetrics{Metrics: o.Metrics, family: family.String(), backend: o.BackendName},
		notes:      notes,
		full:       true,
		acked:      map[model.ServiceName]*plan.Service{},
		quarantine: map[model.ServiceName]*quarantined{},
		published:  make(chan struct{}),
	}
	healthy := func() bool { return p.status().Healthy(p.clock.Now()) }
	p.health = newHealthPorts(family, namespace(o.NetNS), healthy, o.Clock, p.log)
	p.flows = newFlows(o, family, p.log, p.metrics)
	return &loop{
		pipeline: p,
		clock:    o.Clock,
		onFirst:  o.Programmed,
		schedule: schedule{
			minInterval:  o.MinSync,
			fullInterval: o.FullSync,
			jitter:       func(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d)/10+1)) },
		},
		drifts: make(chan string, 1),
		blind:  make(chan struct{}, 1),
	}
}

// Run programs what the source says, as soon as that is complete, until ctx ends or the source fails. What
// is programmed stays. It returns nil if ctx ended, and may be called once.
func (p *Proxier) Run(ctx context.Context) error {
	defer close(p.ended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var loops sync.WaitGroup
	for _, l := range p.loops {
		loops.Go(func() {
			select {
			case <-ctx.Done():
			case <-p.store.WaitSynced():
				p.log.Debug("Services and slices are known; programming starts", zap.Stringer("family", l.family))
			}
			l.run(ctx)
		})
	}
	err := p.source.Run(ctx, p.store)
	if ctx.Err() != nil {
		err = nil
	} else if err != nil {
		err = fmt.Errorf("source: %w", err)
	} else {
		<-ctx.Done() // a source without changes
	}
	cancel()
	loops.Wait()
	return err
}

// Status is the state of the data planes.
type Status struct {
	Families map[model.Family]FamilyStatus
}

// Status returns the present state. It is safe for concurrent use.
func (p *Proxier) Status() Status {
	s := Status{Families: map[model.Family]FamilyStatus{}}
	for family, l := range p.loops {
		s.Families[family] = l.status()
	}
	return s
}
