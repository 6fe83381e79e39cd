package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"svcproxy/model"
)

// Plan is every decision about one IP family.
type Plan struct {
	Config   Config
	Services map[model.ServiceName]*Service
}

// Service is every decision about one Service. It is immutable once the Planner has returned it.
type Service struct {
	Name model.ServiceName
	// Ports are in the order of their names.
	Ports []ServicePort
	// HealthCheck is what load balancers may ask this node about the Service; its zero value is nothing.
	HealthCheck HealthCheck
}

// HealthCheck is what the health-check node port of a Service with the external traffic policy Local says.
type HealthCheck struct {
	// Port is the port on the node, 0 for none.
	Port uint16
	// Ready counts the addresses of ready endpoints on this node, over all ports; those that terminate
	// don't count, so that load balancers look elsewhere in time.
	Ready int
}

// ServicePort is every decision about one port of a Service.
type ServicePort struct {
	Name model.ServicePortName
	// Frontends are the addresses at which the port answers, in order. No two ports of any Services share
	// one: who claims a frontend in vain has it in Lost.
	Frontends []Frontend
	// Endpoints share equally the connections that no policy keeps on this node, Local those that the
	// policy Local does. Both are in order and without duplicates, and empty unless a Route of Frontends or
	// of Lost leads to them.
	Endpoints, Local []Endpoint
	// Affinity is how long a client stays with its endpoint after its last new connection, within the
	// list that its Route leads to and over all frontends of the port; 0 is no session affinity.
	Affinity time.Duration
	// SourceRanges, unless empty, are the sources whose connections to the LoadBalancer frontends are
	// taken; those of others are dropped before anything else happens to them.
	SourceRanges []netip.Prefix
	// OwnSource adds to SourceRanges the addresses of the LoadBalancer frontends: where they are this node's,
	// the node's own connections to them have them as their source. It is true if an address of this node is in
	// the ranges.
	OwnSource bool
	// Excluded are the endpoints that get no new connections, each with its reason.
	Excluded []Exclusion
	// Lost are the frontends that another Service holds.
	Lost []LostFrontend
}

// FrontendKind tells where a frontend's address comes from.
type FrontendKind uint8

// The kinds of frontends.
const (
	ClusterIP FrontendKind = iota
	ExternalIP
	LoadBalancer
	// NodePort is a frontend at those of the node's own addresses that Config.NodePorts names.
	NodePort
)

// String returns the kind as the Kubernetes API and kube-proxy spell it.
func (k FrontendKind) String() string {
	switch k {
	case ClusterIP:
		return "ClusterIP"
	case ExternalIP:
		return "ExternalIP"
	case LoadBalancer:
		return "LoadBalancer"
	case NodePort:
		return "NodePort"
	}
	return "unknown"
}

// Action is what a frontend does with a new connection.
type Action uint8

const (
	// Balance sends it to one of the endpoints, each with the same probability.
	Balance Action = iota
	// Reject refuses it at once, so that the client sees "connection refused": there is no endpoint at all.
	Reject
	// Drop drops it: there are endpoints, but the traffic policy Local allows none, as this node has none.
	Drop
)

// String returns the action in lower case.
func (a Action) String() string {
	switch a {
	case Balance:
		return "balance"
	case Reject:
		return "reject"
	case Drop:
		return "drop"
	}
	return "unknown"
}

// FrontendKey is what a packet must match to be for a frontend. Only one Service port may hold each. Addr is
// the zero Addr for a NodePort.
type FrontendKey struct {
	Addr     netip.Addr
	Protocol model.Protocol
	Port     uint16
}

// Compare orders keys by address, protocol and port.
func (k FrontendKey) Compare(o FrontendKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Protocol, o.Protocol), cmp.Compare(k.Port, o.Port))
}

// Frontend is an address at which a Service port answers. What happens to a connection depends on where it
// comes from: a pod, if the Detector calls its source local; else the node, if its source is one of the
// node's own addresses; else outside. Without a Detector, Pods is the same as Outside, and nothing is a pod.
type Frontend struct {
	FrontendKey
	Kind                FrontendKind
	Pods, Node, Outside Route
}

// Routes returns the routes of pods, the node and outside.
func (f Frontend) Routes() [3]Route { return [3]Route{f.Pods, f.Node, f.Outside} }

// Uniform tells whether it makes no difference to the endpoints where a connection comes from, and returns
// their common route, whose Masquerade means nothing.
func (f Frontend) Uniform() (Route, bool) {
	common := f.Pods
	for _, r := range f.Routes() {
		if r.Action != common.Action || r.Local != common.Local {
			return Route{}, false
		}
	}
	return common, true
}

// Route is what happens to a connection.
type Route struct {
	Action Action
	// Local balances over the Service port's Local endpoints and not over its Endpoints. It is false
	// unless Action is Balance, and so is Masquerade.
	Local bool
	// Masquerade replaces the source. Whatever it says, a connection of an endpoint to itself is
	// masqueraded.
	Masquerade bool
}

// List returns the endpoints that a route balances over.
func (p *ServicePort) List(r Route) []Endpoint {
	switch {
	case r.Action != Balance:
		return nil
	case r.Local:
		return p.Local
	}
	return p.Endpoints
}

// Sources returns SourceRanges with what OwnSource adds to them.
func (p *ServicePort) Sources() []netip.Prefix {
	if !p.OwnSource {
		return p.SourceRanges
	}
	all := slices.Clone(p.SourceRanges)
	for _, f := range p.Frontends {
		if f.Kind == LoadBalancer {
			all = append(all, netip.PrefixFrom(f.Addr, f.Addr.BitLen()))
		}
	}
	return all
}

// LostFrontend is a frontend that the port claims and another Service holds.
type LostFrontend struct {
	Frontend Frontend
	Holder   model.ServicePortName
}

// Endpoint is where a connection may go.
type Endpoint struct {
	Addr netip.Addr
	Port uint16
	// Remote says that the endpoint is known to be on another node, so that it is no client of this one.
	Remote bool
}

// AddrPort returns the endpoint as "ip:port", or "[ip]:port" for IPv6, when printed.
func (e Endpoint) AddrPort() netip.AddrPort { return netip.AddrPortFrom(e.Addr, e.Port) }

// Compare orders endpoints by address and port.
func (e Endpoint) Compare(o Endpoint) int {
	return cmp.Or(e.Addr.Compare(o.Addr), cmp.Compare(e.Port, o.Port))
}

// Reason tells why an endpoint gets no new connections.
type Reason string

// The reasons for leaving an endpoint out.
const (
	NotReady    Reason = "not ready"
	Terminating Reason = "terminating, and others are ready"
	NotHere     Reason = "not on this node, and the traffic policy is Local"
	OtherNode   Reason = "hinted to other nodes"
	OtherZone   Reason = "hinted to other zones"
	BadAddress  Reason = "loopback, link-local, multicast, broadcast or unspecified address"
	ZeroPort    Reason = "port 0"
)

// Exclusion is an endpoint that was left out.
type Exclusion struct {
	Endpoint Endpoint
	Reason   Reason
	// Serving says that it still serves the connections that it has.
	Serving bool
}

// Equal tells whether two Services were decided alike.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && s.HealthCheck == o.HealthCheck && slices.EqualFunc(s.Ports, o.Ports, func(a, b ServicePort) bool {
		return a.Name == b.Name && slices.Equal(a.Frontends, b.Frontends) &&
			slices.Equal(a.Endpoints, b.Endpoints) && slices.Equal(a.Local, b.Local) &&
			a.Affinity == b.Affinity && slices.Equal(a.SourceRanges, b.SourceRanges) && a.OwnSource == b.OwnSource &&
			slices.Equal(a.Excluded, b.Excluded) && slices.Equal(a.Lost, b.Lost)
	})
}
