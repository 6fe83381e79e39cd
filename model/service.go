package model

import (
	"net/netip"
	"slices"
	"time"
)

// Service is a Service that this node must serve: headless and ExternalName Services and those that the
// service-proxy-name label excludes never become one.
type Service struct {
	Name ServiceName
	// Created decides between Services that claim one frontend: the older wins.
	Created    time.Time
	ClusterIPs []netip.Addr
	// InternalLocal is the internal traffic policy Local: ClusterIPs lead to endpoints of this node alone.
	InternalLocal bool
	Ports         []ServicePort
}

// ServicePort is one port of a Service. Endpoints are found by its Name in the Service's slices, so the
// target port needs no place here.
type ServicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// PortName returns the full name of one of the Service's ports.
func (s *Service) PortName(p ServicePort) ServicePortName {
	return ServicePortName{Service: s.Name, Port: p.Name, Protocol: p.Protocol}
}

// Equal tells whether two Services are the same to the data plane.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && s.Created.Equal(o.Created) &&
		slices.Equal(s.ClusterIPs, o.ClusterIPs) && s.InternalLocal == o.InternalLocal && slices.Equal(s.Ports, o.Ports)
}
