package oracle

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// The oracle is worth what it catches. Rules that were read back, and plans, are damaged in one place each,
// chosen by a seed among those that decide about some packet by their meaning: an element under a frontend's
// own key, a rule that a route that is in use leads through. Each must be noticed.

// mutationKind is a way to damage.
type mutationKind[R any] struct {
	name string
	// sites returns where it can be done such that some packet of the scene must notice.
	sites func(s *scene, r R) []site[R]
}

// site is one place, and what to do there.
type site[R any] struct {
	what  string
	apply func(R)
}

// scene is a cluster with its plan and the packets to it.
type scene struct {
	*traced
	u *universe
	// targets are the packets that reach a frontend, each with it and its route.
	targets []target
}

func newScene(u *universe, p *plan.Plan) *scene {
	s := &scene{u: u, traced: trace(p, packets(u, p))}
	for i, packet := range s.packets {
		keys := []plan.FrontendKey{{Addr: packet.Dest.Addr(), Protocol: packet.Protocol, Port: packet.Dest.Port()}}
		if packet.Own(packet.Dest.Addr()) && p.Config.NodePorts.Match(packet.Dest.Addr()) {
			keys = append(keys, plan.FrontendKey{Protocol: packet.Protocol, Port: packet.Dest.Port()})
		}
		if service, port, f := find(p, keys); port != nil {
			t := target{packet, s.outcomes[i], service, port, f, f.Outside}
			if p.Config.Detector.Local(packet.Source, packet.Interface) {
				t.route = f.Pods
			} else if packet.Own(packet.Source) {
				t.route = f.Node
			}
			s.targets = append(s.targets, t)
		}
	}
	return s
}

// target is a packet that reaches a frontend.
type target struct {
	packet   plan.Packet
	outcome  plan.Outcome
	service  *plan.Service
	port     *plan.ServicePort
	frontend plan.Frontend
	route    plan.Route
}

func find(p *plan.Plan, keys []plan.FrontendKey) (*plan.Service, *plan.ServicePort, plan.Frontend) {
	for _, key := range keys {
		for _, s := range p.Services {
			for i := range s.Ports {
				for _, f := range s.Ports[i].Frontends {
					if f.FrontendKey == key {
						return s, &s.Ports[i], f
					}
				}
			}
		}
	}
	return nil, nil, plan.Frontend{}
}

// trial is what a cluster led to, to be damaged.
type trial[R any] struct {
	scene *scene
	clone func() R
	// changes tells whether damage is any; nil is always.
	changes func(R) bool
	// notice is the oracle's judgement.
	notice func(R) error
}

// mutate does a kind of damage: whether there was a place for it, and an error if nobody noticed.
func (tr trial[R]) mutate(kind mutationKind[R], seed uint64) (done bool, err error) {
	sites := kind.sites(tr.scene, tr.clone())
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(sites), func(i, j int) { sites[i], sites[j] = sites[j], sites[i] })
	for _, chosen := range sites[:min(len(sites), mostSites)] {
		damaged := tr.clone()
		chosen.apply(damaged)
		if tr.changes != nil && !tr.changes(damaged) {
			continue
		}
		if tr.notice(damaged) == nil {
			return true, fmt.Errorf("%s: %s: nobody noticed", kind.name, chosen.what)
		}
		return true, nil
	}
	return false, nil
}

const (
	nftablesMutations, iptablesMutations, planMutations = 90, 70, 60
	// mostOfACluster spreads them over clusters, and mostClusters bounds the search for places.
	mostOfACluster, mostClusters = 5, 2000
	// mostSites are tried of a kind in a cluster.
	mostSites = 4
)

// drawnCluster is the cluster of a seed, the same in every run.
func drawnCluster(seed uint64) *cluster { return rapid.Custom(drawCluster).Example(int(seed)) }

// everyMutation does n mutations or a few more, of all kinds alike. try makes the trial of a seed.
func everyMutation[R any](t *testing.T, n int, kinds []mutationKind[R], try func(seed uint64) (trial[R], error)) {
	t.Helper()
	each := (n + len(kinds) - 1) / len(kinds)
	seed, caught := uint64(0), map[string]int{}
	for ; slices.ContainsFunc(kinds, func(k mutationKind[R]) bool { return caught[k.name] < each }); seed++ {
		if seed == mostClusters {
			t.Fatalf("no place for all kinds of damage in %d clusters: %v", seed, caught)
		}
		tr, err := try(seed)
		if err == nil {
			err = tr.notice(tr.clone())
		}
		if err != nil {
			t.Fatalf("seed %d, undamaged: %v\nwith %s", seed, err, drawnCluster(seed).manifest())
		}
		for i, damaged := 0, 0; i < len(kinds) && damaged < mostOfACluster; i++ {
			kind := kinds[(int(seed)+i)%len(kinds)]
			if caught[kind.name] >= each {
				continue
			}
			done, err := tr.mutate(kind, seed)
			if err != nil {
				t.Errorf("seed %d: %v\nwith %s", seed, err, drawnCluster(seed).manifest())
			}
			if done {
				caught[kind.name]++
				damaged++
			}
		}
	}
	t.Logf("%d clusters, %d of each of %d kinds", seed, each, len(kinds))
}

// familyOf has both families take turns.
func familyOf(seed uint64) model.Family { return model.Families[seed%2] }

func TestDamagedNFTablesIsNoticed(t *testing.T) {
	t.Parallel()
	netns := nstest.New(t).Path()
	subjects := map[model.Family]*subject{}
	for _, f := range model.Families {
		subjects[f] = newSubject(t, universes[f], dataplane.NFTables, netns)
	}
	everyMutation(t, nstest.Sized(nftablesMutations, 2*nftablesMutations), nftablesKinds, func(seed uint64) (tr trial[*nftables.Ruleset], err error) {
		s, ctx := subjects[familyOf(seed)], context.Background()
		if err := s.begin(ctx, drawnCluster(seed)); err != nil {
			return tr, err
		}
		tr.scene = newScene(s.u, s.planner.Plan())
		held, err := nftables.Observe(ctx, nftables.Options{Family: s.u.family, NetNS: netns})
		tr.clone = func() *nftables.Ruleset { return cloneNFTables(held) }
		tr.notice = func(r *nftables.Ruleset) error {
			return compare(tr.scene.traced, "nftables", r)
		}
		return tr, err
	})
}

func TestDamagedIPTablesIsNoticed(t *testing.T) {
	t.Parallel()
	everyMutation(t, nstest.Sized(iptablesMutations, 2*iptablesMutations), iptablesKinds, func(seed uint64) (tr trial[*iptables.Ruleset], err error) {
		scene, parsed, err := iptablesScene(seed)
		return trial[*iptables.Ruleset]{scene: scene, clone: func() *iptables.Ruleset { return cloneIPTables(parsed) },
			notice: func(r *iptables.Ruleset) error {
				return compare(scene.traced, "iptables", r)
			}}, err
	})
}

// A plan that decided otherwise is noticed too: by the rules that the right one led to.
func TestWrongPlansAreNoticed(t *testing.T) {
	t.Parallel()
	everyMutation(t, nstest.Sized(planMutations, 2*planMutations), planKinds, func(seed uint64) (tr trial[*plan.Plan], err error) {
		scene, parsed, err := iptablesScene(seed)
		return trial[*plan.Plan]{scene: scene, clone: func() *plan.Plan { return clonePlan(scene.Plan) },
			changes: func(p *plan.Plan) bool {
				return compare(scene.traced, "the wrong plan", p) != nil
			},
			notice: func(p *plan.Plan) error { return compare(trace(p, scene.packets), "iptables", parsed) }}, err
	})
}

func iptablesScene(seed uint64) (*scene, *iptables.Ruleset, error) {
	u := universes[familyOf(seed)]
	p, err := drawnCluster(seed).plan(u, proxier.IPTables)
	if err != nil {
		return nil, nil, err
	}
	rendered, err := iptables.Render(p)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := iptables.Parse(u.family, rendered.Text())
	return newScene(u, p), parsed, err
}
