package proxier

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"svcproxy/model"
)

// Metrics are the metrics of one Proxier, under kube-proxy's names where kube-proxy has them.
type Metrics struct {
	registry *prometheus.Registry

	duration, fullDuration, partialDuration *prometheus.HistogramVec
	lastSync, lastQueued                    *prometheus.GaugeVec
	restoreFailures, nftablesFailures       *prometheus.CounterVec

	errors, repaired, writes, fights    *prometheus.CounterVec
	quarantined, programmed, inConflict *prometheus.GaugeVec

	flows flowMetrics
}

// NewMetrics returns metrics with a registry of their own, which has the Go runtime's and the process's
// metrics as well.
func NewMetrics() *Metrics {
	family, both := []string{"ip_family"}, []string{"family", "backend"}
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	m.duration = m.histogram("kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", family)
	m.fullDuration = m.histogram("kubeproxy_sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs", family)
	m.partialDuration = m.histogram("kubeproxy_sync_partial_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for partial resyncs", family)
	m.lastSync = m.gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced", family)
	m.lastQueued = m.gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued", family)
	m.restoreFailures = m.counter("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "Cumulative proxy iptables restore failures", family)
	m.nftablesFailures = m.counter("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures", family)

	m.errors = m.counter("svcproxy_sync_errors_total", "Syncs that failed and are retried", both)
	m.repaired = m.counter("svcproxy_drift_repaired_total", "Rules and set elements that others had changed and that were put right", both)
	m.writes = m.counter("svcproxy_writes_total", "Rules and set elements that were added or deleted", both)
	m.fights = m.counter("svcproxy_fights_total", "Times that others kept changing what is programmed, so that repairs were held back", both)
	m.quarantined = m.gauge("svcproxy_quarantined_services", "Services that can't be programmed", both)
	m.programmed = m.gauge("svcproxy_programmed_services", "Services that are programmed", both)
	m.inConflict = m.gauge("svcproxy_fighting", "1 while others keep changing what is programmed", both)
	m.flows = newFlowMetrics(m)
	return m
}

// Handler serves the metrics in Prometheus' formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *Metrics) histogram(name, help string, labels []string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string, labels []string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) counter(name, help string, labels []string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

// follow exports what a store and its trackers count.
func (m *Metrics) follow(s *Store) {
	counter := func(name, help string, f func() float64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
	}
	counter("kubeproxy_sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes",
		func() float64 { return float64(s.Changes().Services) })
	counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes",
		func() float64 { return float64(s.Changes().Slices) })
}

// pending exports how many Services a tracker has changes of.
func (m *Metrics) pending(f model.Family, backend string, t *Tracker) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "svcproxy_pending_services",
		Help:        "Services with changes that were not applied yet",
		ConstLabels: prometheus.Labels{"family": f.String(), "backend": backend},
	}, func() float64 { return float64(t.Pending()) }))
}

// familyMetrics are the metrics of one family.
type familyMetrics struct {
	*Metrics
	family, backend string
}

// applied counts one change that the backend took.
func (m *familyMetrics) applied(full bool, took time.Duration) {
	m.duration.WithLabelValues(m.family).Observe(took.Seconds())
	if full {
		m.fullDuration.WithLabelValues(m.family).Observe(took.Seconds())
	} else {
		m.partialDuration.WithLabelValues(m.family).Observe(took.Seconds())
	}
}

// synced exports the state after a sync.
func (m *familyMetrics) synced(s FamilyStatus) {
	if s.Err == nil {
		m.lastSync.WithLabelValues(m.family).Set(float64(s.Synced.UnixNano()) / 1e9)
	} else {
		m.errors.WithLabelValues(m.family, m.backend).Inc()
		switch m.backend {
		case "iptables":
			m.restoreFailures.WithLabelValues(m.family).Inc()
		case "nftables":
			m.nftablesFailures.WithLabelValues(m.family).Inc()
		}
	}
	m.quarantined.WithLabelValues(m.family, m.backend).Set(float64(len(s.Quarantined)))
	m.programmed.WithLabelValues(m.family, m.backend).Set(float64(s.Services))
}

// wrote counts what a sync wrote and repaired.
func (m *familyMetrics) wrote(r syncReport) {
	m.writes.WithLabelValues(m.family, m.backend).Add(float64(r.writes))
	m.repaired.WithLabelValues(m.family, m.backend).Add(float64(r.drift))
}

// queued notes that a sync is wanted.
func (m *familyMetrics) queued(now time.Time) {
	m.lastQueued.WithLabelValues(m.family).Set(float64(now.UnixNano()) / 1e9)
}

// fighting exports whether others keep changing what is programmed.
func (m *familyMetrics) fighting(on bool) {
	if !on {
		m.inConflict.WithLabelValues(m.family, m.backend).Set(0)
		return
	}
	m.fights.WithLabelValues(m.family, m.backend).Inc()
	m.inConflict.WithLabelValues(m.family, m.backend).Set(1)
}
