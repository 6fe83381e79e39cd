package iptables

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"svcproxy/model"
)

// View returns the Services of a ruleset that was rendered or read back, kube-proxy's too. Where all sources
// are refused at an external address, no rule tells whether it is a load balancer's; it is then shown as
// ExternalIP.
func (r *Ruleset) View() model.View {
	v := viewer{ruleset: r, services: map[string]*portView{}}
	r.NAT.leaves(chainServices, v.portal)
	r.NAT.leaves(chainNodePorts, v.portal)
	r.Filter.leaves(chainServices, v.refusal("ClusterIP"))
	r.Filter.leaves(chainExternal, v.refusal("ExternalIP"))
	view := model.View{Backend: "iptables", Services: []model.ServiceView{}}
	for _, s := range v.services {
		slices.SortFunc(s.Frontends, func(a, b model.FrontendView) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
		})
		v.balancing(s)
		view.Services = append(view.Services, s.ServiceView)
	}
	slices.SortFunc(view.Services, func(a, b model.ServiceView) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Protocol, b.Protocol))
	})
	return view
}

// viewer collects Services by name and protocol.
type viewer struct {
	ruleset  *Ruleset
	services map[string]*portView
}

// kinds are the types of frontends by the endings that kube-proxy gives their comments.
var kinds = []struct{ ending, kind string }{
	{commentClusterIP, "ClusterIP"}, {commentExternalIP, "ExternalIP"}, {commentLoadBalancer, "LoadBalancer"},
}

// portal takes a rule that leads to a Service.
func (v *viewer) portal(r Rule) {
	if !owned(r.Target) || r.Target == chainMarkMasq {
		return
	}
	if !r.Dest.IsSingleIP() {
		v.frontend(r.Comment, "NodePort", "", r).lead(r.Target)
		return
	}
	for _, k := range kinds {
		if name, found := strings.CutSuffix(r.Comment, k.ending); found {
			v.frontend(name, k.kind, "", r).lead(r.Target)
			return
		}
	}
	v.frontend(r.Comment, "unknown", "", r).lead(r.Target)
}

// refusal returns what takes a rule that refuses.
func (v *viewer) refusal(kind string) func(Rule) {
	return func(r Rule) {
		action, of := "reject", kind
		name, found := strings.CutSuffix(r.Comment, commentReject)
		if !found {
			action = "drop"
			if name, found = strings.CutSuffix(r.Comment, commentDrop); !found {
				return
			}
		}
		if r.Source.IsValid() {
			of = "LoadBalancer" // since only there sources count
		}
		if !r.Dest.IsSingleIP() || r.NotDest {
			of = "NodePort"
		}
		v.frontend(name, of, action, r)
	}
}

// frontend adds a frontend, or the refusal of what else is not taken to one that has portals.
func (v *viewer) frontend(name, kind, action string, r Rule) *portView {
	s := v.service(name, r.Protocol)
	f := model.FrontendView{Type: kind, Port: r.DestPort, Action: action}
	if kind != "NodePort" {
		f.Address = r.Dest.Addr()
	}
	for i := range s.Frontends {
		if old := &s.Frontends[i]; old.Address == f.Address && old.Port == f.Port {
			if old.Action == "" {
				old.Action = action
			}
			return s
		}
	}
	s.Frontends = append(s.Frontends, f)
	return s
}

// service returns the view of a Service port, made at its first frontend.
func (v *viewer) service(name string, p model.Protocol) *portView {
	key := name + " " + p.String()
	s := v.services[key]
	if s == nil {
		s = &portView{ServiceView: model.ServiceView{Name: name, Protocol: p.String(),
			Chain: model.ServiceChainPrefix + model.ChainHash(name+protocolName(p))}}
		v.services[key] = s
	}
	return s
}

// portView is a Service port, and the chains that its frontends lead to.
type portView struct {
	model.ServiceView
	chains []string
}

func (s *portView) lead(chain string) { s.chains = append(s.chains, chain) }

// balancing gives a Service port the chain that balances over its endpoints: the one over all of them, unless
// only the one over this node's is in use.
func (v *viewer) balancing(s *portView) {
	found := ""
	seen := map[string]bool{}
	var visit func(chain string)
	visit = func(chain string) {
		if seen[chain] {
			return
		}
		seen[chain] = true
		for _, r := range v.ruleset.NAT.Chains[chain] {
			if strings.HasPrefix(r.Target, model.EndpointChainPrefix) {
				if found == "" || strings.HasPrefix(chain, model.ServiceChainPrefix) {
					found = chain
				}
				return
			}
			if owned(r.Target) {
				visit(r.Target)
			}
		}
	}
	for _, chain := range s.chains {
		visit(chain)
	}
	if found != "" {
		s.Chain, s.Endpoints = found, v.endpoints(found)
	}
}

// endpoints reads a chain that balances. Rules that bind a client to an endpoint it used before come first
// in kube-proxy's chains and say nothing about new clients.
func (v *viewer) endpoints(chain string) []model.EndpointView {
	left := 1.0
	var endpoints []model.EndpointView
	for _, r := range v.ruleset.NAT.Chains[chain] {
		if !strings.HasPrefix(r.Target, model.EndpointChainPrefix) || r.Recent.Op != 0 || strings.Contains(r.Other, "-m recent") {
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
