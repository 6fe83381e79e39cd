package iptables

import (
	"fmt"
	"maps"
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// features are what depends on the node and not on the plan.
type features struct {
	// randomFully says that MASQUERADE knows --random-fully (iptables 1.6.2).
	randomFully bool
	// liberal says that the node does not hold packets that conntrack finds invalid for faults
	// (net.netfilter.nf_conntrack_tcp_be_liberal); otherwise they are dropped, lest a reset of an
	// untranslated packet ends a good connection.
	liberal bool
}

// usual are the features that Render assumes.
var usual = features{randomFully: true}

// Render returns the ruleset of a plan. It is a pure function. Its error is a *plan.ServiceError for the
// first Service, by name, that cannot be rendered.
func Render(p *plan.Plan) (*Ruleset, error) {
	s, err := newState(p.Config, usual, p.Services)
	if err != nil {
		return nil, err
	}
	return s.ruleset(), nil
}

// chain is a chain of a Service, with its rules.
type chain struct {
	name  string
	rules []Rule
}

// fragment is one Service's part of the ruleset.
type fragment struct {
	// chains are the Service's own, in the nat table.
	chains []chain
	// lists are the Service's rules in shared chains.
	lists lists
}

// renderService renders one Service. Its error is a *plan.ServiceError.
func renderService(c *plan.Config, s *plan.Service) (fragment, error) {
	var f fragment
	seen := map[model.ServicePortName]bool{}
	for i := range s.Ports {
		port := &s.Ports[i]
		err := check(c, port)
		if err == nil && seen[port.Name] {
			err = fmt.Errorf("port %q/%s: another port has this name", port.Name.Port, port.Name.Protocol)
		}
		if err != nil {
			return fragment{}, &plan.ServiceError{Service: s.Name, Err: err}
		}
		seen[port.Name] = true
		r := portRenderer{config: c, port: port, fragment: &f}
		r.render()
	}
	if s.HealthCheck.Port != 0 && len(s.Ports) > 0 {
		f.lists[healthChecks] = append(f.lists[healthChecks], Rule{Protocol: model.TCP, DestPort: s.HealthCheck.Port,
			Comment: comment(s.Ports[0].Name.String() + commentHealthCheck), Target: targetAccept})
	}
	return f, nil
}

// sortedNames returns the names of Services in order.
func sortedNames[V any](m map[model.ServiceName]V) []model.ServiceName {
	return slices.SortedFunc(maps.Keys(m), model.ServiceName.Compare)
}
