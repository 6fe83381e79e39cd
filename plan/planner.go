package plan

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"svcproxy/model"
)

// Input is what the API says about one Service.
type Input struct {
	Name model.ServiceName
	// Service is nil if there is none.
	Service *model.Service
	Slices  []*model.Slice
}

// Planner holds the plan of one IP family and updates it. It is not safe for concurrent use.
type Planner struct {
	config Config
	drafts map[model.ServiceName]*draft
	claims map[FrontendKey][]claim
	plan   map[model.ServiceName]*Service
}

// draft is what can be decided about a Service without regard to others.
type draft struct {
	created time.Time
	ports   []ServicePort
	health  HealthCheck
}

// claim is one Service port's wish to answer at a frontend.
type claim struct {
	kind    FrontendKind
	created time.Time
	port    model.ServicePortName
}

// NewPlanner returns a Planner without Services.
func NewPlanner(c Config) *Planner {
	return &Planner{
		config: c,
		drafts: map[model.ServiceName]*draft{},
		claims: map[FrontendKey][]claim{},
		plan:   map[model.ServiceName]*Service{},
	}
}

// Build computes a whole plan from nothing.
func Build(c Config, inputs []Input) *Plan {
	p := NewPlanner(c)
	p.Update(inputs)
	return p.Plan()
}

// Config returns the configuration that the Planner decides by.
func (p *Planner) Config() Config { return p.config }

// SetConfig replaces the configuration; the family stays. The whole plan must then be applied.
func (p *Planner) SetConfig(c Config) { p.config = c }

// Plan returns the whole plan.
func (p *Planner) Plan() *Plan {
	return &Plan{Config: p.config, Services: maps.Clone(p.plan)}
}

// Update takes the new state of some Services and returns the decisions about them and about those that
// it touches, since they claim the same frontends; nil stands for a Service that is gone. It may be called
// again with the same inputs.
func (p *Planner) Update(inputs []Input) map[model.ServiceName]*Service {
	changed := map[model.ServiceName]*Service{}
	for _, in := range inputs {
		p.release(in.Name, changed)
		if in.Service != nil {
			p.enter(in, changed)
		}
		changed[in.Name] = nil
	}
	for name := range changed {
		if p.drafts[name] == nil {
			delete(p.plan, name)
			continue
		}
		s := p.finish(name)
		p.plan[name], changed[name] = s, s
	}
	return changed
}

// release withdraws a Service and its claims; who else claims the same frontends is noted in touched.
func (p *Planner) release(name model.ServiceName, touched map[model.ServiceName]*Service) {
	d := p.drafts[name]
	if d == nil {
		return
	}
	delete(p.drafts, name)
	for _, port := range d.ports {
		for _, f := range port.Frontends {
			rest := slices.DeleteFunc(p.claims[f.FrontendKey], func(c claim) bool { return c.port == port.Name })
			if len(rest) == 0 {
				delete(p.claims, f.FrontendKey)
			} else {
				p.claims[f.FrontendKey] = rest
			}
			touch(rest, touched)
		}
	}
}

// enter drafts a Service and makes its claims; who else claims the same frontends is noted in touched.
func (p *Planner) enter(in Input, touched map[model.ServiceName]*Service) {
	d := p.config.draft(in)
	p.drafts[in.Name] = d
	for _, port := range d.ports {
		for _, f := range port.Frontends {
			all := append(p.claims[f.FrontendKey], claim{f.Kind, d.created, port.Name})
			slices.SortFunc(all, claim.compare)
			p.claims[f.FrontendKey] = all
			touch(all, touched)
		}
	}
}

func touch(claims []claim, touched map[model.ServiceName]*Service) {
	for _, c := range claims {
		touched[c.port.Service] = nil
	}
}

// compare puts the claim that wins first: a ClusterIP beats every other kind of frontend, so that nobody
// captures a ClusterIP's traffic by naming it as an external IP (CVE-2020-8554); then the older Service
// wins, then the name decides.
func (c claim) compare(o claim) int {
	return cmp.Or(compareBool(c.kind != ClusterIP, o.kind != ClusterIP), c.created.Compare(o.created), c.port.Compare(o.port))
}

// finish gives a drafted Service the frontends that it holds.
func (p *Planner) finish(name model.ServiceName) *Service {
	s := &Service{Name: name, Ports: slices.Clone(p.drafts[name].ports), HealthCheck: p.drafts[name].health}
	for i := range s.Ports {
		port := &s.Ports[i]
		claimed := port.Frontends
		port.Frontends = nil
		for _, f := range claimed {
			if holder := p.claims[f.FrontendKey][0].port; holder == port.Name {
				port.Frontends = append(port.Frontends, f)
			} else {
				port.Lost = append(port.Lost, LostFrontend{f, holder})
			}
		}
	}
	return s
}
