package bench

import (
	"testing"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
)

// full is the size of the benchmarks that need no kernel.
var full = size{services: 10000, endpoints: 10}

func BenchmarkPlanBuild(b *testing.B) {
	in := newCluster(full).inputs()
	b.ReportAllocs()
	for b.Loop() {
		plan.Build(config(), in)
	}
}

// One Service of many is planned anew.
func BenchmarkPlanUpdate(b *testing.B) {
	c := newCluster(full)
	planner := plan.NewPlanner(config())
	planner.Update(c.inputs())
	byName := map[model.ServiceName]*model.Service{}
	for _, s := range c.services {
		byName[s.Name] = s
	}
	b.ReportAllocs()
	for b.Loop() {
		s := replaceEndpoint(c)
		planner.Update([]plan.Input{{Name: s.Service, Service: byName[s.Service], Slices: []*model.Slice{s}}})
	}
}

func BenchmarkRenderNFTables(b *testing.B) {
	p := newCluster(full).plan()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nftables.Render(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRenderIPTables(b *testing.B) {
	p := newCluster(full).plan()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := iptables.Render(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTextNFTables(b *testing.B) {
	r, err := nftables.Render(newCluster(full).plan())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(r.Text())))
	}
}

func BenchmarkTextIPTables(b *testing.B) {
	r, err := iptables.Render(newCluster(full).plan())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(r.Text())))
	}
}

// Reading back is what a full sync costs besides.
func BenchmarkParseIPTables(b *testing.B) {
	r, err := iptables.Render(newCluster(full).plan())
	if err != nil {
		b.Fatal(err)
	}
	text := r.Text()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := iptables.Parse(model.IPv4, text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDiffNFTables(b *testing.B) {
	c := newCluster(full)
	have, err := nftables.Render(c.plan())
	if err != nil {
		b.Fatal(err)
	}
	replaceEndpoint(c)
	want, err := nftables.Render(c.plan())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		nftables.Diff(have, want)
	}
}
