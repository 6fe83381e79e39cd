package plan

import (
	"cmp"
	"net/netip"
	"slices"

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
}

// ServicePort is every decision about one port of a Service.
type ServicePort struct {
	Name model.ServicePortName
	// Frontends are the addresses at which the port answers, in order. No two ports of any Services share
	// one: who claims a frontend in vain has it in Lost.
	Frontends []Frontend
	// Endpoints share the connections equally. They are in order and without duplicates.
	Endpoints []Endpoint
	// Excluded are the endpoints that get no new connections, each with its reason.
	Excluded []Exclusion
	// Lost are the frontends that another Service holds.
	Lost []LostFrontend
}

// FrontendKind tells where a frontend's address comes from.
type FrontendKind uint8

// ClusterIP is a frontend at one of the Service's ClusterIPs.
const ClusterIP FrontendKind = iota

// String returns the kind as the Kubernetes API spells it.
func (k FrontendKind) String() string {
	if k == ClusterIP {
		return "ClusterIP"
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

// FrontendKey is what a packet must match to be for a frontend. Only one Service port may hold each.
type FrontendKey struct {
	Addr     netip.Addr
	Protocol model.Protocol
	Port     uint16
}

// Compare orders keys by address, protocol and port.
func (k FrontendKey) Compare(o FrontendKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Protocol, o.Protocol), cmp.Compare(k.Port, o.Port))
}

// Frontend is an address at which a Service port answers.
type Frontend struct {
	FrontendKey
	Kind   FrontendKind
	Action Action
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
}

// Equal tells whether two Services were decided alike.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && slices.EqualFunc(s.Ports, o.Ports, func(a, b ServicePort) bool {
		return a.Name == b.Name && slices.Equal(a.Frontends, b.Frontends) && slices.Equal(a.Endpoints, b.Endpoints) &&
			slices.Equal(a.Excluded, b.Excluded) && slices.Equal(a.Lost, b.Lost)
	})
}
