package clusterdns

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"svcproxy/dns"
	"svcproxy/model"
	"svcproxy/proxier"
)

// Convert makes of a Service and its slices what DNS says of it. Errors name the object and the field.
func Convert(service *corev1.Service, slices []*discoveryv1.EndpointSlice) (*dns.Service, error) {
	s := &dns.Service{Name: model.ServiceName{Namespace: service.Namespace, Name: service.Name}}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		if service.Spec.ExternalName == "" {
			return nil, wrong(service, "spec.externalName", "is missing")
		}
		s.ExternalName = service.Spec.ExternalName
		return s, nil
	}
	addrs, err := clusterIPs(service)
	if err != nil {
		return nil, err
	}
	s.ClusterIPs = addrs
	for i, p := range service.Spec.Ports {
		port, ok := convertPort(p.Name, p.Protocol, p.Port)
		if !ok {
			return nil, wrong(service, fmt.Sprintf("spec.ports[%d]", i), fmt.Sprintf("no port: %s %d", p.Protocol, p.Port))
		}
		s.Ports = append(s.Ports, port)
	}
	for _, slice := range slices {
		if s.Endpoints, err = appendEndpoints(s.Endpoints, slice); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// clusterIPs are none for a headless Service.
func clusterIPs(service *corev1.Service) ([]netip.Addr, error) {
	texts := service.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{service.Spec.ClusterIP}
	}
	if texts[0] == corev1.ClusterIPNone {
		return nil, nil
	}
	var addrs []netip.Addr
	for i, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, wrong(service, fmt.Sprintf("spec.clusterIPs[%d]", i), fmt.Sprintf("%q is no address", text))
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// appendEndpoints adds the endpoints of a slice that are published: those that are ready, or of which that is not known.
// The controller calls all ready where the Service publishes addresses that are not.
func appendEndpoints(all []dns.Endpoint, slice *discoveryv1.EndpointSlice) ([]dns.Endpoint, error) {
	if slice.AddressType == discoveryv1.AddressTypeFQDN {
		return all, nil
	}
	var ports []model.ServicePort
	for i, p := range slice.Ports {
		if p.Port == nil {
			continue // all ports, of which there is nothing to be said
		}
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		port, ok := convertPort(name, protocol, *p.Port)
		if !ok {
			return nil, fmt.Errorf("%s: ports[%d]: no port: %s %d", proxier.ObjectName("EndpointSlice", slice.Namespace, slice.Name), i, protocol, *p.Port)
		}
		ports = append(ports, port)
	}
	for i, e := range slice.Endpoints {
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		hostname := ""
		if e.Hostname != nil {
			hostname = *e.Hostname
		}
		for _, text := range e.Addresses {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("%s: endpoints[%d].addresses: %q is no address", proxier.ObjectName("EndpointSlice", slice.Namespace, slice.Name), i, text)
			}
			all = append(all, dns.Endpoint{Addr: addr, Hostname: hostname, Ports: ports})
		}
	}
	return all, nil
}

var protocols = []struct {
	name corev1.Protocol
	is   model.Protocol
}{{corev1.ProtocolTCP, model.TCP}, {corev1.ProtocolUDP, model.UDP}, {corev1.ProtocolSCTP, model.SCTP}, {"", model.TCP}}

func convertPort(name string, protocol corev1.Protocol, number int32) (model.ServicePort, bool) {
	i := slices.IndexFunc(protocols, func(p struct {
		name corev1.Protocol
		is   model.Protocol
	}) bool {
		return p.name == protocol
	})
	if i < 0 || number < 1 || number > 65535 {
		return model.ServicePort{}, false
	}
	return model.ServicePort{Name: name, Protocol: protocols[i].is, Port: uint16(number)}, true
}

func wrong(service *corev1.Service, field, what string) error {
	return fmt.Errorf("%s: %s: %s", proxier.ObjectName("Service", service.Namespace, service.Name), field, what)
}
