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
	kubeNodePorts     = "service-nodeports"
	kubeNoEndpoints   = "no-endpoint-services"
	kubeNoEndpointsNP = "no-endpoint-nodeports"
	kubeClusterIPs    = "cluster-ips"
	kubeAnonymousMaps = "__map"
)

// kubeSets are the sets and maps that tell about Services.
var kubeSets = []string{kubeServiceIPs, kubeNodePorts, kubeNoEndpoints, kubeNoEndpointsNP, kubeClusterIPs}

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
	add := func(name string, proto model.Protocol, fe model.FrontendView, endpoints []plan.Endpoint) {
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
	// ClusterIPs come first, as their endpoints count: some of the others' may lead to those of this node only.
	for _, el := range t.frontends(kubeServiceIPs, kubeNodePorts) {
		_, chain, _ := strings.Cut(el.data.Data, " ")
		add(kubeServiceName(chain), el.proto, el.view, t.endpoints(chain, 0))
	}
	for _, el := range t.frontends(kubeNoEndpoints, kubeNoEndpointsNP) {
		if el.translated {
			continue // for who comes from outside; others are led to endpoints on other nodes
		}
		el.view.Action = "reject"
		if el.data.Data == "drop" {
			el.view.Action = "drop"
		}
		add(cmp.Or(el.data.Comment, fieldsText(t.family, el.data.Key)), el.proto, el.view, nil)
	}
	for i := range v.Services {
		slices.SortStableFunc(v.Services[i].Frontends, func(a, b model.FrontendView) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
		})
	}
	slices.SortFunc(v.Services, func(a, b model.ServiceView) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Protocol, b.Protocol))
	})
	return v
}

// kubeFrontend is an element of a map of frontends.
type kubeFrontend struct {
	data  KeyedElement
	proto model.Protocol
	view  model.FrontendView
	// translated says that an element of the maps of those with endpoints has the same key.
	translated bool
}

// frontends returns the frontends of a map of addresses and of one of node ports, ClusterIPs first.
func (t *kubeTable) frontends(addresses, nodePorts string) (out []kubeFrontend) {
	n := t.family.Bits() / 8
	for _, el := range (&Set{Elements: t.sets[addresses]}).sorted() {
		if len(el.Key) != n+8 {
			continue
		}
		f := kubeFrontend{data: el, proto: model.Protocol(el.Key[n])}
		f.view = model.FrontendView{Type: "External", Address: addrOf(el.Key[:n]), Port: portOf(el.Key[n+4:])}
		if _, ok := t.sets[kubeClusterIPs][el.Key[:n]]; ok {
			f.view.Type = plan.ClusterIP.String()
		}
		_, f.translated = t.sets[kubeServiceIPs][el.Key]
		out = append(out, f)
	}
	slices.SortStableFunc(out, func(a, b kubeFrontend) int {
		first := func(f kubeFrontend) int {
			if f.view.Type == plan.ClusterIP.String() {
				return 0
			}
			return 1
		}
		return first(a) - first(b)
	})
	for _, el := range (&Set{Elements: t.sets[nodePorts]}).sorted() {
		if len(el.Key) != 8 {
			continue
		}
		f := kubeFrontend{data: el, proto: model.Protocol(el.Key[0])}
		f.view = model.FrontendView{Type: plan.NodePort.String(), Port: portOf(el.Key[4:])}
		_, f.translated = t.sets[kubeNodePorts][el.Key]
		out = append(out, f)
	}
	return out
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
