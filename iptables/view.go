package iptables

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
)

// View returns the Services of a ruleset that was rendered or read back. It reads kube-proxy's rulesets too,
// with its chains for external traffic and Local policies.
func (r *Ruleset) View() model.View {
	v := viewer{ruleset: r, services: map[string]*model.ServiceView{}}
	v.portals(&r.NAT, chainServices)
	v.portals(&r.NAT, chainNodePorts)
	v.portals(&r.Filter, chainServices)
	view := model.View{Backend: "iptables", Services: []model.ServiceView{}}
	for _, s := range v.services {
		slices.SortFunc(s.Frontends, func(a, b model.FrontendView) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), strings.Compare(a.Action, b.Action))
		})
		s.Frontends = slices.Compact(s.Frontends)
		view.Services = append(view.Services, *s)
	}
	slices.SortFunc(view.Services, func(a, b model.ServiceView) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Protocol, b.Protocol))
	})
	return view
}

// viewer collects Services by name and protocol.
type viewer struct {
	ruleset  *Ruleset
	services map[string]*model.ServiceView
}

// kinds are the types of frontends by the endings that kube-proxy gives their comments.
var kinds = []struct{ ending, kind, action string }{
	{commentClusterIP, "ClusterIP", ""},
	{" external IP", "ExternalIP", ""},
	{" loadbalancer IP", "LoadBalancer", ""},
	{commentReject, "ClusterIP", "reject"},
	{commentDrop, "ClusterIP", "drop"},
}

// portals reads the rules that lead to Services, also through chains that stand for a prefix.
func (v *viewer) portals(t *Table, name string) {
	for _, r := range t.Chains[name] {
		switch {
		case r.Protocol != 0 && r.DestPort != 0:
			v.portal(r, name)
		case strings.HasPrefix(r.Target, model.ServiceChainPrefix) && r.Dest.IsValid():
			v.portals(t, r.Target)
		}
	}
}

// portal reads a rule for one frontend.
func (v *viewer) portal(r Rule, chain string) {
	name, kind, action := r.Comment, "", ""
	for _, k := range kinds {
		if before, found := strings.CutSuffix(r.Comment, k.ending); found {
			name, kind, action = before, k.kind, k.action
			break
		}
	}
	if chain == chainNodePorts {
		kind = "NodePort"
	}
	s := v.service(name, r.Protocol)
	var addr netip.Addr
	if r.Dest.IsValid() {
		addr = r.Dest.Addr()
	}
	s.Frontends = append(s.Frontends, model.FrontendView{Type: kind, Address: addr, Port: r.DestPort, Action: action})
	if action == "" && s.Endpoints == nil {
		balance := v.balancing(r.Target, 0)
		s.Endpoints = v.endpoints(balance)
		if balance != "" {
			s.Chain = balance
		}
	}
}

// service returns the view of a Service port, made at its first frontend.
func (v *viewer) service(name string, p model.Protocol) *model.ServiceView {
	key := name + " " + p.String()
	s := v.services[key]
	if s == nil {
		s = &model.ServiceView{Name: name, Protocol: p.String(),
			Chain: model.ServiceChainPrefix + model.ChainHash(name+protocolName(p))}
		v.services[key] = s
	}
	return s
}

// balancing follows kube-proxy's chains for external traffic and source ranges to the one that balances.
func (v *viewer) balancing(chain string, depth int) string {
	rules := v.ruleset.NAT.Chains[chain]
	for i := range slices.Backward(rules) {
		target := rules[i].Target
		if strings.HasPrefix(target, model.EndpointChainPrefix) {
			return chain
		}
		if owned(target) && target != chainMarkMasq && depth < 4 {
			return v.balancing(target, depth+1)
		}
	}
	return ""
}

// endpoints reads a chain that balances. Rules that bind a client to an endpoint it used before come first
// in kube-proxy's chains and say nothing about new clients.
func (v *viewer) endpoints(chain string) []model.EndpointView {
	left := 1.0
	var endpoints []model.EndpointView
	for _, r := range v.ruleset.NAT.Chains[chain] {
		if !strings.HasPrefix(r.Target, model.EndpointChainPrefix) || strings.Contains(r.Other, "--rcheck") {
			continue
		}
		share := left
		if r.Probability != 0 {
			share = left * r.Probability.Float()
		}
		left -= share
		e := model.EndpointView{Chain: r.Target, Probability: math.Round(share*1e9) / 1e9}
		for _, last := range v.ruleset.NAT.Chains[r.Target] {
			if last.Target == targetDNAT {
				e.Address, e.Port = last.To.Addr(), last.To.Port()
			}
		}
		endpoints = append(endpoints, e)
	}
	return endpoints
}
