package iptables

import (
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
	lists    *lists
	// fragments are kept until ruleset or forget is called, so that nothing is rendered twice.
	fragments []fragment
}

// newState renders all Services. Its error is a *plan.ServiceError, unless the configuration is at fault.
func newState(c plan.Config, f features, services map[model.ServiceName]*plan.Service) (*state, error) {
	if err := checkConfig(&c); err != nil {
		return nil, err
	}
	c.Detector.Prefixes = distinct(c.Detector.Prefixes)
	s := &state{config: c, features: f, services: services, lists: &lists{}, fragments: make([]fragment, 0, len(services))}
	for _, name := range sortedNames(services) {
		frag, err := renderService(&s.config, services[name])
		if err != nil {
			return nil, err
		}
		s.lists.add(&frag.lists)
		s.fragments = append(s.fragments, frag)
	}
	s.lists.sort()
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
	s.lists.natChains(&s.config, r.NAT.Chains)
	s.lists.filterChains(&s.config, r.Filter.Chains)
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
// rules of shared chains.
type step struct {
	config        *plan.Config
	changed       map[model.ServiceName]*plan.Service
	base, want    map[string][]Rule
	before, after *lists
	// refusals says that the filter table changes.
	refusals bool
}

// step renders an incremental change. The state itself stays as it is until commit. The error is a
// *plan.ServiceError.
func (s *state) step(changed map[model.ServiceName]*plan.Service) (*step, error) {
	p := &step{config: &s.config, changed: changed, base: map[string][]Rule{}, want: map[string][]Rule{}}
	var before, after fragment
	for _, name := range sortedNames(changed) {
		if err := before.add(&s.config, s.services[name], p.base); err != nil {
			return nil, err
		}
		if err := after.add(&s.config, changed[name], p.want); err != nil {
			return nil, err
		}
	}
	p.before, p.after = s.lists, s.lists.replace(&before.lists, &after.lists)
	p.refusals = !before.lists.same(&after.lists, filterLists...)
	if !before.lists.same(&after.lists, natLists...) {
		p.before.natChains(p.config, p.base)
		p.after.natChains(p.config, p.want)
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
	f.lists.add(&o.lists)
	for _, c := range o.chains {
		chains[c.name] = c.rules
	}
	return nil
}

// deltas returns the transactions of the step.
func (p *step) deltas() []delta {
	nat := diff(tableNAT, p.base, p.want, nil)
	if !p.refusals {
		return order(&Table{}, nil, p.before, p.after, nat)
	}
	filter := func(l *lists) map[string][]Rule {
		chains := map[string][]Rule{}
		l.filterChains(p.config, chains)
		return chains
	}
	return order(&Table{Chains: filter(p.before)}, filter, p.before, p.after, nat)
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
	s.lists = p.after
}
