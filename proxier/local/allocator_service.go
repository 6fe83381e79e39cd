package local

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"svcproxy/model"
)

// Wanted takes the ClusterIPs and node ports that a Service asks for by number, so that none of them is handed
// out to another. It is to be called for all Services before Service is called for any.
func (a *Allocator) Wanted(s *corev1.Service) error {
	o := serviceOwner(s)
	ips, err := wantedIPs(s)
	if err != nil {
		return err
	}
	for i, ip := range ips {
		pool := a.services[model.FamilyOf(ip)]
		if pool == nil {
			return fmt.Errorf("%s: spec.clusterIPs[%d]: %s: the cluster has no %s", o, i, ip, model.FamilyOf(ip))
		}
		if err := pool.free(ip, o); err != nil {
			return fmt.Errorf("%w (spec.clusterIPs[%d])", err, i)
		}
	}
	ports := wantedPorts(s)
	for _, p := range ports {
		if err := a.ports.free(p, o); err != nil {
			return fmt.Errorf("%w (spec.ports[].nodePort)", err)
		}
	}
	for family, pool := range a.services {
		keep := pool.ownedBy(o)
		if slices.ContainsFunc(ips, func(ip netip.Addr) bool { return model.FamilyOf(ip) == family }) {
			keep = nil
		}
		pool.release(o, append(keep, ips...)...)
	}
	for _, ip := range ips {
		a.services[model.FamilyOf(ip)].take(ip, o)
	}
	for _, p := range ports {
		a.ports.take(p, o)
	}
	return nil
}

// Service fills in what the API server would allocate: families, ClusterIPs, node ports and the port for health
// checks. What the Service had when it was filled in before is given as old and stays where it is still
// needed; old is nil for a new Service. What it needs no more is given back.
func (a *Allocator) Service(s, old *corev1.Service) error {
	if err := a.Wanted(s); err != nil {
		return err
	}
	if err := a.clusterIPs(s, old); err != nil {
		return err
	}
	return a.nodePorts(s, old)
}

func serviceOwner(s *corev1.Service) owner {
	return owner{kind: "Service", name: types.NamespacedName{Namespace: s.Namespace, Name: s.Name}}
}

// wantedIPs are the ClusterIPs that a Service names.
func wantedIPs(s *corev1.Service) ([]netip.Addr, error) {
	given := s.Spec.ClusterIPs
	if len(given) == 0 && s.Spec.ClusterIP != "" {
		given = []string{s.Spec.ClusterIP}
	}
	if !hasClusterIP(s) {
		return nil, nil
	}
	var ips []netip.Addr
	for i, text := range given {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%s: spec.clusterIPs[%d]: %q is not an IP address", serviceOwner(s), i, text)
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

// hasClusterIP tells whether a Service is one that has or needs ClusterIPs.
func hasClusterIP(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && !headless(s)
}

// headless tells whether a Service asks for no ClusterIP.
func headless(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName &&
		(s.Spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(s.Spec.ClusterIPs, corev1.ClusterIPNone))
}

// wantedPorts are the node ports that a Service names.
func wantedPorts(s *corev1.Service) []uint16 {
	var ports []uint16
	for _, p := range s.Spec.Ports {
		if p.NodePort > 0 && p.NodePort <= 65535 && needsNodePort(s) {
			ports = append(ports, uint16(p.NodePort))
		}
	}
	if p := s.Spec.HealthCheckNodePort; p > 0 && p <= 65535 && needsHealthCheckPort(s) {
		ports = append(ports, uint16(p))
	}
	return ports
}

func needsNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthCheckPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// clusterIPs gives a Service its families and one address of each.
func (a *Allocator) clusterIPs(s, old *corev1.Service) error {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		a.releaseIPs(s, nil)
		return nil
	}
	families, err := a.familiesOf(s)
	if err != nil {
		return fmt.Errorf("%s: %w", serviceOwner(s), err)
	}
	s.Spec.IPFamilies = s.Spec.IPFamilies[:0:0]
	for _, f := range families {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPFamily(f.String()))
	}
	if headless(s) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		a.releaseIPs(s, nil)
		return nil
	}
	wanted, err := wantedIPs(s)
	if err != nil {
		return err
	}
	var ips []netip.Addr
	for _, family := range families {
		ip, err := a.clusterIP(s, family, wanted)
		if err != nil {
			return err
		}
		ips = append(ips, ip)
	}
	a.releaseIPs(s, ips)
	s.Spec.ClusterIPs = nil
	for _, ip := range ips {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	return nil
}

// clusterIP is a Service's address of a family: the wanted one, else the one that it has, else the next.
func (a *Allocator) clusterIP(s *corev1.Service, family model.Family, wanted []netip.Addr) (netip.Addr, error) {
	for _, ip := range wanted {
		if model.FamilyOf(ip) == family {
			return ip, nil
		}
	}
	pool, o := a.services[family], serviceOwner(s)
	if has := pool.ownedBy(o); len(has) > 0 {
		return has[0], nil
	}
	return pool.next(o)
}

func (a *Allocator) releaseIPs(s *corev1.Service, keep []netip.Addr) {
	for _, pool := range a.services {
		pool.release(serviceOwner(s), keep...)
	}
}

// familiesOf decides on a Service's families, as the API server does, and sets the policy where there is none.
func (a *Allocator) familiesOf(s *corev1.Service) ([]model.Family, error) {
	has := a.ranges.families()
	families, err := namedFamilies(s)
	if err != nil {
		return nil, err
	}
	// A headless Service without a selector has what its slices have, so it takes both whatever the cluster has.
	bare := headless(s) && len(s.Spec.Selector) == 0
	if s.Spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if bare && len(families) == 0 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		} else if len(families) > 1 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		s.Spec.IPFamilyPolicy = &policy
	}
	if len(families) == 0 {
		families = has[:1:1]
	}
	if *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(families) == 1 {
		for _, f := range model.Families {
			if f != families[0] && (bare || slices.Contains(has, f)) {
				families = append(families, f)
			}
		}
	}
	if bare {
		return families, nil
	}
	switch *s.Spec.IPFamilyPolicy {
	case corev1.IPFamilyPolicySingleStack:
		if len(families) > 1 {
			return nil, fmt.Errorf("spec.ipFamilyPolicy: SingleStack, but %d families or ClusterIPs are named", len(families))
		}
	case corev1.IPFamilyPolicyRequireDualStack:
		if len(has) < 2 {
			return nil, fmt.Errorf("spec.ipFamilyPolicy: RequireDualStack: the cluster has %s alone", has[0])
		}
	case corev1.IPFamilyPolicyPreferDualStack:
		if len(families) > 1 && len(has) < 2 && len(s.Spec.ClusterIPs) < 2 {
			families = has
		}
	default:
		return nil, fmt.Errorf("spec.ipFamilyPolicy: %q is unknown: want SingleStack, PreferDualStack or RequireDualStack", *s.Spec.IPFamilyPolicy)
	}
	for i, f := range families {
		if !slices.Contains(has, f) {
			return nil, fmt.Errorf("spec.ipFamilies[%d]: the cluster has no %s", i, f)
		}
	}
	return families, nil
}

// namedFamilies are the families that a Service names, by ipFamilies or by its ClusterIPs.
func namedFamilies(s *corev1.Service) ([]model.Family, error) {
	var families []model.Family
	for i, f := range s.Spec.IPFamilies {
		family := model.IPv4
		switch f {
		case corev1.IPv4Protocol:
		case corev1.IPv6Protocol:
			family = model.IPv6
		default:
			return nil, fmt.Errorf("spec.ipFamilies[%d]: %q is unknown: want IPv4 or IPv6", i, f)
		}
		if slices.Contains(families, family) {
			return nil, fmt.Errorf("spec.ipFamilies[%d]: %s is there twice", i, f)
		}
		families = append(families, family)
	}
	ips, err := wantedIPs(s)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		family := model.FamilyOf(ip)
		if i < len(families) && families[i] != family {
			return nil, fmt.Errorf("spec.ipFamilies[%d]: %s is not the family of %s", i, families[i], ip)
		}
		if i >= len(families) {
			if slices.Contains(families, family) {
				return nil, fmt.Errorf("spec.clusterIPs[%d]: %s is the second of its family", i, ip)
			}
			families = append(families, family)
		}
	}
	return families, nil
}

// nodePorts gives a Service of type NodePort or LoadBalancer its node ports.
func (a *Allocator) nodePorts(s, old *corev1.Service) error {
	o := serviceOwner(s)
	var err error
	used := map[uint16][]corev1.Protocol{}
	for _, p := range s.Spec.Ports {
		if p.NodePort > 0 {
			used[uint16(p.NodePort)] = append(used[uint16(p.NodePort)], p.Protocol)
		}
	}
	allocates := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		(s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts)
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 || !allocates {
			continue
		}
		n := a.nodePortBefore(s, old, p, used)
		if n == 0 {
			if n, err = a.ports.next(o); err != nil {
				return fmt.Errorf("%w (spec.ports[%d].nodePort)", err, i)
			}
		}
		a.ports.take(n, o)
		p.NodePort = int32(n)
		used[n] = append(used[n], p.Protocol)
	}
	if needsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0 {
		if old != nil && needsHealthCheckPort(old) && a.ports.free(uint16(old.Spec.HealthCheckNodePort), o) == nil && len(used[uint16(old.Spec.HealthCheckNodePort)]) == 0 {
			s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
		} else {
			n, err := a.ports.next(o)
			if err != nil {
				return fmt.Errorf("%w (spec.healthCheckNodePort)", err)
			}
			s.Spec.HealthCheckNodePort = int32(n)
		}
	}
	a.ports.release(o, wantedPorts(s)...)
	return nil
}

// nodePortBefore is the node port that a port had, or else that of the port with the same number and another
// protocol, as DNS has it; 0 is none.
func (a *Allocator) nodePortBefore(s, old *corev1.Service, p *corev1.ServicePort, used map[uint16][]corev1.Protocol) uint16 {
	usable := func(n int32, protocol corev1.Protocol) bool {
		return n > 0 && a.ports.free(uint16(n), serviceOwner(s)) == nil && !slices.Contains(used[uint16(n)], protocol)
	}
	if old != nil && needsNodePort(old) {
		for _, q := range old.Spec.Ports {
			if q.Port == p.Port && q.Protocol == p.Protocol && usable(q.NodePort, p.Protocol) {
				return uint16(q.NodePort)
			}
		}
	}
	for _, q := range s.Spec.Ports {
		if q.Port == p.Port && q.Protocol != p.Protocol && usable(q.NodePort, p.Protocol) {
			return uint16(q.NodePort)
		}
	}
	return 0
}
