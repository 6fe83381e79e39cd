package oracle

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

func clonePlan(p *plan.Plan) *plan.Plan {
	c := &plan.Plan{Config: p.Config, Services: maps.Clone(p.Services)}
	for name, s := range c.Services {
		n := *s
		n.Ports = slices.Clone(s.Ports)
		for i := range n.Ports {
			port := &n.Ports[i]
			port.Frontends, port.Endpoints, port.Local = slices.Clone(port.Frontends), slices.Clone(port.Endpoints), slices.Clone(port.Local)
		}
		c.Services[name] = &n
	}
	return c
}

// planKinds are ways to decide wrongly. What changes nothing that the plan says about any packet is no damage.
var planKinds = []mutationKind[*plan.Plan]{
	decided("an endpoint is forgotten", func(t target, p *plan.ServicePort, _ *plan.Frontend) {
		list := listOf(t, p)
		*list = (*list)[min(1, len(*list)):]
	}),
	decided("an endpoint of another Service", func(t target, p *plan.ServicePort, _ *plan.Frontend) {
		if list := *listOf(t, p); len(list) > 0 {
			list[len(list)-1].Addr = universes[model.FamilyOf(t.packet.Source)].otherNode
		}
	}),
	decided("an endpoint at another port", func(t target, p *plan.ServicePort, _ *plan.Frontend) {
		if list := *listOf(t, p); len(list) > 0 {
			list[0].Port++
		}
	}),
	decided("an endpoint too many", func(t target, p *plan.ServicePort, _ *plan.Frontend) {
		list := listOf(t, p)
		*list = append(*list, plan.Endpoint{Addr: universes[model.FamilyOf(t.packet.Source)].otherNode, Port: 8080})
	}),
	routed("the wrong policy", func(r *plan.Route) { r.Local = !r.Local && r.Action == plan.Balance }),
	routed("masqueraded instead of not, or the other way round", func(r *plan.Route) { r.Masquerade = !r.Masquerade && r.Action == plan.Balance }),
	routed("dropped instead of refused, or the other way round", func(r *plan.Route) {
		if r.Action != plan.Balance {
			r.Action = plan.Reject + plan.Drop - r.Action
		}
	}),
	routed("not balanced", func(r *plan.Route) { *r = plan.Route{Action: plan.Drop} }),
	decided("routes of the node and outside swapped", func(_ target, _ *plan.ServicePort, f *plan.Frontend) { f.Node, f.Outside = f.Outside, f.Node }),
	decided("routes of pods and outside swapped", func(_ target, _ *plan.ServicePort, f *plan.Frontend) { f.Pods, f.Outside = f.Outside, f.Pods }),
	decided("a frontend is forgotten", func(_ target, p *plan.ServicePort, f *plan.Frontend) {
		p.Frontends = slices.DeleteFunc(p.Frontends, func(o plan.Frontend) bool { return o.FrontendKey == f.FrontendKey })
	}),
	decided("a frontend at another port", func(_ target, _ *plan.ServicePort, f *plan.Frontend) { f.Port++ }),
	decided("another time-out of the session affinity", func(_ target, p *plan.ServicePort, _ *plan.Frontend) { p.Affinity += time.Minute }),
	decided("source ranges are forgotten", func(_ target, p *plan.ServicePort, _ *plan.Frontend) { p.SourceRanges = nil }),
	decided("a source range is forgotten", func(_ target, p *plan.ServicePort, _ *plan.Frontend) {
		if len(p.SourceRanges) > 1 {
			p.SourceRanges = p.SourceRanges[1:]
		}
	}),
	configured("no detector", func(c *plan.Config) { c.Detector = plan.Detector{} }),
	configured("node ports nowhere", func(c *plan.Config) { c.NodePorts = plan.NodePorts{} }),
	configured("node ports everywhere", func(c *plan.Config) { c.NodePorts = plan.NodePorts{All: true, Loopback: true} }),
}

// decided damages what was decided about the Service port that a packet reaches.
func decided(name string, damage func(target, *plan.ServicePort, *plan.Frontend)) mutationKind[*plan.Plan] {
	return mutationKind[*plan.Plan]{name, func(s *scene, _ *plan.Plan) (all []site[*plan.Plan]) {
		for _, t := range s.targets {
			all = append(all, site[*plan.Plan]{fmt.Sprint(t.frontend.Kind, " of ", t.port.Name), func(p *plan.Plan) {
				service := p.Services[t.service.Name]
				for i := range service.Ports {
					for j := range service.Ports[i].Frontends {
						if f := &service.Ports[i].Frontends[j]; f.FrontendKey == t.frontend.FrontendKey {
							damage(t, &service.Ports[i], f)
							return
						}
					}
				}
			}})
		}
		return all
	}}
}

// routed damages all routes of a frontend.
func routed(name string, damage func(*plan.Route)) mutationKind[*plan.Plan] {
	return decided(name, func(_ target, _ *plan.ServicePort, f *plan.Frontend) {
		for _, r := range []*plan.Route{&f.Pods, &f.Node, &f.Outside} {
			damage(r)
		}
	})
}

func configured(name string, damage func(*plan.Config)) mutationKind[*plan.Plan] {
	return mutationKind[*plan.Plan]{name, func(*scene, *plan.Plan) []site[*plan.Plan] {
		return []site[*plan.Plan]{{"the configuration", func(p *plan.Plan) { damage(&p.Config) }}}
	}}
}

func listOf(t target, p *plan.ServicePort) *[]plan.Endpoint {
	if t.route.Local {
		return &p.Local
	}
	return &p.Endpoints
}
