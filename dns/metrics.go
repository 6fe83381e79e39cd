package dns

import (
	"net/http"
	"net/netip"
	"strconv"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics count what a Server and its Forwarder do. A nil one counts nothing.
type Metrics struct {
	registry  *prometheus.Registry
	replies   *prometheus.CounterVec
	dropped   *prometheus.CounterVec
	lookups   *prometheus.CounterVec
	forwarded *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	loops     *prometheus.CounterVec
}

// NewMetrics returns metrics with a registry of their own, which has the Go runtime's and the process's
// metrics as well.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		replies: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "svcproxy_dns_replies_total",
			Help: "Replies sent, by transport, type of the question and code"}, []string{"proto", "type", "rcode"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "svcproxy_dns_dropped_total",
			Help: "Messages and connections that were not answered, by reason"}, []string{"reason"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "svcproxy_dns_cache_lookups_total",
			Help: "Questions for other servers, by whether the answer was remembered"}, []string{"result"}),
		forwarded: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "svcproxy_dns_forward_duration_seconds",
			Help: "How long other servers took to answer", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}, []string{"to"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "svcproxy_dns_forward_failures_total",
			Help: "Questions that another server did not answer; busy are those not sent, since too many waited"}, []string{"to"}),
		loops: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "svcproxy_dns_forward_loops_total",
			Help: "Questions that came back from the server that they were sent to"}, []string{"to"}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.replies, m.dropped, m.lookups, m.forwarded, m.failures, m.loops)
	return m
}

// Handler serves the metrics in Prometheus' formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *Metrics) replied(proto string, reply *mdns.Msg) {
	if m == nil {
		return
	}
	qtype := "other"
	if len(reply.Question) > 0 {
		// Types without a name are many: they share one, as what others send must not fill the memory.
		if name, ok := mdns.TypeToString[reply.Question[0].Qtype]; ok {
			qtype = name
		}
	}
	rcode, ok := mdns.RcodeToString[reply.Rcode]
	if !ok {
		rcode = strconv.Itoa(reply.Rcode)
	}
	m.replies.WithLabelValues(proto, qtype, rcode).Inc()
}

func (m *Metrics) drop(reason string) {
	if m != nil {
		m.dropped.WithLabelValues(reason).Inc()
	}
}

func (m *Metrics) hit() {
	if m != nil {
		m.lookups.WithLabelValues("hit").Inc()
	}
}

func (m *Metrics) miss() {
	if m != nil {
		m.lookups.WithLabelValues("miss").Inc()
	}
}

func (m *Metrics) asked(to netip.AddrPort, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.forwarded.WithLabelValues(to.String()).Observe(took.Seconds())
	if err != nil {
		m.failed(to.String())
	}
}

func (m *Metrics) failed(to string) {
	if m != nil {
		m.failures.WithLabelValues(to).Inc()
	}
}

func (m *Metrics) loop(to netip.AddrPort) {
	if m != nil {
		m.loops.WithLabelValues(to.String()).Inc()
	}
}
