package hostile

import (
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// generator makes Services and EndpointSlices: sound ones, and such that each has something hostile in it.
// The same seed gives the same objects.
type generator struct {
	random *rand.Rand
	n      int
	// services are the names of the Services made so far, for slices to refer to.
	services []string
	// few keeps lists short, where the kernel takes long.
	few bool
}

func newGenerator(seed uint64) *generator {
	return &generator{random: rand.New(rand.NewPCG(seed, seed))}
}

// hostileNamespace holds the generated objects: apart from healthy ones, with which they may dispute
// addresses but not names.
const hostileNamespace = "hostile"

// created is when the generated Services say they were made: later than the healthy ones, so that
// they lose every dispute.
var created = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// service returns a sound Service, hostile with a chance of three in four.
func (g *generator) service() *corev1.Service {
	r := g.random
	g.n++
	o := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         hostileNamespace,
			Name:              fmt.Sprintf("service-%d", g.n),
			CreationTimestamp: metav1.NewTime(created.Add(time.Duration(r.IntN(100)) * time.Second)),
		},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP},
	}
	o.Spec.ClusterIPs = g.clusterIPs()
	o.Spec.ClusterIP = o.Spec.ClusterIPs[0]
	for i := range 1 + r.IntN(4) {
		o.Spec.Ports = append(o.Spec.Ports, g.servicePort(i))
	}
	if r.IntN(4) > 0 {
		for range 1 + r.IntN(3) {
			pick(r, serviceFaults)(g, o)
		}
	}
	g.services = append(g.services, o.Name)
	return o
}

// clusterIPs returns addresses of ranges small enough that Services dispute some.
func (g *generator) clusterIPs() []string {
	v4 := fmt.Sprintf("10.96.%d.%d", 1+g.random.IntN(20), g.random.IntN(256))
	v6 := fmt.Sprintf("fd00:10:96::%x", 0x100+g.random.IntN(5000))
	switch g.random.IntN(3) {
	case 0:
		return []string{v4}
	case 1:
		return []string{v6}
	}
	return []string{v4, v6}
}

func (g *generator) servicePort(i int) corev1.ServicePort {
	return corev1.ServicePort{
		Name:       portName(i),
		Protocol:   pick(g.random, []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}),
		Port:       int32(1 + (g.random.IntN(16000)*4+i)%65535),
		TargetPort: intstr.FromInt32(8080),
	}
}

func portName(i int) string { return fmt.Sprintf("port-%d", i) }

// serviceFaults each make something about a Service hostile.
var serviceFaults = []func(*generator, *corev1.Service){
	func(g *generator, o *corev1.Service) { o.Name = word(g.random) },
	func(g *generator, o *corev1.Service) { o.Namespace = word(g.random) },
	func(g *generator, o *corev1.Service) { o.Spec.Ports = nil },
	func(g *generator, o *corev1.Service) { o.Spec.ClusterIP, o.Spec.ClusterIPs = "", nil },
	func(g *generator, o *corev1.Service) { o.Spec.ClusterIP = pick(g.random, addresses) },
	func(g *generator, o *corev1.Service) {
		o.Spec.ClusterIPs = nil
		o.Spec.ClusterIP = pick(g.random, addresses)
	},
	func(g *generator, o *corev1.Service) {
		o.Spec.ClusterIPs = []string{pick(g.random, addresses)}
		o.Spec.ClusterIP = o.Spec.ClusterIPs[0]
	},
	func(g *generator, o *corev1.Service) {
		o.Spec.ClusterIPs = append(o.Spec.ClusterIPs, pick(g.random, addresses))
	},
	func(g *generator, o *corev1.Service) {
		o.Spec.ClusterIPs = append(o.Spec.ClusterIPs, o.Spec.ClusterIPs...)
	},
	func(g *generator, o *corev1.Service) {
		o.Spec.IPFamilies = []corev1.IPFamily{"IPv6", "IPv4", "IPv5", ""}
	},
	func(g *generator, o *corev1.Service) { g.port(o).Name = word(g.random) },
	func(g *generator, o *corev1.Service) { g.port(o).Port = pick(g.random, ports) },
	func(g *generator, o *corev1.Service) { g.port(o).Protocol = corev1.Protocol(pick(g.random, protocols)) },
	func(g *generator, o *corev1.Service) { g.port(o).TargetPort = intstr.FromString(word(g.random)) },
	func(g *generator, o *corev1.Service) { g.port(o).TargetPort = intstr.IntOrString{Type: 7, IntVal: -1} },
	func(g *generator, o *corev1.Service) { g.port(o).NodePort = pick(g.random, ports) },
	func(g *generator, o *corev1.Service) { o.Spec.Ports = append(o.Spec.Ports, o.Spec.Ports...) },
	func(g *generator, o *corev1.Service) { g.port(o).Name = "" },
	func(g *generator, o *corev1.Service) { o.Spec.Type = corev1.ServiceType(word(g.random)) },
	func(g *generator, o *corev1.Service) {
		o.Spec.Type = corev1.ServiceTypeExternalName
		o.Spec.ExternalName = word(g.random)
	},
	func(g *generator, o *corev1.Service) {
		o.Spec.ExternalIPs = []string{pick(g.random, addresses), healthyClusterIP(0)}
	},
	func(g *generator, o *corev1.Service) { o.Spec.SessionAffinity = corev1.ServiceAffinity(word(g.random)) },
	func(g *generator, o *corev1.Service) { o.Spec.LoadBalancerSourceRanges = []string{word(g.random)} },
	func(g *generator, o *corev1.Service) { g.balancer(o) },
	func(g *generator, o *corev1.Service) {
		g.balancer(o)
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: pick(g.random, addresses)})
	},
	func(g *generator, o *corev1.Service) {
		g.balancer(o)
		o.Spec.LoadBalancerSourceRanges = append(o.Spec.LoadBalancerSourceRanges, pick(g.random, addresses)+pick(g.random, []string{"/0", "/8", "/32", "/128", "/129", "/ 8"}))
	},
	func(g *generator, o *corev1.Service) {
		g.balancer(o)
		o.Spec.HealthCheckNodePort = pick(g.random, ports)
	},
	func(g *generator, o *corev1.Service) {
		g.balancer(o)
		seconds := pick(g.random, ports)
		o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		o.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	},
	func(g *generator, o *corev1.Service) { o.Labels = map[string]string{word(g.random): word(g.random)} },
	func(g *generator, o *corev1.Service) {
		o.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": word(g.random)}
	},
	func(g *generator, o *corev1.Service) {
		o.CreationTimestamp = metav1.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	},
	// Claims what a healthy Service has; the older wins.
	func(g *generator, o *corev1.Service) {
		o.Spec.ClusterIPs = []string{healthyClusterIP(g.random.IntN(healthyServices))}
		o.Spec.ClusterIP = o.Spec.ClusterIPs[0]
		o.Spec.Ports = []corev1.ServicePort{{Name: portName(0), Protocol: corev1.ProtocolTCP, Port: healthyPort}}
	},
	func(g *generator, o *corev1.Service) {
		for i := range g.many(500) {
			o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{Name: portName(100 + i), Protocol: corev1.ProtocolTCP, Port: int32(20000 + i)})
		}
	},
}

// balancer makes a sound load balancer's Service of a Service, whose external addresses and node ports other
// Services claim too: ClusterIPs of healthy ones among them.
func (g *generator) balancer(o *corev1.Service) {
	r := g.random
	o.Spec.Type = corev1.ServiceTypeLoadBalancer
	o.Spec.ExternalTrafficPolicy = pick(r, []corev1.ServiceExternalTrafficPolicy{"", "Local", "Cluster"})
	for i := range o.Spec.Ports {
		o.Spec.Ports[i].NodePort = int32(30000 + 8*r.IntN(20) + i%8)
	}
	for range r.IntN(3) {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: g.external()})
		o.Spec.ExternalIPs = append(o.Spec.ExternalIPs, g.external())
	}
	o.Spec.LoadBalancerSourceRanges = [][]string{
		nil, {"10.0.0.0/8", "10.96.0.0/16", "fd00::/8"}, {"0.0.0.0/0"}, {"198.51.100.1/32", "2001:db8::/32"},
	}[r.IntN(4)]
	if seconds := int32(1 + r.IntN(86400)); r.IntN(2) == 0 {
		o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		o.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func (g *generator) external() string {
	return pick(g.random, []string{
		fmt.Sprintf("192.0.2.%d", g.random.IntN(8)), fmt.Sprintf("2001:db8::%x", 1+g.random.IntN(8)), healthyClusterIP(g.random.IntN(healthyServices)),
	})
}

// port returns one of the Service's ports, or a new one if it has none.
func (g *generator) port(o *corev1.Service) *corev1.ServicePort {
	if len(o.Spec.Ports) == 0 {
		o.Spec.Ports = []corev1.ServicePort{g.servicePort(0)}
	}
	return &o.Spec.Ports[g.random.IntN(len(o.Spec.Ports))]
}

// many returns how long a long list is: seldom really long.
func (g *generator) many(most int) int {
	if g.few || g.random.IntN(10) > 0 {
		return g.random.IntN(5)
	}
	return most
}
