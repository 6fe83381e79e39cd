package proxier

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"svcproxy/model"
)

// external reads what lets a Service be reached from outside of the cluster into s, whose ClusterIPs and ports
// are there already.
func (f *findings) external(o *corev1.Service, s *model.Service) {
	spec := &o.Spec
	switch spec.Type {
	case "", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	default:
		f.bad("spec.type", "%s is unknown: want ClusterIP, NodePort, LoadBalancer or ExternalName", printable(string(spec.Type)))
		return
	}
	for i, p := range spec.Ports {
		s.Ports[i].NodePort = f.nodePort(at("spec.ports", i)+".nodePort", spec, p.NodePort)
	}
	f.distinctNodePorts(s.Ports)
	s.ExternalIPs = f.externalIPs(spec.ExternalIPs, s.ClusterIPs)
	s.LoadBalancerIPs = f.loadBalancerIPs(o, s.ClusterIPs)
	s.SourceRanges = f.sourceRanges(o, s.LoadBalancerIPs)
	s.ExternalLocal = f.externalLocal(spec)
	s.HealthCheckNodePort = f.healthCheckNodePort(spec, s)
}

// nodePort reads the node port of one port: allocating one is the API server's work.
func (f *findings) nodePort(field string, spec *corev1.ServiceSpec, number int32) uint16 {
	allocates := spec.AllocateLoadBalancerNodePorts == nil || *spec.AllocateLoadBalancerNodePorts
	switch {
	case number == 0 && spec.Type == corev1.ServiceTypeNodePort,
		number == 0 && spec.Type == corev1.ServiceTypeLoadBalancer && allocates:
		f.bad(field, "is missing: a Service of type %s has one for each port, which the API server allocates", spec.Type)
		return 0
	case number == 0:
		return 0
	case spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer:
		f.bad(field, "%d goes with the types NodePort and LoadBalancer alone", number)
		return 0
	}
	return f.port(field, number)
}

func (f *findings) distinctNodePorts(ports []model.ServicePort) {
	for i, p := range ports {
		if p.NodePort != 0 && slices.ContainsFunc(ports[:i], func(q model.ServicePort) bool {
			return q.NodePort == p.NodePort && q.Protocol == p.Protocol
		}) {
			f.bad(at("spec.ports", i)+".nodePort", "%d %s is there twice", p.NodePort, p.Protocol)
		}
	}
}

// externalIPs reads the external IPs. Those that reach the node itself or its link are refused, as by the API
// server, which lets through multicast and broadcast ones.
func (f *findings) externalIPs(given []string, clusterIPs []netip.Addr) []netip.Addr {
	var read []netip.Addr
	for i, s := range given {
		field := at("spec.externalIPs", i)
		a, err := f.addr(field, s)
		switch {
		case err != nil:
			f.bad(field, "%w", err)
		case a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsLinkLocalMulticast():
			f.bad(field, "%s can't be an external IP: it is unspecified, loopback or link-local", a)
		default:
			read = f.reachable(read, field, a, clusterIPs)
		}
	}
	return read
}

// loadBalancerIPs reads the addresses at which packets of a load balancer arrive untranslated.
func (f *findings) loadBalancerIPs(o *corev1.Service, clusterIPs []netip.Addr) []netip.Addr {
	given := o.Status.LoadBalancer.Ingress
	if len(given) > 0 && o.Spec.Type != corev1.ServiceTypeLoadBalancer {
		f.note("status.loadBalancer.ingress", "not served: the type is not LoadBalancer")
		return nil
	}
	var read []netip.Addr
	for i, ingress := range given {
		field := at("status.loadBalancer.ingress", i)
		mode := corev1.LoadBalancerIPModeVIP
		if ingress.IPMode != nil {
			mode = *ingress.IPMode
		}
		if ingress.IP == "" {
			f.note(field, "has no IP address, so there is nothing to serve for it")
			continue
		}
		a, err := f.addr(field+".ip", ingress.IP)
		switch {
		case err != nil:
			f.bad(field+".ip", "%w", err)
		case mode == corev1.LoadBalancerIPModeProxy:
			f.note(field+".ipMode", "Proxy: %s is left to the load balancer", a)
		case mode != corev1.LoadBalancerIPModeVIP:
			f.bad(field+".ipMode", "%s is unknown: want VIP or Proxy", printable(string(mode)))
		default:
			read = f.reachable(read, field+".ip", a, clusterIPs)
		}
	}
	return read
}

// reachable adds an external address to others, once, unless it can't be served.
func (f *findings) reachable(others []netip.Addr, field string, a netip.Addr, clusterIPs []netip.Addr) []netip.Addr {
	switch {
	case a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast(), a == broadcast:
		f.note(field, "%s is not served: it is unspecified, loopback, link-local, multicast or broadcast", a)
	case len(clusterIPs) > 0 && !slices.ContainsFunc(clusterIPs, func(b netip.Addr) bool { return model.FamilyOf(a) == model.FamilyOf(b) }):
		f.note(field, "%s is not served: the Service has no %s ClusterIP", a, model.FamilyOf(a))
	case !slices.Contains(others, a):
		return append(others, a)
	}
	return others
}

// sourceRanges reads who may connect to the load balancer. The annotation that came before the field counts
// for the API server and for clouds, but kube-proxy never read it.
func (f *findings) sourceRanges(o *corev1.Service, limited []netip.Addr) []netip.Prefix {
	const field, annotation = "spec.loadBalancerSourceRanges", corev1.AnnotationLoadBalancerSourceRangesKey
	given := o.Spec.LoadBalancerSourceRanges
	if o.Annotations[annotation] != "" && len(given) == 0 {
		f.note("metadata.annotations["+annotation+"]", "has no effect: use %s", field)
	}
	if len(given) > 0 && o.Spec.Type != corev1.ServiceTypeLoadBalancer {
		f.bad(field, "goes with the type LoadBalancer alone")
		return nil
	}
	// The API takes spaces around a range.
	trimmed := make([]string, len(given))
	for i, s := range given {
		trimmed[i] = strings.TrimSpace(s)
	}
	read := f.prefixes(field, trimmed)
	for _, a := range limited {
		if len(read) > 0 && !slices.ContainsFunc(read, func(p netip.Prefix) bool { return model.FamilyOf(p.Addr()) == model.FamilyOf(a) }) {
			f.note(field, "no range is %s, so %s takes connections from everywhere", model.FamilyOf(a), a)
		}
	}
	return read
}

// externalLocal reads the external traffic policy; none is Cluster.
func (f *findings) externalLocal(spec *corev1.ServiceSpec) bool {
	const field = "spec.externalTrafficPolicy"
	switch spec.ExternalTrafficPolicy {
	case "", corev1.ServiceExternalTrafficPolicyCluster:
		return false
	case corev1.ServiceExternalTrafficPolicyLocal:
	default:
		f.bad(field, "%s is unknown: want Cluster or Local", printable(string(spec.ExternalTrafficPolicy)))
		return false
	}
	if !externallyAccessible(spec) {
		f.note(field, "has no effect: the Service has no external addresses")
		return false
	}
	return true
}

// externallyAccessible tells whether a Service may have other addresses than ClusterIPs.
func externallyAccessible(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer || len(spec.ExternalIPs) > 0
}

// healthCheckNodePort reads where load balancers ask for endpoints: only type LoadBalancer with the policy
// Local has such a port.
func (f *findings) healthCheckNodePort(spec *corev1.ServiceSpec, s *model.Service) uint16 {
	const field = "spec.healthCheckNodePort"
	needed := spec.Type == corev1.ServiceTypeLoadBalancer && s.ExternalLocal
	switch {
	case !needed && spec.HealthCheckNodePort != 0:
		f.note(field, "has no effect: it goes with the type LoadBalancer and externalTrafficPolicy Local")
		return 0
	case !needed:
		return 0
	case spec.HealthCheckNodePort == 0:
		f.note(field, "is missing, so load balancers can't ask this node whether it has endpoints")
		return 0
	}
	port := f.port(field, spec.HealthCheckNodePort)
	if port != 0 && slices.ContainsFunc(s.Ports, func(p model.ServicePort) bool { return p.NodePort == port && p.Protocol == model.TCP }) {
		f.bad(field, "%d is also the nodePort of a port", port)
		return 0
	}
	return port
}
