package peer

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"svcproxy/model"
	"svcproxy/test/world"
)

// namespace is where all objects are that have one.
const namespace = "default"

// nodeZone is the zone of the node.
const nodeZone = "zone-a"

// servicePort is the port of all ClusterIPs, external IPs and load balancers, over each protocol.
const servicePort = 80

// A subject is a Service to send packets to. It has a number, which all of its addresses and its node port show.
type subject struct {
	name string
	// change makes the Service a special one. Before, it is of type LoadBalancer with a node port, an external
	// IP and, in its status, a load balancer's IP, of both families.
	change func(*corev1.Service)
	// endpoints are those of both families; see at.
	endpoints []endpoint
	// unlike names, over TCP, other endpoints than over the other protocols.
	unlike []endpoint
	// sctp adds the protocol SCTP, which kernels may lack sockets of: it takes longer to ask for.
	sctp bool
}

// endpoint is a pod as the slices of both families name it.
type endpoint struct {
	pod    pod
	change func(*discoveryv1.Endpoint)
}

// pod is one of the pods of a world.
type pod struct {
	remote bool
	number int
}

var (
	here, here2       = pod{false, 0}, pod{false, 1}
	elsewhere, afield = pod{true, 0}, pod{true, 1}
)

func (p pod) addr(f model.Family) netip.Addr {
	if p.remote {
		return world.RemoteAddr(f, p.number)
	}
	return world.PodAddr(f, p.number)
}

func (p pod) node() string {
	if p.remote {
		return world.OtherNodeName
	}
	return world.NodeName
}

// at are ready endpoints at these pods.
func at(pods ...pod) (all []endpoint) {
	for _, p := range pods {
		all = append(all, endpoint{pod: p})
	}
	return all
}

func as(p pod, change func(*discoveryv1.Endpoint)) endpoint { return endpoint{p, change} }

func terminating(e *discoveryv1.Endpoint) {
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
}

func gone(e *discoveryv1.Endpoint) {
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(false), Terminating: new(true)}
}

func inZone(name string) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) {
		e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: name}}}
	}
}

func forNode(name string) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) {
		e.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: name}}}
	}
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
}

// externalLocal comes with a health-check node port, whose number tells that of the Service too.
func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	s.Spec.HealthCheckNodePort = s.Spec.Ports[0].NodePort + healthCheckPort
}

// healthCheckPort is what a health-check node port is above the node port.
const healthCheckPort = 1000

func affinity(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }

func ranges(cidrs ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = cidrs }
}

func all(changes ...func(*corev1.Service)) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for _, c := range changes {
			c(s)
		}
	}
}

// ofNode leads a load balancer's IP to the node, as one that is an address of it.
func ofNode(s *corev1.Service) {
	s.Status.LoadBalancer.Ingress = nil
	for _, a := range nodeBalancer {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
	}
}

// nodeBalancer are further addresses of each node.
var nodeBalancer = []netip.Addr{netip.MustParseAddr("198.51.100.250"), netip.MustParseAddr("2001:db8:1b::250")}

// Ranges with one host outside and the node, with the host alone, with pods alone.
var (
	withNode = []string{"172.18.0.2/32", "172.18.0.101/32", "fc00:f853:ccd:e793::2/128", "fc00:f853:ccd:e793::101/128"}
	hostOnly = []string{"172.18.0.101/32", "fc00:f853:ccd:e793::101/128"}
	podsOnly = []string{"10.244.0.0/16", "fd00:10:244::/48"}
)

// subjects are Services of every class.
var subjects = []subject{
	{name: "plain", endpoints: at(here, elsewhere), sctp: true},
	{name: "internal-here", change: internalLocal, endpoints: at(here, elsewhere)},
	{name: "internal-elsewhere", change: internalLocal, endpoints: at(elsewhere)},
	{name: "internal-nobody", change: internalLocal},
	{name: "external-here", change: externalLocal, endpoints: at(here, elsewhere), sctp: true},
	{name: "external-elsewhere", change: externalLocal, endpoints: at(elsewhere), sctp: true},
	{name: "external-nobody", change: externalLocal},
	{name: "both-local", change: all(internalLocal, externalLocal), endpoints: at(here, here2, elsewhere)},
	{name: "both-elsewhere", change: all(internalLocal, externalLocal), endpoints: at(elsewhere)},
	{name: "nobody", sctp: true},
	{name: "ranges", change: ranges(withNode...), endpoints: at(here, elsewhere)},
	{name: "ranges-host", change: ranges(hostOnly...), endpoints: at(here, elsewhere)},
	{name: "ranges-pods", change: all(externalLocal, ranges(podsOnly...)), endpoints: at(here, elsewhere)},
	{name: "ranges-all", change: ranges("172.18.0.101/32", "0.0.0.0/0", "::/0"), endpoints: at(here)},
	{name: "ranges-nobody", change: ranges(hostOnly...)},
	{name: "ranges-elsewhere", change: all(externalLocal, ranges(hostOnly...)), endpoints: at(elsewhere)},
	{name: "ranges-own", change: all(ofNode, ranges(withNode...)), endpoints: at(here, elsewhere)},
	{name: "ranges-external", change: all(ranges(hostOnly...), func(s *corev1.Service) {
		for i, a := range s.Spec.ExternalIPs {
			s.Status.LoadBalancer.Ingress[i].IP = a
		}
	}), endpoints: at(here, elsewhere)},
	{name: "balancer-proxied", change: func(s *corev1.Service) {
		for i := range s.Status.LoadBalancer.Ingress {
			s.Status.LoadBalancer.Ingress[i].IPMode = new(corev1.LoadBalancerIPModeProxy)
		}
	}, endpoints: at(here)},
	{name: "balancer-named", change: func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
	}, endpoints: at(here)},
	{name: "affinity", change: affinity, endpoints: at(here, here2)},
	{name: "affinity-local", change: all(affinity, externalLocal), endpoints: at(here, here2)},
	{name: "terminating", endpoints: []endpoint{as(here, terminating), as(elsewhere, terminating)}},
	{name: "terminating-one", endpoints: []endpoint{as(here, terminating), as(elsewhere, nil)}},
	{name: "terminating-here", change: externalLocal, endpoints: []endpoint{as(here, terminating), as(elsewhere, nil)}},
	{name: "gone", endpoints: []endpoint{as(here, gone), as(elsewhere, gone)}},
	{name: "gone-here", change: externalLocal, endpoints: []endpoint{as(here, gone), as(elsewhere, nil)}},
	{name: "zone", endpoints: []endpoint{as(here, inZone("zone-b")), as(elsewhere, inZone(nodeZone))}},
	{name: "zone-partly", endpoints: []endpoint{as(here, nil), as(elsewhere, inZone(nodeZone))}},
	{name: "zone-other", endpoints: []endpoint{as(here, inZone("zone-b")), as(elsewhere, inZone("zone-c"))}},
	{name: "zone-terminating", endpoints: []endpoint{as(here, terminating), as(elsewhere, inZone(nodeZone)), as(afield, inZone("zone-b"))}},
	{name: "node", endpoints: []endpoint{as(here, forNode(world.NodeName)), as(elsewhere, forNode(world.OtherNodeName))}},
	{name: "zone-local", change: externalLocal, endpoints: []endpoint{as(here, inZone("zone-b")), as(elsewhere, inZone(nodeZone))}},
	{name: "protocols", endpoints: at(here), unlike: at(elsewhere), sctp: true},
	{name: "one-family", change: func(s *corev1.Service) {
		s.Spec.ClusterIPs, s.Spec.IPFamilies = s.Spec.ClusterIPs[:1], s.Spec.IPFamilies[:1]
		s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
	}, endpoints: at(here)},
	{name: "cluster-ip", change: func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalIPs, s.Status = corev1.ServiceTypeClusterIP, nil, corev1.ServiceStatus{}
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}, endpoints: at(here, elsewhere)},
	{name: "excluded", change: func(s *corev1.Service) {
		s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "another"}
	}, endpoints: at(here)},
	{name: "node-external", change: func(s *corev1.Service) {
		s.Spec.ExternalIPs = []string{world.NodeAddr(model.IPv4).String(), world.NodeAddr(model.IPv6).String()}
	}, endpoints: at(here, elsewhere)},
}

// Addresses of the subject with a number.
func clusterIP(f model.Family, n int) netip.Addr {
	return numbered(f, "10.96.1.%d", "fd00:10:96::%d", n)
}
func externalIP(f model.Family, n int) netip.Addr {
	return numbered(f, "203.0.113.%d", "2001:db8:e::%d", n)
}
func balancerIP(f model.Family, n int) netip.Addr {
	return numbered(f, "198.51.100.%d", "2001:db8:1b::%d", n)
}
func nodePort(n int) uint16 { return uint16(30000 + n) }

func numbered(f model.Family, v4, v6 string, n int) netip.Addr {
	if f == model.IPv4 {
		return netip.MustParseAddr(fmt.Sprintf(v4, n))
	}
	return netip.MustParseAddr(fmt.Sprintf(v6, n))
}

// protocols of a subject with the ports that the pods serve.
func (s *subject) protocols() []model.Protocol {
	if s.sctp {
		return []model.Protocol{model.TCP, model.UDP, model.SCTP}
	}
	return []model.Protocol{model.TCP, model.UDP}
}

// service is the Service as it should be created, and its status.
func (s *subject) service(n int) *corev1.Service {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: s.name}, Spec: corev1.ServiceSpec{
		Type:           corev1.ServiceTypeLoadBalancer,
		IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack),
	}}
	for _, f := range model.Families {
		service.Spec.IPFamilies = append(service.Spec.IPFamilies, corev1.IPFamily(f.String()))
		service.Spec.ClusterIPs = append(service.Spec.ClusterIPs, clusterIP(f, n).String())
		service.Spec.ExternalIPs = append(service.Spec.ExternalIPs, externalIP(f, n).String())
		service.Status.LoadBalancer.Ingress = append(service.Status.LoadBalancer.Ingress,
			corev1.LoadBalancerIngress{IP: balancerIP(f, n).String()})
	}
	for _, p := range s.protocols() {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
			Name: portName(p), Protocol: corev1.Protocol(p.String()), Port: servicePort,
			TargetPort: intstr.FromInt32(int32(world.DefaultPorts[p][0])), NodePort: int32(nodePort(n)),
		})
	}
	if s.change != nil {
		s.change(service)
	}
	service.Spec.ClusterIP = service.Spec.ClusterIPs[0]
	return service
}

// sticky tells whether the Service has session affinity.
func (s *subject) sticky() bool { return strings.HasPrefix(s.name, "affinity") }

func portName(p model.Protocol) string {
	return map[model.Protocol]string{model.TCP: "tcp", model.UDP: "udp", model.SCTP: "sctp"}[p]
}

// slices are the Service's EndpointSlices: one for each family, or one for each protocol too.
func (s *subject) slices() (all []*discoveryv1.EndpointSlice) {
	for _, f := range model.Families {
		if s.unlike == nil {
			all = append(all, s.slice(f, "", s.protocols(), s.endpoints))
			continue
		}
		for _, p := range s.protocols() {
			endpoints := s.endpoints
			if p == model.TCP {
				endpoints = s.unlike
			}
			all = append(all, s.slice(f, "-"+portName(p), []model.Protocol{p}, endpoints))
		}
	}
	return all
}

func (s *subject) slice(f model.Family, suffix string, protocols []model.Protocol, endpoints []endpoint) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:   s.name + map[model.Family]string{model.IPv4: "-v4", model.IPv6: "-v6"}[f] + suffix,
			Labels: map[string]string{discoveryv1.LabelServiceName: s.name},
		},
		AddressType: discoveryv1.AddressType(f.String()),
	}
	for _, p := range protocols {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{
			Name: new(portName(p)), Protocol: new(corev1.Protocol(p.String())), Port: new(int32(world.DefaultPorts[p][0])),
		})
	}
	for _, e := range endpoints {
		out := discoveryv1.Endpoint{Addresses: []string{e.pod.addr(f).String()}, NodeName: new(e.pod.node())}
		if e.change != nil {
			e.change(&out)
		}
		slice.Endpoints = append(slice.Endpoints, out)
	}
	return slice
}

// nodeObject is the node's object.
func nodeObject() *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: world.NodeName, Labels: map[string]string{corev1.LabelTopologyZone: nodeZone},
	}}
	for _, f := range model.Families {
		node.Status.Addresses = append(node.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: world.NodeAddr(f).String()})
	}
	return node
}
