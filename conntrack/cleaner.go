package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// ErrInterrupted says that what the kernel listed is not complete, and that to ask again may help.
var ErrInterrupted = errors.New("the kernel's list was interrupted")

// Kernel opens the connection tracking table of a network namespace.
type Kernel interface {
	Open() (Table, error)
}

// Table is a connection tracking table. It is not safe for concurrent use, but flows may be deleted while
// others are read.
type Table interface {
	// Flows reads the flows of a family and protocol, and maybe others, and hands each to yield, until that
	// returns false. Some may come twice, and some that are made or end meanwhile not at all. An error that is
	// ErrInterrupted says that others are missing.
	Flows(ctx context.Context, f model.Family, p model.Protocol, yield func(Flow) bool) error
	// Delete deletes flows of a family, and returns how many of them were still there. A flow that took the
	// place of one of them stays.
	Delete(ctx context.Context, f model.Family, flows []Flow) (deleted int, err error)
	// Own returns the node's own addresses.
	Own(ctx context.Context, f model.Family) ([]netip.Prefix, error)
	Close() error
}

const (
	// batchSize is how many stale flows are deleted at once, and kept in memory.
	batchSize = 128
	// maxReadings is how often a table is read until a reading was not interrupted.
	maxReadings = 5
)

// Cleaner removes the stale flows of one family. Its methods are called from one goroutine.
type Cleaner struct {
	family  model.Family
	kernel  Kernel
	journal journal
	// settled says that flows of frontends that went before the start are removed, as far as settledIn tells: the
	// Service ranges that were known by then, as an API server may give them later than Services.
	settled   bool
	settledIn []netip.Prefix
	// host are the node's own addresses as of late: at others nothing was looked for.
	host Host
}

// NewCleaner returns a Cleaner that has removed nothing yet.
func NewCleaner(f model.Family, k Kernel) *Cleaner { return &Cleaner{family: f, kernel: k} }

// Acknowledged notes a change that the kernel took, and what it had acknowledged before. All changes must be
// noted.
func (c *Cleaner) Acknowledged(change plan.Change, before map[model.ServiceName]*plan.Service) {
	c.journal.acknowledged(change, before)
}

// Failed notes a change that failed, of which the kernel may have taken any part.
func (c *Cleaner) Failed(change plan.Change) { c.journal.failed(change) }

// Occasion is when a clean-up is wanted.
type Occasion struct {
	// Plan is what the kernel acknowledged.
	Plan plan.Plan
	// Full asks to read the table whether there is a reason to or not.
	Full bool
	// Partial says that the kernel did not take all Services, so that a frontend that nobody holds may
	// still be somebody's.
	Partial bool
}

// Report is what a clean-up did.
type Report struct {
	// Skipped says that there was nothing to find.
	Skipped bool
	// Read counts the flows that were looked at, those of further readings too, and Deleted the stale ones.
	Read, Deleted int
}

// Clean removes the stale flows. After an error the next Clean does what this one left.
func (c *Cleaner) Clean(ctx context.Context, o Occasion) (Report, error) {
	start := !o.Partial && !c.settledFor(o.Plan.Config)
	wanted := o.Full || start || c.journal.due
	if !wanted && c.journal.nodePorts == 0 {
		return Report{Skipped: true}, nil
	}
	table, err := c.kernel.Open()
	if err != nil {
		return Report{}, c.failed(err)
	}
	defer table.Close()
	own, err := table.Own(ctx, c.family)
	if err != nil {
		return Report{}, c.failed(fmt.Errorf("own addresses: %w", err))
	}
	host := NewHost(own)
	if !wanted && host.within(c.host) {
		c.host = host
		return Report{Skipped: true}, nil
	}
	w := sweep{table: table, family: c.family, situation: Situation{o.Plan, c.journal.tombstones, host, start}}
	if err := w.all(ctx); err != nil {
		c.journal.due = true
		return w.report, c.failed(err)
	}
	c.journal.cleaned()
	if c.host = host; start {
		c.settled, c.settledIn = true, slices.Concat(c.settledIn, o.Plan.Config.ServiceCIDRs)
	}
	return w.report, nil
}

// settledFor tells whether flows of frontends that went before the start are removed in all Service ranges.
func (c *Cleaner) settledFor(config plan.Config) bool {
	return c.settled && !slices.ContainsFunc(config.ServiceCIDRs, func(p netip.Prefix) bool { return !slices.Contains(c.settledIn, p) })
}

func (c *Cleaner) failed(err error) error {
	return fmt.Errorf("clean up connection tracking, %s: %w", c.family, err)
}

// sweep is one clean-up. The situation is that of its beginning throughout.
type sweep struct {
	table     Table
	family    model.Family
	situation Situation
	report    Report
	batch     []Flow
}

// all reads the table until a reading was complete. What an interrupted reading showed is deleted as well:
// each flow is judged by itself.
func (w *sweep) all(ctx context.Context) (err error) {
	w.batch = make([]Flow, 0, batchSize)
	for range maxReadings {
		if err = w.once(ctx); !errors.Is(err, ErrInterrupted) {
			return err
		}
	}
	return fmt.Errorf("%d times: %w", maxReadings, err)
}

// once reads the table once, and deletes what is stale in the course of it, so that memory does not grow with
// the number of flows.
func (w *sweep) once(ctx context.Context) error {
	var failed error
	flows := func(yield func(Flow) bool) {
		failed = w.table.Flows(ctx, w.family, model.UDP, func(f Flow) bool {
			w.report.Read++
			return yield(f)
		})
	}
	for f := range Stale(w.situation, flows) {
		if w.batch = append(w.batch, f); len(w.batch) == batchSize {
			if err := w.delete(ctx); err != nil {
				return err
			}
		}
	}
	return errors.Join(failed, w.delete(ctx))
}

func (w *sweep) delete(ctx context.Context) error {
	if len(w.batch) == 0 {
		return nil
	}
	n, err := w.table.Delete(ctx, w.family, w.batch)
	w.report.Deleted += n
	w.batch = w.batch[:0]
	if err != nil {
		return fmt.Errorf("delete stale flows: %w", err)
	}
	return nil
}
