package iptables

import (
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// large returns a plan of 10,000 Services with 10 endpoints each.
func large() *plan.Plan {
	p := planOf(model.IPv4)
	for i := range 10_000 {
		s := service(model.IPv4, i, 10)
		p.Services[s.Name] = s
	}
	return p
}

func BenchmarkRenderLarge(b *testing.B) {
	p := large()
	for b.Loop() {
		render(b, p)
	}
}

func BenchmarkTextLarge(b *testing.B) {
	r := render(b, large())
	for b.Loop() {
		r.Text()
	}
}

func BenchmarkParseLarge(b *testing.B) {
	text := render(b, large()).Text()
	for b.Loop() {
		if _, err := Parse(model.IPv4, text); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkStep renders and writes down the change of one Service among 10,000.
func benchmarkStep(b *testing.B, s *plan.Service) {
	p := large()
	state, err := newState(p.Config, usual, p.Services)
	if err != nil {
		b.Fatal(err)
	}
	state.forget()
	for b.Loop() {
		step, err := state.step(map[model.ServiceName]*plan.Service{s.Name: s})
		if err != nil {
			b.Fatal(err)
		}
		for _, d := range step.deltas() {
			d.appendText(nil)
		}
	}
}

func BenchmarkOneEndpointLess(b *testing.B) { benchmarkStep(b, without(service(model.IPv4, 5, 10))) }

func BenchmarkOneServiceMore(b *testing.B) { benchmarkStep(b, service(model.IPv4, 20_000, 10)) }
