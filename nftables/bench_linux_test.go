package nftables

import (
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// big returns 10,000 Services with 10 endpoints each.
func big(b builder) *plan.Plan {
	var services []*plan.Service
	for i := range 10_000 {
		services = append(services, b.service(i, b.endpoints(10*i, 10), model.TCP))
	}
	return planOf(b.config(), services...)
}

func BenchmarkFirstProgramming(b *testing.B) {
	p := big(builder{model.IPv4})
	for b.Loop() {
		b.StopTimer()
		backend, _, _ := open(b, model.IPv4)
		b.StartTimer()
		apply(b, backend, full(p))
	}
}

func BenchmarkFullWithoutChange(b *testing.B) {
	p := big(builder{model.IPv4})
	backend, _, _ := open(b, model.IPv4)
	apply(b, backend, full(p))
	for b.Loop() {
		apply(b, backend, full(p))
	}
}

// BenchmarkFullAfterOthersCommitted reads everything back, as nobody can tell what the others did.
func BenchmarkFullAfterOthersCommitted(b *testing.B) {
	p := big(builder{model.IPv4})
	backend, _, _ := open(b, model.IPv4)
	apply(b, backend, full(p))
	for b.Loop() {
		backend.isVerified = false
		apply(b, backend, full(p))
	}
}

func BenchmarkEndpointReplaced(b *testing.B) {
	bl := builder{model.IPv4}
	benchmarkChange(b, bl.endpoints(0, 10), append(bl.endpoints(0, 9), bl.endpoint(500_000)))
}

func BenchmarkNumberOfEndpointsChanged(b *testing.B) {
	bl := builder{model.IPv4}
	benchmarkChange(b, bl.endpoints(0, 10), bl.endpoints(0, 11))
}

func benchmarkChange(b *testing.B, one, other []plan.Endpoint) {
	bl := builder{model.IPv4}
	p := big(bl)
	backend, _, _ := open(b, model.IPv4)
	apply(b, backend, full(p))
	n, writes := 0, 0
	for b.Loop() {
		endpoints := one
		if n%2 == 0 {
			endpoints = other
		}
		res := apply(b, backend, partial(p.Config, bl.service(0, endpoints, model.TCP)))
		n, writes = n+1, res.Writes
	}
	b.ReportMetric(float64(writes), "writes/op")
}
