package proxier

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"svcproxy/model"
)

// ConvertSlice turns an EndpointSlice into the model's form. It is nil if the slice belongs to no Service,
// or to a headless one by its label, or holds names instead of addresses; the notes say why. An endpoint whose address can't be used is left
// out and noted, since it must not take the healthy ones with it; whatever else is wrong makes the slice
// unusable, and then err names every field.
func ConvertSlice(o *discoveryv1.EndpointSlice) (s *model.Slice, notes []string, err error) {
	f := &findings{object: object("EndpointSlice", o.Namespace, o.Name)}
	service := o.Labels[discoveryv1.LabelServiceName]
	_, headless := o.Labels[corev1.IsHeadlessService]
	switch {
	case service == "":
		f.note("metadata.labels", "belongs to no Service: no label %s", discoveryv1.LabelServiceName)
		return nil, f.notes, nil
	case o.AddressType == discoveryv1.AddressTypeFQDN:
		f.note("addressType", "FQDN is not served")
		return nil, f.notes, nil
	case headless:
		f.note("metadata.labels["+corev1.IsHeadlessService+"]", "headless, so there is nothing to balance")
		return nil, f.notes, nil
	}
	f.label("metadata.namespace", o.Namespace)
	f.subdomain("metadata.name", o.Name)
	f.label("metadata.labels["+discoveryv1.LabelServiceName+"]", service)
	s = &model.Slice{
		Name:    model.SliceName{Namespace: o.Namespace, Name: o.Name},
		Service: model.ServiceName{Namespace: o.Namespace, Name: service},
		Family:  f.addressType(o.AddressType),
		Ports:   f.slicePorts(o.Ports),
	}
	for i := range o.Endpoints {
		if e, ok := f.endpoint(&o.Endpoints[i], i, s.Family); ok {
			s.Endpoints = append(s.Endpoints, e)
		}
	}
	if err := f.err(); err != nil {
		return nil, f.notes, err
	}
	return s, f.notes, nil
}

func (f *findings) addressType(t discoveryv1.AddressType) model.Family {
	switch t {
	case discoveryv1.AddressTypeIPv4:
		return model.IPv4
	case discoveryv1.AddressTypeIPv6:
		return model.IPv6
	}
	f.bad("addressType", "%s is unknown: want IPv4, IPv6 or FQDN", printable(string(t)))
	return 0
}

// slicePorts reads the ports of a slice. One without a number means "all ports", which a Service port
// can't refer to.
func (f *findings) slicePorts(ports []discoveryv1.EndpointPort) []model.SlicePort {
	var read []model.SlicePort
	type key struct {
		name     string
		protocol model.Protocol
	}
	seen := map[key]bool{}
	for i, p := range ports {
		path := at("ports", i)
		if p.Port == nil {
			f.note(path, "has no number, so no Service port leads to it")
			continue
		}
		sp := model.SlicePort{Name: value(p.Name), Protocol: f.protocol(path+".protocol", string(value(p.Protocol)))}
		if sp.Name != "" {
			f.label(path+".name", sp.Name)
		}
		sp.Port = f.port(path+".port", *p.Port)
		if k := (key{sp.Name, sp.Protocol}); seen[k] {
			f.bad(path+".name", "%s %s is there twice", printable(sp.Name), sp.Protocol)
		} else {
			seen[k] = true
		}
		read = append(read, sp)
	}
	return read
}

// endpoint reads one endpoint, and tells whether it can be used.
func (f *findings) endpoint(e *discoveryv1.Endpoint, i int, family model.Family) (model.Endpoint, bool) {
	path := at("endpoints", i)
	if len(e.Addresses) == 0 {
		f.note(path+".addresses", "is empty; the endpoint is left out")
		return model.Endpoint{}, false
	}
	a, err := f.addr(path+".addresses[0]", e.Addresses[0])
	switch {
	case err != nil:
		f.note(path+".addresses[0]", "%v; the endpoint is left out", err)
		return model.Endpoint{}, false
	case model.FamilyOf(a) != family:
		f.note(path+".addresses[0]", "%s is not an %s address; the endpoint is left out", a, family)
		return model.Endpoint{}, false
	}
	read := model.Endpoint{Addr: a, Ready: true, Terminating: value(e.Conditions.Terminating), NodeName: value(e.NodeName)}
	if e.Conditions.Ready != nil {
		read.Ready = *e.Conditions.Ready
	}
	if h := e.Hints; h != nil {
		for _, n := range h.ForNodes {
			read.NodeHints = append(read.NodeHints, n.Name)
		}
		for _, z := range h.ForZones {
			read.ZoneHints = append(read.ZoneHints, z.Name)
		}
	}
	read.Serving = true
	if e.Conditions.Serving != nil {
		read.Serving = *e.Conditions.Serving
	}
	return read, true
}

// ConvertNode turns a Node into the model's form. An address that can't be used is left out and noted.
func ConvertNode(o *corev1.Node) (n *model.Node, notes []string, err error) {
	f := &findings{object: object("Node", "", o.Name)}
	f.subdomain("metadata.name", o.Name)
	cidrs, field := o.Spec.PodCIDRs, "spec.podCIDRs"
	if len(cidrs) == 0 && o.Spec.PodCIDR != "" {
		cidrs, field = []string{o.Spec.PodCIDR}, "spec.podCIDR"
	}
	n = &model.Node{
		Name:     o.Name,
		Zone:     o.Labels[corev1.LabelTopologyZone],
		PodCIDRs: f.prefixes(field, cidrs),
		Addrs:    f.nodeAddrs(o.Status.Addresses),
	}
	if err := f.err(); err != nil {
		return nil, f.notes, err
	}
	return n, f.notes, nil
}

// nodeAddrs reads a node's addresses, internal ones first, each once.
func (f *findings) nodeAddrs(given []corev1.NodeAddress) []netip.Addr {
	var read []netip.Addr
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for i, g := range given {
			if g.Type != kind {
				continue
			}
			field := at("status.addresses", i) + ".address"
			a, err := f.addr(field, g.Address)
			switch {
			case err != nil:
				f.note(field, "%v; it is left out", err)
			case a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast(), a == broadcast:
				f.note(field, "%s can't be a node's: it is unspecified, loopback, link-local, multicast or broadcast; it is left out", a)
			case !slices.Contains(read, a):
				read = append(read, a)
			}
		}
	}
	return read
}

// ConvertServiceCIDR returns the ranges of a ServiceCIDR.
func ConvertServiceCIDR(o *networkingv1.ServiceCIDR) ([]netip.Prefix, error) {
	f := &findings{object: object("ServiceCIDR", "", o.Name)}
	f.subdomain("metadata.name", o.Name)
	if len(o.Spec.CIDRs) == 0 {
		f.bad("spec.cidrs", "is empty")
	}
	prefixes := f.prefixes("spec.cidrs", o.Spec.CIDRs)
	if err := f.err(); err != nil {
		return nil, err
	}
	return prefixes, nil
}

func (f *findings) prefixes(field string, cidrs []string) []netip.Prefix {
	var read []netip.Prefix
	for i, s := range cidrs {
		if p, ok := f.prefix(at(field, i), s); ok {
			read = append(read, p)
		}
	}
	return read
}

// value returns what p points to, or nothing.
func value[T any](p *T) T {
	if p == nil {
		var nothing T
		return nothing
	}
	return *p
}
