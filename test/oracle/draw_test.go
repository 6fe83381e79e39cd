package oracle

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/test/world"
)

// Everything is drawn from few values, so that all that can collide does: an address may be a ClusterIP of one
// Service, an external IP of the next, its load balancer's, the node's own and a client's; node ports have the
// numbers of Service ports; endpoints are clients.

var universes = map[model.Family]*universe{model.IPv4: newUniverse(model.IPv4), model.IPv6: newUniverse(model.IPv6)}

var serviceNames = []string{"a", "b", "c", "d"}

func one[T any](t *rapid.T, label string, from ...T) T { return rapid.SampledFrom(from).Draw(t, label) }

// some draws none, one or two.
func some[T any](t *rapid.T, label string, from ...T) []T {
	return rapid.SliceOfN(rapid.SampledFrom(from), 0, one(t, "most of "+label, 0, 2, 1, 2, 2, 2, 2)).Draw(t, label)
}

// chance is true once in n times, and shrinks to false.
func chance(t *rapid.T, label string, n int) bool {
	return rapid.IntRange(0, n-1).Draw(t, label) == n-1
}

func pointer[T any](v T) *T { return &v }

func drawSetup(t *rapid.T) setup {
	return setup{
		Detector:      one(t, "detector", "none", "pods", "pods", "node", "several", "interface", "wildcard"),
		NodePorts:     one(t, "node ports", "default", "all", "all", "primary", "several", "localhost"),
		MasqueradeAll: chance(t, "masquerade all", 4), Guard: rapid.Bool().Draw(t, "guard"), Loopback: rapid.Bool().Draw(t, "loopback"),
	}
}

// drawCluster draws some Services with their slices.
func drawCluster(t *rapid.T) *cluster {
	c := &cluster{setup: drawSetup(t), services: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}, node: drawNode(t)}
	c.cidrs = &networkingv1.ServiceCIDR{TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"}, ObjectMeta: metav1.ObjectMeta{Name: serviceCIDRName}}
	for _, f := range model.Families {
		c.cidrs.Spec.CIDRs = append(c.cidrs.Spec.CIDRs, universes[f].serviceCIDR.String())
	}
	for _, name := range serviceNames[:rapid.IntRange(1, len(serviceNames)).Draw(t, "Services")] {
		c.services[name] = drawService(t, name)
		c.drawSlices(t, name)
	}
	return c
}

// change changes some objects. It returns a new cluster that shares what did not change.
func (c *cluster) change(t *rapid.T) *cluster {
	n := *c
	n.services, n.slices = maps.Clone(c.services), maps.Clone(c.slices)
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		name := one(t, "Service", serviceNames...)
		switch one(t, "change", "slices", "slices", "slices", "Service", "Service", "delete Service", "delete slices") {
		case "slices":
			n.drawSlices(t, name)
		case "Service":
			n.services[name] = drawService(t, name)
		case "delete Service":
			delete(n.services, name)
		case "delete slices":
			maps.DeleteFunc(n.slices, func(_ string, s *discoveryv1.EndpointSlice) bool {
				return s.Labels[discoveryv1.LabelServiceName] == name
			})
		}
	}
	return &n
}

func drawNode(t *rapid.T) *corev1.Node {
	n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: world.NodeName}}
	if !chance(t, "no zone", 4) {
		n.Labels = map[string]string{corev1.LabelTopologyZone: "z1"}
	}
	for _, f := range model.Families {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, universes[f].ownPods.String())
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: universes[f].primary.String()})
	}
	return n
}

func drawService(t *rapid.T, name string) *corev1.Service {
	s := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: namespace, CreationTimestamp: metav1.NewTime(time.Unix(1_700_000_000+int64(rapid.IntRange(0, 2).Draw(t, "created")), 0).UTC())}}
	spec := &s.Spec
	spec.Type = one(t, "type", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeLoadBalancer)
	i := rapid.IntRange(0, len(universes[model.IPv4].clusterIPs)-1).Draw(t, "ClusterIP")
	for _, f := range one(t, "families", model.Families, []model.Family{model.IPv4}, []model.Family{model.IPv6}, []model.Family{model.IPv6, model.IPv4}) {
		spec.ClusterIPs = append(spec.ClusterIPs, universes[f].clusterIPs[i].String())
	}
	spec.ClusterIP = spec.ClusterIPs[0]
	if chance(t, "external IPs", 2) {
		spec.ExternalIPs = drawFrontends(t, "external IP")
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		drawLoadBalancer(t, s)
	}
	if chance(t, "internal Local", 3) {
		spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
	}
	if (spec.Type != corev1.ServiceTypeClusterIP || len(spec.ExternalIPs) > 0) && rapid.Bool().Draw(t, "external Local") {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if chance(t, "affinity", 3) {
		spec.SessionAffinity = corev1.ServiceAffinityClientIP
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: pointer(one(t, "time-out", int32(10800), 60))}}
	}
	drawPorts(t, spec)
	if spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		spec.HealthCheckNodePort = 32000
	}
	return s
}

// drawFrontends draws addresses of either family that a Service may have besides ClusterIPs: other Services'
// ClusterIPs and the node's own addresses are among them.
func drawFrontends(t *rapid.T, label string) []string {
	var out []string
	for _, f := range model.Families {
		u := universes[f]
		for _, a := range some(t, label, slices.Concat(u.floating, u.floating, u.floating, []netip.Addr{u.vip, u.vip, u.primary}, u.clusterIPs)...) {
			if !slices.Contains(out, a.String()) {
				out = append(out, a.String())
			}
		}
	}
	return out
}

func drawLoadBalancer(t *rapid.T, s *corev1.Service) {
	for _, a := range drawFrontends(t, "load balancer IP") {
		ingress := corev1.LoadBalancerIngress{IP: a}
		if chance(t, "ipMode", 3) {
			ingress.IPMode = pointer(one(t, "mode", corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy))
		}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, ingress)
	}
	if one(t, "source ranges", "none", "some", "some") == "none" {
		return
	}
	for _, f := range model.Families {
		u := universes[f]
		s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, one(t, "first range", u.hosts[0].prefix(), u.ownPods, u.outsideNets).String())
		for _, r := range some(t, "source range", u.allPods, u.pods[0].prefix(), u.hosts[0].prefix(), host(u.primary).prefix(), u.outsideNets,
			u.ownPods, u.pods[1].prefix(), u.loopbacks, netip.PrefixFrom(u.primary, 0)) {
			s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, r.Masked().String())
		}
	}
}

// portNames are what ports of Services and slices are called, by protocol.
var portNames = map[string]corev1.Protocol{"tcp": corev1.ProtocolTCP, "tcp-2": corev1.ProtocolTCP, "udp": corev1.ProtocolUDP, "sctp": corev1.ProtocolSCTP}

func drawPorts(t *rapid.T, spec *corev1.ServiceSpec) {
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(slices.Sorted(maps.Keys(portNames))), 1, 3, rapid.ID[string]).Draw(t, "ports") {
		p := corev1.ServicePort{Name: name, Port: int32(one(t, "port", servicePorts...)), Protocol: portNames[name]}
		if slices.ContainsFunc(spec.Ports, func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }) {
			continue
		}
		if spec.Type != corev1.ServiceTypeClusterIP {
			p.NodePort = drawNodePort(t, spec, p.Protocol)
		}
		spec.Ports = append(spec.Ports, p)
	}
}

// drawNodePort draws a node port that no other port of the Service has, since that would be an error of its own.
func drawNodePort(t *rapid.T, spec *corev1.ServiceSpec, protocol corev1.Protocol) int32 {
	free := slices.DeleteFunc(slices.Clone(nodePorts[1:]), func(n uint16) bool {
		return slices.ContainsFunc(spec.Ports, func(o corev1.ServicePort) bool { return o.NodePort == int32(n) && o.Protocol == protocol })
	})
	return int32(one(t, "node port", free...))
}

// drawSlices replaces the slices of a Service.
func (c *cluster) drawSlices(t *rapid.T, service string) {
	for i := range 2 {
		for _, f := range model.Families {
			name := fmt.Sprintf("%s-%d-%d", service, f, i)
			delete(c.slices, name)
			if rapid.IntRange(0, 1).Draw(t, "slice") == 1 || i == 0 {
				c.slices[name] = drawSlice(t, name, service, f)
			}
		}
	}
}

func drawSlice(t *rapid.T, name, service string, f model.Family) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressType(f.String()),
	}
	target := one(t, "target port", targetPorts...)
	for _, port := range slices.Sorted(maps.Keys(portNames)) {
		if !chance(t, "no such port", 10) {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: pointer(port), Port: pointer(int32(target)), Protocol: pointer(portNames[port])})
		}
	}
	hinted := one(t, "hints", "none", "none", "zones", "nodes", "both", "mixed")
	for range one(t, "endpoints", 0, 1, 2, 3, 2, 3, 4, 3, 4) {
		s.Endpoints = append(s.Endpoints, drawEndpoint(t, universes[f], hinted))
	}
	return s
}

func drawEndpoint(t *rapid.T, u *universe, hinted string) discoveryv1.Endpoint {
	where := one(t, "where", "here", "here", "there", "outside", "node")
	all := map[string][]host{"here": u.pods, "there": u.remotePods, "outside": u.hosts[1:], "node": {host(u.primary)}}[where]
	e := discoveryv1.Endpoint{Addresses: []string{one(t, "endpoint", all...).addr().String()}}
	switch where {
	case "here", "node":
		e.NodeName = pointer(world.NodeName)
	case "there":
		e.NodeName = pointer(world.OtherNodeName)
	}
	switch one(t, "condition", "unknown", "ready", "ready", "terminating", "not ready", "serving, but not ready", "ready and terminating") {
	case "ready":
		e.Conditions = discoveryv1.EndpointConditions{Ready: pointer(true), Serving: pointer(true), Terminating: pointer(false)}
	case "terminating":
		e.Conditions = discoveryv1.EndpointConditions{Ready: pointer(false), Serving: pointer(true), Terminating: pointer(true)}
	case "not ready":
		e.Conditions = discoveryv1.EndpointConditions{Ready: pointer(false), Serving: pointer(false)}
	case "serving, but not ready":
		e.Conditions = discoveryv1.EndpointConditions{Ready: pointer(false), Serving: pointer(true)}
	case "ready and terminating":
		e.Conditions = discoveryv1.EndpointConditions{Ready: pointer(true), Serving: pointer(true), Terminating: pointer(true)}
	}
	if hinted == "none" || hinted == "mixed" && rapid.Bool().Draw(t, "no hint") {
		return e
	}
	e.Hints = &discoveryv1.EndpointHints{}
	if hinted != "nodes" {
		e.Hints.ForZones = []discoveryv1.ForZone{{Name: one(t, "zone", "z1", "z2")}}
	}
	if hinted != "zones" {
		e.Hints.ForNodes = []discoveryv1.ForNode{{Name: one(t, "node", world.NodeName, world.OtherNodeName)}}
	}
	return e
}
