package oracle

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
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
	u       *universe
	plan    *plan.Plan
	packets []plan.Packet
	// outcomes are those of the packets.
	outcomes []plan.Outcome
}

func newScene(u *universe, p *plan.Plan) *scene {
	s := &scene{u: u, plan: p, packets: packets(u, p)}
	for _, packet := range s.packets {
		s.outcomes = append(s.outcomes, p.Trace(packet))
	}
	return s
}

// target is a frontend that a packet reaches.
type target struct {
	packet   plan.Packet
	outcome  plan.Outcome
	service  *plan.Service
	port     *plan.ServicePort
	frontend plan.Frontend
	route    plan.Route
}

// targets returns the packets that reach a frontend, each with it and its route.
func (s *scene) targets() (all []target) {
	for i, packet := range s.packets {
		keys := []plan.FrontendKey{{Addr: packet.Dest.Addr(), Protocol: packet.Protocol, Port: packet.Dest.Port()}}
		if packet.Own(packet.Dest.Addr()) && s.plan.Config.NodePorts.Match(packet.Dest.Addr()) {
			keys = append(keys, plan.FrontendKey{Protocol: packet.Protocol, Port: packet.Dest.Port()})
		}
		if service, port, f := find(s.plan, keys); port != nil {
			t := target{packet, s.outcomes[i], service, port, f, f.Outside}
			if s.plan.Config.Detector.Local(packet.Source, packet.Interface) {
				t.route = f.Pods
			} else if packet.Own(packet.Source) {
				t.route = f.Node
			}
			all = append(all, t)
		}
	}
	return all
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

// mutate tries a kind of damage on what a cluster led to: whether there was a place for it, and an error if
// nobody noticed. changes tells whether damage is any; nil is always.
func mutate[R any](s *scene, kind mutationKind[R], seed uint64, clone func() R, changes func(R) bool, notice func(R) error) (done bool, err error) {
	sites := kind.sites(s, clone())
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(sites), func(i, j int) { sites[i], sites[j] = sites[j], sites[i] })
	for _, chosen := range sites {
		damaged := clone()
		chosen.apply(damaged)
		if changes != nil && !changes(damaged) {
			continue
		}
		if notice(damaged) == nil {
			return true, fmt.Errorf("%s: %s: nobody noticed", kind.name, chosen.what)
		}
		return true, nil
	}
	return false, nil
}

const (
	nftablesMutations, iptablesMutations, planMutations = 90, 70, 60
	// mostDraws bounds the search for a cluster in which a kind of damage matters.
	mostDraws = 400
)

// drawnCluster is the cluster of a seed, the same in every run.
func drawnCluster(seed uint64) *cluster { return rapid.Custom(drawCluster).Example(int(seed)) }

// everyMutation does n mutations of all kinds in turn. try does one with the cluster of a seed.
func everyMutation(t *testing.T, n int, kinds []string, try func(kind int, seed uint64) (bool, error)) {
	t.Helper()
	seed, caught := uint64(0), map[string]int{}
	for i := range n {
		kind := i % len(kinds)
		for draws := 0; ; draws++ {
			if draws == mostDraws {
				t.Fatalf("%s: no place for it in %d clusters", kinds[kind], draws)
			}
			seed++
			done, err := try(kind, seed)
			if err != nil {
				t.Errorf("seed %d: %v\nwith %s", seed, err, drawnCluster(seed).manifest())
			}
			if done {
				caught[kinds[kind]]++
				break
			}
		}
	}
	t.Logf("%d clusters, %d mutations: %v", seed, n, caught)
}

func names[R any](kinds []mutationKind[R]) (all []string) {
	for _, k := range kinds {
		all = append(all, k.name)
	}
	return all
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
	everyMutation(t, nstest.Sized(nftablesMutations, 2*nftablesMutations), names(nftablesKinds), func(kind int, seed uint64) (bool, error) {
		s, c, ctx := subjects[familyOf(seed)], drawnCluster(seed), context.Background()
		if err := s.begin(ctx, c); err != nil {
			return true, err
		}
		scene := newScene(s.u, s.planner.Plan())
		held, err := nftables.Observe(ctx, nftables.Options{Family: s.u.family, NetNS: netns})
		if err != nil {
			return true, err
		}
		return mutate(scene, nftablesKinds[kind], seed, func() *nftables.Ruleset { return cloneNFTables(held) }, nil,
			func(r *nftables.Ruleset) error {
				return compare("the plan", scene.plan, "nftables", r, scene.packets)
			})
	})
}

func TestDamagedIPTablesIsNoticed(t *testing.T) {
	t.Parallel()
	everyMutation(t, nstest.Sized(iptablesMutations, 2*iptablesMutations), names(iptablesKinds), func(kind int, seed uint64) (bool, error) {
		scene, parsed, err := iptablesScene(seed)
		if err != nil {
			return true, err
		}
		return mutate(scene, iptablesKinds[kind], seed, func() *iptables.Ruleset { return cloneIPTables(parsed) }, nil,
			func(r *iptables.Ruleset) error {
				return compare("the plan", scene.plan, "iptables", r, scene.packets)
			})
	})
}

// A plan that decided otherwise is noticed too: by the rules that the right one led to.
func TestWrongPlansAreNoticed(t *testing.T) {
	t.Parallel()
	everyMutation(t, nstest.Sized(planMutations, 2*planMutations), names(planKinds), func(kind int, seed uint64) (bool, error) {
		scene, parsed, err := iptablesScene(seed)
		if err != nil {
			return true, err
		}
		return mutate(scene, planKinds[kind], seed, func() *plan.Plan { return clonePlan(scene.plan) },
			func(p *plan.Plan) bool {
				return compare("the plan", scene.plan, "the wrong plan", p, scene.packets) != nil
			},
			func(p *plan.Plan) error {
				return compare("the plan", p, "iptables", parsed, scene.packets)
			})
	})
}

func iptablesScene(seed uint64) (*scene, *iptables.Ruleset, error) {
	u := universes[familyOf(seed)]
	p, err := drawnCluster(seed).plan(u, iptablesMode)
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
