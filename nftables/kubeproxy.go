package nftables

import (
	"cmp"
	"slices"
	"strings"

	"svcproxy/model"
	"svcproxy/plan"
)

// Names in the table of kube-proxy's nftables mode (k8s.io/kubernetes/pkg/proxy/nftables).
const (
	kubeProxyTable    = "kube-proxy"
	kubeServiceIPs    = "service-ips"
	kubeNoEndpoints   = "no-endpoint-services"
	kubeClusterIPs    = "cluster-ips"
	kubeAnonymousMaps = "__map"
)

// kubeTable is what kube-proxy's table holds about Services.
type kubeTable struct {
	family model.Family
	chains map[string][]kubeRule
	sets   map[string]map[string]Element
}

// kubeRule is what matters of a rule of kube-proxy's: where it sends a connection.
type kubeRule struct {
	// to is the only endpoint.
	to plan.Endpoint
	// pick is the anonymous map from which an index picks an endpoint, or the chain of one.
	pick string
	// next is the chain that it goes to.
	next string
}

// view puts the table in the words of svcproxy.
func (t *kubeTable) view() model.View {
	v := model.View{Backend: "nftables (kube-proxy)", Services: []model.ServiceView{}}
	index := map[string]int{}
	add := func(name string, el KeyedElement, fe model.FrontendView, endpoints []plan.Endpoint) {
		n := t.family.Bits() / 8
		proto := model.Protocol(el.Key[n])
		id := name + "/" + proto.String()
		i, ok := index[id]
		if !ok {
			i = len(v.Services)
			index[id] = i
			v.Services = append(v.Services, kubeServiceView(name, proto))
		}
		s := &v.Services[i]
		s.Frontends = append(s.Frontends, fe)
		if len(s.Endpoints) == 0 {
			s.Endpoints = shares(name, proto, endpoints)
		}
	}
	for _, el := range t.elements(kubeNoEndpoints) {
		fe := t.frontend(el)
		fe.Action = "reject"
		if el.Data == "drop" {
			fe.Action = "drop"
		}
		add(cmp.Or(el.Comment, fieldsText(t.family, el.Key)), el, fe, nil)
	}
	for _, el := range t.elements(kubeServiceIPs) {
		_, chain, _ := strings.Cut(el.Data, " ")
		add(kubeServiceName(chain), el, t.frontend(el), t.endpoints(chain, 0))
	}
	slices.SortFunc(v.Services, func(a, b model.ServiceView) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Protocol, b.Protocol))
	})
	return v
}

// elements returns the elements of a map of frontends in order.
func (t *kubeTable) elements(set string) []KeyedElement {
	s := &Set{Elements: t.sets[set]}
	return slices.DeleteFunc(s.sorted(), func(el KeyedElement) bool { return len(el.Key) != t.family.Bits()/8+8 })
}

func (t *kubeTable) frontend(el KeyedElement) model.FrontendView {
	n := t.family.Bits() / 8
	fe := model.FrontendView{Type: "External", Address: addrOf(el.Key[:n]), Port: portOf(el.Key[n+4:])}
	if _, ok := t.sets[kubeClusterIPs][el.Key[:n]]; ok {
		fe.Type = plan.ClusterIP.String()
	}
	return fe
}

// maxKubeDepth bounds how many chains lead from a frontend to an endpoint.
const maxKubeDepth = 5

// endpoints returns where the rules of a chain send a connection in the end: one endpoint for each index.
func (t *kubeTable) endpoints(chain string, depth int) []plan.Endpoint {
	rules := t.chains[chain]
	if depth > maxKubeDepth || len(rules) == 0 {
		return nil
	}
	switch last := rules[len(rules)-1]; {
	case last.to.Addr.IsValid():
		return []plan.Endpoint{last.to}
	case last.next != "":
		return t.endpoints(last.next, depth+1)
	default:
		return t.picked(last.pick, depth)
	}
}

func (t *kubeTable) picked(set string, depth int) (out []plan.Endpoint) {
	n := t.family.Bits() / 8
	for _, el := range (&Set{Elements: t.sets[set]}).sorted() {
		if chain, ok := strings.CutPrefix(el.Data, "goto "); ok {
			out = append(out, t.endpoints(chain, depth+1)...)
		} else if len(el.Data) == n+4 {
			out = append(out, plan.Endpoint{Addr: addrOf(el.Data[:n]), Port: portOf(el.Data[n:])})
		}
	}
	return out
}

// kubeServiceName reads "ns/name:port" from a chain's name, "service-HASH-ns/name/proto/port", as far as
// kube-proxy did not truncate it.
func kubeServiceName(chain string) string {
	parts := strings.SplitN(chain, "-", 3)
	fields := strings.Split(parts[len(parts)-1], "/")
	if len(parts) < 3 || len(fields) < 4 {
		return chain
	}
	name := model.ServicePortName{Service: model.ServiceName{Namespace: fields[0], Name: fields[1]}, Port: fields[3]}
	return name.String()
}

func kubeServiceView(name string, proto model.Protocol) model.ServiceView {
	_, chain := parseName(name, proto)
	return model.ServiceView{Name: name, Protocol: proto.String(), Chain: chain, Endpoints: []model.EndpointView{}}
}

// shares gives each of the endpoints, of which some may be equal, its share.
func shares(service string, proto model.Protocol, endpoints []plan.Endpoint) []model.EndpointView {
	name, _ := parseName(service, proto)
	count := map[plan.Endpoint]int{}
	for _, e := range endpoints {
		count[e]++
	}
	out := []model.EndpointView{}
	for e, n := range count {
		out = append(out, model.EndpointView{Chain: model.EndpointChain(name, e.AddrPort().String()),
			Address: e.Addr, Port: e.Port, Probability: float64(n) / float64(len(endpoints))})
	}
	slices.SortFunc(out, func(a, b model.EndpointView) int { return endpointOf(a).Compare(endpointOf(b)) })
	return out
}
