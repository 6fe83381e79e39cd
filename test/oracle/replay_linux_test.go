package oracle

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
)

// Manifests in testdata are held against everything: what they are about was once wrong, or nearly.
func TestManifestsInTestdata(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests in testdata: %v", err)
	}
	for _, plane := range dataplane.All {
		t.Run(plane.Name, func(t *testing.T) {
			t.Parallel()
			r := newReality(t, plane)
			for _, file := range files {
				t.Run(filepath.Base(file), func(t *testing.T) {
					l, err := load(file)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range model.Families {
						r.replay(t, l, r.subjects[f])
					}
				})
			}
		})
	}
}

func (r *reality) replay(t *testing.T, l *loaded, s *subject) {
	t.Helper()
	ctx := context.Background()
	if err := s.program(ctx, l.setup, l.objects); err != nil {
		t.Fatal(err)
	}
	p := s.planner.Plan()
	all := packets(s.u, p)
	if err := s.check(ctx, trace(p, all)); err != nil {
		t.Error(err)
	}
	if err := comparePlans(trace(l.plan(s.u, proxier.NFTables), all), trace(l.plan(s.u, proxier.IPTables), all)); err != nil {
		t.Error(err)
	}
	if err := r.send(s.u, p, r.choose(s.u, p, rand.New(rand.NewPCG(1, 1)))); err != nil {
		t.Error(err)
	}
	if !anything(p, all) {
		t.Errorf("%s: no packet is for any Service", s.u.family)
	}
}

func anything(p *plan.Plan, all []plan.Packet) bool {
	for _, packet := range all {
		if p.Trace(packet).Verdict != plan.Pass {
			return true
		}
	}
	return false
}
