package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/plan"
)

// Options choose what a Backend programs.
type Options struct {
	Family model.Family
	// NetNS is the path of a network namespace; empty means the caller's own.
	NetNS string
	// Binary is the IPv4 program, such as "iptables-legacy" or "iptables-nft", where "iptables" is not
	// meant. The IPv6 program's name follows from it.
	Binary string
	// Log is nil where nothing is to be logged.
	Log *zap.Logger
	// CanaryPeriod is the time between two looks at the canary chains; 0 means 4 seconds.
	CanaryPeriod time.Duration
}

// defaultCanaryPeriod leaves a second of five for the look itself, which on the legacy kernel API reads the
// whole table.
const defaultCanaryPeriod = 4 * time.Second

// Backend programs one IP family through iptables.
type Backend struct {
	kernel   *kernel
	log      *zap.Logger
	writer   *writer
	features features
	period   time.Duration
	// acknowledged is what the kernel took last, nil before the first full change.
	acknowledged *state
	// programmed tells Watch that there are canaries to look at.
	programmed atomic.Bool
}

// New returns a Backend. It changes no rules. Its error is ErrUnavailable where the node lacks a program or
// a part of the kernel, and ErrPermission where the process lacks a capability.
func New(o Options) (*Backend, error) {
	k, err := openKernel(o.Family, o.NetNS, o.Binary)
	if err != nil {
		return nil, err
	}
	if err := k.probe(); err != nil {
		return nil, err
	}
	f, err := k.features()
	if err != nil {
		return nil, err
	}
	b := &Backend{kernel: k, log: logger(o), features: f, period: o.CanaryPeriod}
	b.writer = &writer{kernel: k, log: b.log}
	if b.period == 0 {
		b.period = defaultCanaryPeriod
	}
	return b, nil
}

func logger(o Options) *zap.Logger {
	if o.Log == nil {
		return zap.NewNop()
	}
	return o.Log
}

// Apply brings a change into the kernel with one transaction a table; a third one if in the same change
// some Services lose all endpoints and others get their first; more where the kernel takes no large ones.
// Its error is a *plan.ServiceError or a *plan.RefusedError where a Service may be at fault; then the kernel
// holds what it held before.
func (b *Backend) Apply(ctx context.Context, c plan.Change) (plan.Result, error) {
	if c.Full {
		return b.applyFull(ctx, c)
	}
	if b.acknowledged == nil {
		return plan.Result{}, errors.New("the first change must be a full one")
	}
	p, err := b.acknowledged.step(c.Services)
	if err != nil {
		return plan.Result{}, err
	}
	written, err := b.writer.write(ctx, p.deltas())
	if err != nil {
		return plan.Result{}, err
	}
	b.acknowledged.commit(p)
	return plan.Result{Writes: written}, nil
}

// applyFull makes the kernel equal to a whole plan, whatever it holds.
func (b *Backend) applyFull(ctx context.Context, c plan.Change) (plan.Result, error) {
	next, err := newState(c.Config, b.features, b.held(c))
	if err != nil {
		return plan.Result{}, err
	}
	defer next.forget()
	want := next.ruleset()
	observed, err := b.kernel.observe(ctx)
	if err != nil {
		return plan.Result{}, fmt.Errorf("read back: %w", err)
	}
	if err := observed.readable(); err != nil {
		b.log.Warn("writing all chains, whatever the kernel holds", zap.Error(err))
	}
	var result plan.Result
	if b.acknowledged != nil {
		if result.Drift, result.Example, err = b.drift(next, want, observed); err != nil {
			return plan.Result{}, err
		}
	}
	jumps, err := b.jump(observed, want)
	if err != nil {
		return plan.Result{}, err
	}
	written, err := b.writer.write(ctx, replace(observed, want, next))
	if err != nil {
		return plan.Result{}, err
	}
	b.loopback(&next.config)
	result.Writes = jumps + written
	b.acknowledged = next
	b.programmed.Store(true)
	return result, nil
}

// loopback lets packets to loopback addresses leave the node where node ports answer there. It comes after the
// rule that keeps others out. Like kube-proxy's, the setting outlives the rules, since others may have
// come to need it.
func (b *Backend) loopback(c *plan.Config) {
	if !onLoopback(c) {
		return
	}
	if err := b.kernel.routeLocalnet(); err != nil {
		b.log.Warn("node ports won't answer on loopback addresses", zap.Error(err))
	}
}

// held returns the Services of a full change, and those that keep what was acknowledged for them.
func (b *Backend) held(c plan.Change) map[model.ServiceName]*plan.Service {
	services := maps.Clone(c.Services)
	maps.DeleteFunc(services, func(_ model.ServiceName, s *plan.Service) bool { return s == nil })
	if services == nil {
		services = map[model.ServiceName]*plan.Service{}
	}
	if b.acknowledged != nil {
		for name := range c.Hold {
			if s := b.acknowledged.services[name]; s != nil {
				services[name] = s
			}
		}
	}
	return services
}

// drift compares what the kernel holds with what it took last, which is what it is to hold now unless the
// plan has changed since.
func (b *Backend) drift(next *state, want, observed *Ruleset) (int, string, error) {
	last := b.acknowledged
	if last.config.Equal(next.config) && maps.Equal(last.services, next.services) {
		n, example := drift(want, observed)
		return n, example, nil
	}
	again, err := newState(last.config, last.features, last.services)
	if err != nil {
		return 0, "", fmt.Errorf("render what was acknowledged: %w", err)
	}
	n, example := drift(again.ruleset(), observed)
	return n, example, nil
}

// jump makes sure of the rules in built-in chains. It comes before the tables fill up, as each takes a
// process that on the legacy kernel API reads and writes the whole table.
func (b *Backend) jump(observed, want *Ruleset) (written int, err error) {
	for _, name := range tableNames {
		missing, _ := jumpDiff(observed.table(name).Jumps, want.table(name).Jumps)
		// Each goes to the front, so the last one comes first.
		for _, j := range slices.Backward(missing) {
			for _, old := range observed.table(name).Jumps {
				if old.unreached && old.same(j) {
					if err := b.kernel.unjump(name, old); err != nil {
						return written, err
					}
					written++
				}
			}
			if err := b.kernel.jump(name, j); err != nil {
				return written, err
			}
			written++
		}
	}
	return written, nil
}

// replace returns the transactions that turn what was observed into what is wanted.
func replace(observed, want *Ruleset, next *state) []delta {
	filter := func(l *lists) map[string][]Rule {
		chains := map[string][]Rule{}
		fixedChains(tableFilter, &next.config, next.features, chains)
		l.filterChains(&next.config, chains)
		return chains
	}
	nat := diff(tableNAT, observed.NAT.Chains, want.NAT.Chains, observed.NAT.foreign)
	nat.unlink(&observed.NAT)
	deltas := order(&observed.Filter, filter, observed.refusals(), next.lists, nat)
	for i := range deltas {
		if deltas[i].table == tableFilter {
			deltas[i].unlink(&observed.Filter)
			break
		}
	}
	return deltas
}

// Watch looks at the canary chains and calls drifted when one is gone, as it is after somebody has flushed
// a table, until ctx ends. Single rules are compared by a full change only. The error is that of iptables
// when it failed three times in a row.
func (b *Backend) Watch(ctx context.Context, drifted func(what string)) error {
	ticker := time.NewTicker(b.period)
	defer ticker.Stop()
	failures, canaries := 0, canaries{b.kernel, map[string]tableSize{}}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if !b.programmed.Load() {
			continue
		}
		dead, err := canaries.dead()
		switch {
		case err == nil:
			failures = 0
		case ctx.Err() != nil:
			return nil
		default:
			if failures++; failures == 3 {
				return fmt.Errorf("look for flushed tables: %w", err)
			}
			b.log.Warn("looking for flushed tables failed", zap.Error(err))
		}
		if dead != "" {
			drifted(fmt.Sprintf("table %s of %s was flushed: chain %s is gone or empty", dead, b.kernel.family, chainCanary))
		}
	}
}

// Close releases nothing, as a Backend holds nothing open; what is programmed stays.
func (b *Backend) Close() error { return nil }

// Observe reads back what the kernel holds for the Service proxy, be it svcproxy's or kube-proxy's. Its error
// is ErrUnreadable where somebody else's rules hide a table from iptables.
func Observe(ctx context.Context, o Options) (*Ruleset, error) {
	k, err := openKernel(o.Family, o.NetNS, o.Binary)
	if err != nil {
		return nil, err
	}
	r, err := k.observe(ctx)
	if err != nil {
		return nil, err
	}
	return r, r.readable()
}
