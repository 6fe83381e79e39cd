package proxier

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/plan"
)

// How long a clean-up of connection tracking that failed waits for the next, unless a sync comes before: at
// first, and at most. The time doubles.
const (
	flowsRetryFirst = 10 * time.Second
	flowsRetryMost  = 5 * time.Minute
)

// flows keeps connection tracking clean for one family. A nil one does nothing.
type flows struct {
	cleaner *conntrack.Cleaner
	clock   clock.PassiveClock
	log     *zap.Logger
	metrics *familyMetrics
	// failures counts the clean-ups that failed since one succeeded, and reported is what was last said of
	// them.
	failures int
	reported string
	retry    time.Time
}

func newFlows(o *Options, f model.Family, log *zap.Logger, m *familyMetrics) *flows {
	if o.Conntrack == nil {
		return nil
	}
	return &flows{cleaner: conntrack.NewCleaner(f, o.Conntrack), clock: o.Clock, log: log, metrics: m}
}

// acknowledged notes a change that the backend took, and what it had acknowledged before.
func (f *flows) acknowledged(c plan.Change, before map[model.ServiceName]*plan.Service) {
	if f != nil {
		f.cleaner.Acknowledged(c, before)
	}
}

// failed notes a change of which the kernel may have taken any part.
func (f *flows) failed(c plan.Change) {
	if f != nil {
		f.cleaner.Failed(c)
	}
}

// clean removes the flows that are stale after a sync that succeeded. A failure is no failure of the sync: what
// is programmed is right.
func (f *flows) clean(ctx context.Context, p *pipeline, full bool) {
	if f == nil || ctx.Err() != nil {
		return
	}
	start := f.clock.Now()
	report, err := f.cleaner.Clean(ctx, conntrack.Occasion{
		Plan:    plan.Plan{Config: p.planner.Config(), Services: p.acked},
		Full:    full,
		Partial: len(p.quarantine) > 0,
	})
	if ctx.Err() != nil {
		return
	}
	end := f.clock.Now()
	if !report.Skipped || err != nil {
		f.metrics.cleaned(report, end.Sub(start), err)
	}
	f.say(report, end, err)
}

// say logs what is worth it: each failure once, and its end.
func (f *flows) say(report conntrack.Report, now time.Time, err error) {
	if err != nil {
		f.retry = now.Add(doubled(flowsRetryFirst, flowsRetryMost, f.failures))
		f.failures++
		if text := err.Error(); text != f.reported {
			f.reported = text
			f.log.Warn("connection tracking is not clean; UDP clients may go on to send to endpoints that are gone, until a clean-up succeeds", zap.Error(err))
		}
		return
	}
	if f.failures > 0 {
		f.log.Info("connection tracking is clean again", zap.Int("failures", f.failures))
	}
	f.failures, f.reported, f.retry = 0, "", time.Time{}
	if report.Deleted > 0 {
		f.log.Info("stale UDP flows were removed", zap.Int("removed", report.Deleted), zap.Int("read", report.Read))
	}
}

// nextTry returns when to sync for the sake of a clean-up that failed, if that is before at, or at is zero.
func (f *flows) nextTry(at time.Time) time.Time {
	if f == nil || f.retry.IsZero() {
		return at
	}
	if at.IsZero() {
		return f.retry
	}
	return earlier(at, f.retry)
}

// flowMetrics are the metrics of connection tracking.
type flowMetrics struct {
	took                  *prometheus.HistogramVec
	deleted, read, failed *prometheus.CounterVec
}

func newFlowMetrics(m *Metrics) flowMetrics {
	kubeProxy, own := []string{"ip_family"}, []string{"family"}
	return flowMetrics{
		took:    m.histogram("kubeproxy_conntrack_reconciler_sync_duration_seconds", "ReconcileConntrackFlowsLatency latency in seconds", kubeProxy),
		deleted: m.counter("kubeproxy_conntrack_reconciler_deleted_entries_total", "Cumulative conntrack flows deleted by conntrack reconciler", kubeProxy),
		read:    m.counter("svcproxy_conntrack_read_flows_total", "Flows that were looked at to find the stale ones", own),
		failed:  m.counter("svcproxy_conntrack_errors_total", "Clean-ups of connection tracking that failed and are retried", own),
	}
}

// cleaned counts one clean-up.
func (m *familyMetrics) cleaned(r conntrack.Report, took time.Duration, err error) {
	m.flows.took.WithLabelValues(m.family).Observe(took.Seconds())
	m.flows.deleted.WithLabelValues(m.family).Add(float64(r.Deleted))
	m.flows.read.WithLabelValues(m.family).Add(float64(r.Read))
	failed := m.flows.failed.WithLabelValues(m.family)
	if err != nil {
		failed.Inc()
	}
}
