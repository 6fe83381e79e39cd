package iptables

import (
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// state is what a ruleset follows from, and from which each part of it can be rendered again: it is the
// Backend's memory of what it acknowledged. The rules of a large cluster would take a hundred megabytes,
// while the plan is there anyway.
type state struct {
	config   plan.Config
	features features
	services map[model.ServiceName]*plan.Service
	// portals and rejects are the rules of KUBE-SERVICES, in order.
	portals, rejects []Rule
	// fragments are kept until ruleset or forget is called, so that nothing is rendered twice.
	fragments []fragment
}

// newState renders all Services. Its error is a *plan.ServiceError.
func newState(c plan.Config, f features, services map[model.ServiceName]*plan.Service) (*state, error) {
	c.Detector.Prefixes = distinctPods(c.Detector.Prefixes)
	s := &state{config: c, features: f, services: services, fragments: make([]fragment, 0, len(services))}
	for _, name := range sortedNames(services) {
		frag, err := renderService(&s.config, services[name])
		if err != nil {
			return nil, err
		}
		s.portals = append(s.portals, frag.portals...)
		s.rejects = append(s.rejects, frag.rejects...)
		s.fragments = append(s.fragments, frag)
	}
	sortFrontends(s.portals)
	sortFrontends(s.rejects)
	return s, nil
}

// ruleset returns the whole ruleset.
func (s *state) ruleset() *Ruleset {
	r := newRuleset(s.config.Family)
	for _, name := range tableNames {
		t := r.table(name)
		t.Jumps = jumps(name)
		fixedChains(name, &s.config, s.features, t.Chains)
	}
	dispatch(s.portals, r.NAT.Chains)
	dispatch(s.rejects, r.Filter.Chains)
	for _, f := range s.fragments {
		for _, c := range f.chains {
			r.NAT.Chains[c.name] = c.rules
		}
	}
	return r
}

// forget lets go of the fragments.
func (s *state) forget() { s.fragments = nil }

// step is a change of some Services, rendered: the nat chains that may differ before and after it, and the
// rules of KUBE-SERVICES.
type step struct {
	changed           map[model.ServiceName]*plan.Service
	base, want        map[string][]Rule
	portals           []Rule
	rejected, rejects []Rule
}

// step renders an incremental change. The state itself stays as it is until commit. The error is a
// *plan.ServiceError.
func (s *state) step(changed map[model.ServiceName]*plan.Service) (*step, error) {
	p := &step{changed: changed, base: map[string][]Rule{}, want: map[string][]Rule{}}
	var before, after fragment
	for _, name := range sortedNames(changed) {
		if err := before.add(&s.config, s.services[name], p.base); err != nil {
			return nil, err
		}
		if err := after.add(&s.config, changed[name], p.want); err != nil {
			return nil, err
		}
	}
	p.portals = replaceFrontends(s.portals, before.portals, after.portals)
	p.rejected, p.rejects = s.rejects, replaceFrontends(s.rejects, before.rejects, after.rejects)
	if !slices.Equal(before.portals, after.portals) {
		dispatch(s.portals, p.base)
		dispatch(p.portals, p.want)
	}
	return p, nil
}

// add renders another Service, which may be nil, and gathers its rules.
func (f *fragment) add(c *plan.Config, s *plan.Service, chains map[string][]Rule) error {
	if s == nil {
		return nil
	}
	o, err := renderService(c, s)
	if err != nil {
		return err
	}
	f.portals = append(f.portals, o.portals...)
	f.rejects = append(f.rejects, o.rejects...)
	for _, c := range o.chains {
		chains[c.name] = c.rules
	}
	return nil
}

// deltas returns the transactions of the step.
func (p *step) deltas() []delta {
	filter := func(rejects []Rule) map[string][]Rule {
		chains := map[string][]Rule{}
		dispatch(rejects, chains)
		return chains
	}
	base := &Table{Chains: filter(p.rejected)}
	return order(base, filter, p.rejected, p.rejects, diff(tableNAT, p.base, p.want, nil))
}

// commit takes a step into the state.
func (s *state) commit(p *step) {
	for name, service := range p.changed {
		if service == nil {
			delete(s.services, name)
		} else {
			s.services[name] = service
		}
	}
	s.portals, s.rejects = p.portals, p.rejects
}
