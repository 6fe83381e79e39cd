package nftables

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
)

// View returns what the ruleset does, in the words of both backends. The names of Services come from the
// comments of elements; a frontend without one is named by its address.
func (r *Ruleset) View() model.View {
	v := model.View{Backend: "nftables", Services: []model.ServiceView{}}
	services := r.Sets[servicesMap]
	if services == nil {
		return v
	}
	index := map[string]int{}
	for _, el := range services.sorted() {
		if len(el.Key) != r.Family.Bits()/8+8 {
			continue
		}
		id := cmp.Or(el.Comment, fieldsText(r.Family, el.Key)) + "/" + string(el.Key[r.Family.Bits()/8])
		i, ok := index[id]
		if !ok {
			i = len(v.Services)
			index[id] = i
			v.Services = append(v.Services, r.serviceView(el))
		}
		r.addFrontend(&v.Services[i], el)
	}
	slices.SortFunc(v.Services, func(a, b model.ServiceView) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Protocol, b.Protocol))
	})
	return v
}

// serviceView returns a Service port without frontends and endpoints.
func (r *Ruleset) serviceView(el KeyedElement) model.ServiceView {
	proto := model.Protocol(el.Key[r.Family.Bits()/8])
	if el.Comment == "" {
		return model.ServiceView{Name: fieldsText(r.Family, el.Key), Protocol: proto.String(), Endpoints: []model.EndpointView{}}
	}
	_, chain := parseComment(el.Comment, proto)
	return model.ServiceView{Name: el.Comment, Protocol: proto.String(), Chain: chain, Endpoints: []model.EndpointView{}}
}

func (r *Ruleset) addFrontend(s *model.ServiceView, el KeyedElement) {
	n := r.Family.Bits() / 8
	fe := model.FrontendView{Type: "ClusterIP", Address: addrOf(el.Key[:n]), Port: portOf(el.Key[n+4:])}
	chain, ok := strings.CutPrefix(el.Data, "goto ")
	count, balanced := parseBalanceChain(chain)
	switch {
	case ok && balanced:
		if len(s.Endpoints) == 0 {
			s.Endpoints = r.endpointViews(el, count)
		}
	case ok && chain == noEndpointsChain:
		fe.Action = "reject"
	default:
		fe.Action = el.Data
	}
	s.Frontends = append(s.Frontends, fe)
}

// endpointViews returns the endpoints of a frontend with their shares. The share of an index without an
// endpoint is that of index 0, which the retry takes.
func (r *Ruleset) endpointViews(frontend KeyedElement, count uint32) []model.EndpointView {
	endpoints := r.Sets[endpointsMap]
	if endpoints == nil {
		return []model.EndpointView{}
	}
	shares := map[string]int{}
	for i := range count {
		el, ok := endpoints.Elements[endpointKey(frontend.Key, i)]
		if !ok {
			el, ok = endpoints.Elements[endpointKey(frontend.Key, 0)]
		}
		if ok {
			shares[el.Data]++
		}
	}
	n := r.Family.Bits() / 8
	name, _ := parseComment(frontend.Comment, model.Protocol(frontend.Key[n]))
	out := []model.EndpointView{}
	for data, share := range shares {
		if len(data) != n+4 {
			continue
		}
		e := model.EndpointView{Address: addrOf(data[:n]), Port: portOf(data[n:]), Probability: float64(share) / float64(count)}
		if frontend.Comment != "" {
			e.Chain = model.EndpointChain(name, endpointOf(e).String())
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b model.EndpointView) int { return endpointOf(a).Compare(endpointOf(b)) })
	return out
}

func endpointOf(e model.EndpointView) netip.AddrPort { return netip.AddrPortFrom(e.Address, e.Port) }
