package bench

import (
	"testing"
	"time"

	"svcproxy/test/nstest"
)

// A run is what was measured of one data plane.
type run struct {
	peer  string
	first cost
	// cpu is the processor time that the first programming took.
	cpu time.Duration
	// memory is how far this process's resident memory rose, and children the most that a process which it
	// started had, 0 if it started none, in bytes.
	memory, children int64
	replaced         samples
	recounted        samples
	kernel           objects
}

// measure programs a cluster in a namespace of its own and then changes it, a number of times each way.
func (p peer) measure(b testing.TB, s size, changes int) run {
	b.Helper()
	ns := nstest.New(b)
	backend, err := p.open(ns)
	if err != nil {
		b.Fatalf("%s: %v", p.name, err)
	}
	defer backend.Close()
	c := newCluster(s)
	r := run{peer: p.name}
	pipe := newPipeline(backend)
	earlier := childrenPeak(b)
	r.memory = peakMemory(b, func() {
		before := cpuTime(b)
		r.first, err = pipe.sync(b.Context(), c.objects(), true)
		r.cpu = cpuTime(b) - before
	})
	if peak := childrenPeak(b); peak > earlier {
		r.children = peak
	}
	if err != nil {
		b.Fatalf("%s: program %v: %v", p.name, s, err)
	}
	if r.kernel, err = p.count(b.Context(), ns); err != nil {
		b.Fatal(err)
	}
	if r.replaced, err = pipe.sample(b.Context(), c, replaceEndpoint, changes); err != nil {
		b.Fatalf("%s: replace an endpoint: %v", p.name, err)
	}
	if r.recounted, err = pipe.sample(b.Context(), c, changeCount, changes); err != nil {
		b.Fatalf("%s: change a number of endpoints: %v", p.name, err)
	}
	return r
}

// report adds the figures to a benchmark's own line.
func (r run) report(b *testing.B) {
	b.ReportMetric(milliseconds(r.first.total), "first-ms")
	b.ReportMetric(milliseconds(quantile(r.replaced, 0.5, total)), "replaced-p50-ms")
	b.ReportMetric(milliseconds(quantile(r.replaced, 0.99, total)), "replaced-p99-ms")
	b.ReportMetric(milliseconds(quantile(r.recounted, 0.5, total)), "recounted-p50-ms")
	b.ReportMetric(milliseconds(quantile(r.recounted, 0.99, total)), "recounted-p99-ms")
	b.ReportMetric(float64(r.kernel.chains), "chains")
	b.ReportMetric(float64(r.kernel.rules), "rules")
	b.ReportMetric(0, "ns/op") // means nothing here, and 0 hides it
}
