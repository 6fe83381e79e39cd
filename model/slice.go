package model

import (
	"net/netip"
	"slices"
)

// SliceName names an EndpointSlice.
type SliceName struct {
	Namespace string
	Name      string
}

// String returns "namespace/name".
func (n SliceName) String() string { return n.Namespace + "/" + n.Name }

// Slice is an EndpointSlice with IPv4 or IPv6 addresses. Several slices may belong to one Service.
type Slice struct {
	Name      SliceName
	Service   ServiceName
	Family    Family
	Ports     []SlicePort
	Endpoints []Endpoint
}

// SlicePort is a port that every endpoint of a slice serves.
type SlicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Endpoint is one endpoint of a slice. Only the first address of an API endpoint counts, as for
// kube-proxy: the API calls the others fungible.
type Endpoint struct {
	Addr netip.Addr
	// Ready is true where the API says nothing; Serving too.
	Ready       bool
	Serving     bool
	Terminating bool
	NodeName    string
	// NodeHints and ZoneHints name the nodes and zones that should use the endpoint.
	NodeHints, ZoneHints []string
}

// Equal tells whether two endpoints are the same to the data plane.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Addr == o.Addr && e.Ready == o.Ready && e.Serving == o.Serving && e.Terminating == o.Terminating &&
		e.NodeName == o.NodeName && slices.Equal(e.NodeHints, o.NodeHints) && slices.Equal(e.ZoneHints, o.ZoneHints)
}

// Equal tells whether two slices are the same to the data plane.
func (s *Slice) Equal(o *Slice) bool {
	return s.Name == o.Name && s.Service == o.Service && s.Family == o.Family &&
		slices.Equal(s.Ports, o.Ports) && slices.EqualFunc(s.Endpoints, o.Endpoints, Endpoint.Equal)
}
