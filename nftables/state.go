package nftables

import (
	"maps"
	"net/netip"

	"svcproxy/model"
	"svcproxy/plan"
)

// state is what a ruleset is rendered from, with the counts of what several Services share. The elements
// themselves are rendered again whenever they are needed, since the plan's Services hold all that they say.
type state struct {
	config   plan.Config
	services map[model.ServiceName]*plan.Service
	refs     refs
	// elements counts the elements of the sets that have a size.
	elements map[string]int
}

// refs counts how many Services need each shared element or chain.
type refs struct {
	clusterIPs, hairpins map[string]int
	classes              map[class]int
}

func newRefs(clusterIPs, hairpins int) refs {
	return refs{make(map[string]int, clusterIPs), make(map[string]int, hairpins), map[class]int{}}
}

// count adds n for each of what a fragment needs.
func (r refs) count(fr *fragment, n int) {
	for _, a := range fr.clusterIPs {
		r.clusterIPs[a] += n
	}
	for _, a := range fr.hairpins {
		r.hairpins[a] += n
	}
	for _, c := range fr.classes {
		r.classes[c] += n
	}
}

// merge adds the counts of another.
func (r refs) merge(o refs) {
	mergeCounts(r.clusterIPs, o.clusterIPs)
	mergeCounts(r.hairpins, o.hairpins)
	mergeCounts(r.classes, o.classes)
}

func mergeCounts[K comparable](into, from map[K]int) {
	for k, n := range from {
		if into[k] += n; into[k] == 0 {
			delete(into, k)
		}
	}
}

// newState renders everything, and counts. The error is a *plan.ServiceError.
func newState(c plan.Config, services map[model.ServiceName]*plan.Service) (*state, *Ruleset, error) {
	expect := expectations(services)
	st := &state{config: c, services: make(map[model.ServiceName]*plan.Service, len(services)), elements: map[string]int{},
		refs: newRefs(expect[clusterIPsSet], expect[hairpinSet])}
	r := newRuleset(c.Family)
	r.settings = settingsOf(c)
	for _, spec := range setSpecs(r.Family) {
		r.Sets[spec.Name] = &Set{SetSpec: spec, Elements: make(map[string]Element, expect[spec.Name])}
	}
	for name, s := range services {
		if s == nil {
			continue
		}
		fr, err := render(&c, s)
		if err != nil {
			return nil, nil, err
		}
		st.services[name] = s
		st.refs.count(fr, 1)
		r.addOwn(fr)
	}
	for a := range st.refs.clusterIPs {
		r.addClusterIP(a)
	}
	for a := range st.refs.hairpins {
		r.addHairpin(a)
	}
	for n := range st.refs.classes {
		r.addClass(n)
	}
	r.addConfig(c)
	for name, s := range r.Sets {
		s.Size = setSize(s.SetSpec, len(s.Elements))
		st.elements[name] = len(s.Elements)
	}
	return st, r, nil
}

// expectations guesses, rather too high, how many elements the sets will have, so that maps need not grow.
func expectations(services map[model.ServiceName]*plan.Service) map[string]int {
	n := map[string]int{clusterIPsSet: len(services)}
	for _, s := range services {
		if s == nil {
			continue
		}
		for _, p := range s.Ports {
			n[servicesMap] += len(p.Frontends)
			n[endpointsMap] += len(p.Frontends) * len(p.Endpoints)
			for _, e := range p.Endpoints {
				if !e.Remote {
					n[hairpinSet]++
				}
			}
		}
	}
	return n
}

// same tells whether a configuration and Services lead to the same ruleset.
func (st *state) same(c plan.Config, services map[model.ServiceName]*plan.Service) bool {
	return st.config.Equal(c) && maps.EqualFunc(st.services, services, func(a, b *plan.Service) bool { return a == b || b != nil && a.Equal(b) })
}

// addConfig adds what depends on the configuration alone.
func (r *Ruleset) addConfig(c plan.Config) {
	addrs := c.NodePorts.Prefixes
	if c.NodePorts.All {
		addrs = []netip.Prefix{netip.PrefixFrom(anyAddr(c.Family), 0)}
	}
	for set, prefixes := range map[string][]netip.Prefix{podNetsSet: c.Detector.Prefixes, nodePortNetsSet: addrs, serviceCIDRsSet: c.ServiceCIDRs} {
		for _, el := range intervals(r.Family, prefixes) {
			r.Sets[set].Elements[el.Key] = el.Element
		}
	}
	output := []Rule{{Kind: Dispatch}}
	if len(addrs) > 0 {
		output = append(output, Rule{Kind: NodePorts})
	}
	if c.GuardClusterIPs {
		output = append(output, Rule{Kind: UnknownPort}, Rule{Kind: Unallocated})
	}
	prerouting := append([]Rule{{Kind: DispatchOutside, NotPods: r.settings.pods}}, output...)
	r.Chains[preroutingChain] = Chain{Hook{natType, hookPrerouting, natPriority, false}, prerouting}
	r.Chains[outputChain] = Chain{Hook{natType, hookOutput, natPriority, false}, output}
	r.Chains[postroutingChain] = Chain{Hook{natType, hookPostrouting, sourceNATPriority, false},
		[]Rule{{Kind: MasqueradeMarked, Mark: r.settings.mark}, {Kind: MasqueradeHairpin}}}
	r.Chains[preroutingFilterChain] = Chain{Hook{filterType, hookPrerouting, filterPriority, false}, []Rule{{Kind: Limited}}}
	r.Chains[outputFilterChain] = Chain{Hook{filterType, hookOutput, filterPriority, false}, []Rule{{Kind: Limited}}}
	r.Chains[sourceRangesChain] = Chain{Rules: []Rule{{Kind: AllowedSource}, {Kind: Drop}}}
	r.Chains[nodePortsChain] = Chain{Rules: []Rule{{Kind: DispatchOutside, NotPods: r.settings.pods, NodePort: true}, {Kind: Dispatch, NodePort: true}}}
	r.Chains[noEndpointsChain] = Chain{Rules: []Rule{{Kind: ResetTCP}, {Kind: Unreachable}}}
}

func anyAddr(f model.Family) netip.Addr {
	if f == model.IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// addOwn adds the elements that a Service shares with none.
func (r *Ruleset) addOwn(fr *fragment) {
	for i, elements := range fr.own {
		set := r.Sets[ownSets[i]]
		for _, el := range elements {
			set.Elements[el.Key] = el.Element
		}
	}
}

func (r *Ruleset) addClusterIP(addr string) { r.Sets[clusterIPsSet].Elements[addr] = Element{} }

func (r *Ruleset) addHairpin(addr string) { r.Sets[hairpinSet].Elements[addr+addr] = Element{} }

func (r *Ruleset) addClass(c class) { r.Chains[c.chain()] = Chain{Rules: r.settings.rules(c)} }

// step is a change of a state, computed but not yet made.
type step struct {
	services map[model.ServiceName]*plan.Service
	refs     refs
	elements map[string]int
	// have and want are the parts of the ruleset, before and after, that the change touches.
	have, want *Ruleset
}

// change computes what replacing some Services means, at a cost that grows with those alone. The error is
// a *plan.ServiceError.
func (st *state) change(services map[model.ServiceName]*plan.Service) (*step, error) {
	f := st.config.Family
	s := &step{services: map[model.ServiceName]*plan.Service{}, refs: newRefs(0, 0), elements: map[string]int{},
		have: newRuleset(f), want: newRuleset(f)}
	s.have.settings, s.want.settings = settingsOf(st.config), settingsOf(st.config)
	for _, spec := range setSpecs(f) {
		if !spec.Interval && !spec.Learned {
			s.have.addSet(spec)
			s.want.addSet(spec)
		}
	}
	for name, next := range services {
		last := st.services[name]
		if last == next || last != nil && next != nil && last.Equal(next) {
			continue
		}
		s.services[name] = next
		if last != nil {
			fr, err := render(&st.config, last)
			if err != nil {
				return nil, err
			}
			s.replace(s.have, fr, -1)
		}
		if next != nil {
			fr, err := render(&st.config, next)
			if err != nil {
				return nil, err
			}
			s.replace(s.want, fr, 1)
		}
	}
	s.share(st)
	return s, nil
}

// replace takes a Service's elements into one side of the change.
func (s *step) replace(side *Ruleset, fr *fragment, n int) {
	side.addOwn(fr)
	s.refs.count(fr, n)
	for i, elements := range fr.own {
		s.elements[ownSets[i]] += n * len(elements)
	}
}

// share takes in the shared elements and the chains whose counts change.
func (s *step) share(st *state) {
	sides := func(before, after int, add func(*Ruleset)) (grown int) {
		if before > 0 {
			add(s.have)
			grown--
		}
		if after > 0 {
			add(s.want)
			grown++
		}
		return grown
	}
	for a, n := range s.refs.clusterIPs {
		before := st.refs.clusterIPs[a]
		s.elements[clusterIPsSet] += sides(before, before+n, func(r *Ruleset) { r.addClusterIP(a) })
	}
	for a, n := range s.refs.hairpins {
		before := st.refs.hairpins[a]
		s.elements[hairpinSet] += sides(before, before+n, func(r *Ruleset) { r.addHairpin(a) })
	}
	for c, n := range s.refs.classes {
		before := st.refs.classes[c]
		sides(before, before+n, func(r *Ruleset) { r.addClass(c) })
	}
}

// adopt makes the change.
func (st *state) adopt(s *step) {
	for name, service := range s.services {
		if service == nil {
			delete(st.services, name)
		} else {
			st.services[name] = service
		}
	}
	st.refs.merge(s.refs)
	mergeCounts(st.elements, s.elements)
}

// with returns the Services after a change.
func (st *state) with(services map[model.ServiceName]*plan.Service) map[model.ServiceName]*plan.Service {
	all := maps.Clone(st.services)
	maps.Copy(all, services)
	return all
}
