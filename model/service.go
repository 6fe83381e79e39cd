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
	// ExternalIPs are addresses that something else routes to this node.
	ExternalIPs []netip.Addr
	// LoadBalancerIPs are the ingress addresses of the load balancer whose packets arrive untranslated
	// (ipMode VIP).
	LoadBalancerIPs []netip.Addr
	// SourceRanges are the only sources that may connect to LoadBalancerIPs; none means all.
	SourceRanges []netip.Prefix
	// Affinity is the time-out of the session affinity ClientIP, 0 for none.
	Affinity time.Duration
	// HealthCheckNodePort is where load balancers ask whether this node has endpoints, 0 for nowhere.
	HealthCheckNodePort uint16
	// ExternalLocal is the external traffic policy Local: external IPs, load balancer IPs and node ports
	// lead to endpoints of this node alone.
	ExternalLocal bool
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
	// NodePort is 0 for none.
	NodePort uint16
}

// PortName returns the full name of one of the Service's ports.
func (s *Service) PortName(p ServicePort) ServicePortName {
	return ServicePortName{Service: s.Name, Port: p.Name, Protocol: p.Protocol}
}

// Equal tells whether two Services are the same to the data plane.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && s.Created.Equal(o.Created) && slices.Equal(s.ClusterIPs, o.ClusterIPs) &&
		slices.Equal(s.ExternalIPs, o.ExternalIPs) && slices.Equal(s.LoadBalancerIPs, o.LoadBalancerIPs) &&
		slices.Equal(s.SourceRanges, o.SourceRanges) && s.Affinity == o.Affinity && s.HealthCheckNodePort == o.HealthCheckNodePort &&
		s.ExternalLocal == o.ExternalLocal && s.InternalLocal == o.InternalLocal && slices.Equal(s.Ports, o.Ports)
}
