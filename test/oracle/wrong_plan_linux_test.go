package oracle

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"svcproxy/plan"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

// Real packets show a wrong plan too, wherever what it says can be seen by few of them.
func TestPacketsShowWrongPlans(t *testing.T) {
	t.Parallel()
	r := newReality(t, dataplane.NFTables)
	wanted, shown := nstest.Sized(2*len(planKinds), 6*len(planKinds)), 0
	for seed := uint64(0); shown < wanted; seed++ {
		if seed == mostClusters {
			t.Fatalf("%d wrong plans could be shown in %d clusters, want %d", shown, seed, wanted)
		}
		s := r.subjects[familyOf(seed)]
		if err := s.begin(context.Background(), drawnCluster(seed)); err != nil {
			t.Fatal(err)
		}
		scene := newScene(s.u, s.planner.Plan())
		for _, kind := range planKinds {
			sites := kind.sites(scene, nil)
			if len(sites) == 0 {
				continue
			}
			wrong := clonePlan(scene.Plan)
			sites[int(seed)%len(sites)].apply(wrong)
			packet, visible := r.showing(scene, wrong)
			if !visible {
				continue
			}
			if err := r.send(s.u, wrong, []plan.Packet{packet}); err == nil {
				t.Errorf("seed %d: %s: %v: not seen, though the plan says %v and the wrong one %v", seed, kind.name, packet, scene.Plan.Trace(packet), wrong.Trace(packet))
			}
			shown++
		}
	}
}

// showing finds a packet about which the plan and a wrong one say things that can't both be seen.
func (r *reality) showing(s *scene, wrong *plan.Plan) (plan.Packet, bool) {
	for _, t := range s.targets {
		if r.place(t.packet.Source) == nil || t.outcome.Verdict == plan.Pass {
			continue
		}
		if w := wrong.Trace(t.packet); w.Verdict != plan.Pass && r.certain(t.packet, t.outcome) && r.certain(t.packet, w) && !r.compatible(t.packet, t.outcome, w) {
			return t.packet, true
		}
	}
	return plan.Packet{}, false
}

// certain tells whether it can be told what is seen of an outcome.
func (r *reality) certain(packet plan.Packet, o plan.Outcome) bool {
	for _, t := range o.Targets {
		if p := r.place(t.Endpoint.Addr()); p == nil || p == r.w.Node || r.returnsElsewhere(packet, t) || packet.Source == t.Endpoint.Addr() {
			return false
		}
	}
	return true
}

// compatible tells whether one connection can be in line with both outcomes.
func (r *reality) compatible(packet plan.Packet, a, b plan.Outcome) bool {
	if a.Verdict != b.Verdict {
		return false
	}
	shown := func(t plan.Target) world.Answer {
		source := packet.Source
		if t.Masquerade {
			source = r.w.Masquerade(t.Endpoint.Addr())
		}
		return world.Answer{Endpoint: t.Endpoint, Source: netip.AddrPortFrom(source, 0)}
	}
	seen := map[world.Answer]bool{}
	for _, t := range a.Targets {
		seen[shown(t)] = true
	}
	return a.Verdict != plan.Translate || slices.ContainsFunc(b.Targets, func(t plan.Target) bool { return seen[shown(t)] })
}
