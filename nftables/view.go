package nftables

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
	"svcproxy/plan"
)

// View returns what the ruleset does, in the words of both backends. The names of Services and the kinds of
// their frontends come from the comments of elements; a frontend without one is named by its address. The
// endpoints of a Service port are those of its ClusterIP, if it has any.
func (r *Ruleset) View() model.View {
	v := model.View{Backend: "nftables", Services: []model.ServiceView{}}
	index := map[string]int{}
	for _, name := range []string{servicesMap, servicesOutsideMap} {
		services := r.Sets[name]
		if services == nil {
			continue
		}
		for _, el := range services.sorted() {
			if len(el.Key) != r.Family.Bits()/8+8 {
				continue
			}
			title, _ := splitComment(el.Comment)
			id := cmp.Or(title, fieldsText(r.Family, el.Key)) + "/" + string(el.Key[r.Family.Bits()/8])
			i, ok := index[id]
			if !ok {
				i = len(v.Services)
				index[id] = i
				v.Services = append(v.Services, r.serviceView(el))
			}
			r.addFrontend(&v.Services[i], el)
		}
	}
	slices.SortFunc(v.Services, func(a, b model.ServiceView) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Protocol, b.Protocol))
	})
	return v
}

// serviceView returns a Service port without frontends and endpoints.
func (r *Ruleset) serviceView(el KeyedElement) model.ServiceView {
	proto := model.Protocol(el.Key[r.Family.Bits()/8])
	name, _ := splitComment(el.Comment)
	if name == "" {
		return model.ServiceView{Name: fieldsText(r.Family, el.Key), Protocol: proto.String(), Endpoints: []model.EndpointView{}}
	}
	_, chain := parseName(name, proto)
	return model.ServiceView{Name: name, Protocol: proto.String(), Chain: chain, Endpoints: []model.EndpointView{}}
}

// addFrontend adds a frontend unless the Service port has it, as one whose connections from outside lead
// elsewhere has two elements.
func (r *Ruleset) addFrontend(s *model.ServiceView, el KeyedElement) {
	n := r.Family.Bits() / 8
	_, kind := splitComment(el.Comment)
	fe := model.FrontendView{Address: addrOf(el.Key[:n]), Port: portOf(el.Key[n+4:])}
	if fe.Address.IsUnspecified() {
		kind, fe.Address = plan.NodePort, netip.Addr{}
	}
	fe.Type = kind.String()
	chain, ok := strings.CutPrefix(el.Data, "goto ")
	c, balanced := parseClass(chain)
	switch {
	case ok && balanced:
		if len(s.Endpoints) == 0 || kind == plan.ClusterIP {
			s.Endpoints = r.endpointViews(el, c)
		}
	case ok && chain == noEndpointsChain:
		fe.Action = "reject"
	default:
		fe.Action = el.Data
	}
	known := slices.ContainsFunc(s.Frontends, func(o model.FrontendView) bool {
		return o.Type == fe.Type && o.Address == fe.Address && o.Port == fe.Port
	})
	if !known {
		s.Frontends = append(s.Frontends, fe)
	}
}

// endpointViews returns the endpoints of a frontend with their shares. The share of an index without an
// endpoint is that of the first, which the retry takes.
func (r *Ruleset) endpointViews(frontend KeyedElement, c class) []model.EndpointView {
	endpoints := r.Sets[endpointsMap]
	if endpoints == nil {
		return []model.EndpointView{}
	}
	shares := map[string]int{}
	for i := range c.n {
		el, ok := endpoints.Elements[endpointKey(frontend.Key, c.offset()+i)]
		if !ok {
			el, ok = endpoints.Elements[endpointKey(frontend.Key, c.offset())]
		}
		if ok {
			shares[el.Data]++
		}
	}
	n := r.Family.Bits() / 8
	title, _ := splitComment(frontend.Comment)
	name, _ := parseName(title, model.Protocol(frontend.Key[n]))
	out := []model.EndpointView{}
	for data, share := range shares {
		if len(data) != n+4 {
			continue
		}
		e := model.EndpointView{Address: addrOf(data[:n]), Port: portOf(data[n:]), Probability: float64(share) / float64(c.n)}
		if title != "" {
			e.Chain = model.EndpointChain(name, endpointOf(e).String())
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b model.EndpointView) int { return endpointOf(a).Compare(endpointOf(b)) })
	return out
}

func endpointOf(e model.EndpointView) netip.AddrPort { return netip.AddrPortFrom(e.Address, e.Port) }
