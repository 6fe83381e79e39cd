package hostile

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// slice returns a sound EndpointSlice of some Service, hostile with a chance of three in four.
func (g *generator) slice() *discoveryv1.EndpointSlice {
	r := g.random
	g.n++
	service := "service-0"
	if len(g.services) > 0 {
		service = pick(r, g.services)
	}
	o := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: hostileNamespace,
			Name:      fmt.Sprintf("slice-%d", g.n),
			Labels:    map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: pick(r, []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}),
	}
	for i := range 1 + r.IntN(4) {
		o.Ports = append(o.Ports, g.slicePort(i))
	}
	for range r.IntN(8) {
		o.Endpoints = append(o.Endpoints, g.endpoint(o.AddressType))
	}
	if r.IntN(4) > 0 {
		for range 1 + r.IntN(3) {
			pick(r, sliceFaults)(g, o)
		}
	}
	if r.IntN(20) == 0 {
		g.poison(o)
	}
	return o
}

// poison makes a slice one of a healthy Service, which would send its clients to nowhere if any of its
// endpoints were taken.
func (g *generator) poison(o *discoveryv1.EndpointSlice) {
	o.Namespace = healthyNamespace
	o.Labels = map[string]string{discoveryv1.LabelServiceName: healthyName(g.random.IntN(healthyServices))}
	o.AddressType = discoveryv1.AddressTypeIPv4
	o.Ports = []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(serverPort))}}
	o.Endpoints = nil
	for _, a := range []string{"127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "fd00:10:244::3", "::ffff:10.244.0.9", "", "x"} {
		o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
}

func (g *generator) slicePort(i int) discoveryv1.EndpointPort {
	protocol := pick(g.random, []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP})
	return discoveryv1.EndpointPort{Name: new(portName(i)), Protocol: &protocol, Port: new(int32(1 + g.random.IntN(65535)))}
}

// endpoint returns one of few addresses, so that many Services share them.
func (g *generator) endpoint(t discoveryv1.AddressType) discoveryv1.Endpoint {
	addr := fmt.Sprintf("10.244.%d.%d", 1+g.random.IntN(4), g.random.IntN(256))
	if t == discoveryv1.AddressTypeIPv6 {
		addr = fmt.Sprintf("fd00:10:244:1::%x", g.random.IntN(1000))
	}
	maybe := func() *bool { return pick(g.random, []*bool{nil, new(true), new(true), new(false)}) }
	return discoveryv1.Endpoint{
		Addresses:  []string{addr},
		Conditions: discoveryv1.EndpointConditions{Ready: maybe(), Serving: maybe(), Terminating: maybe()},
	}
}

// sliceFaults each make something about a slice hostile.
var sliceFaults = []func(*generator, *discoveryv1.EndpointSlice){
	func(g *generator, o *discoveryv1.EndpointSlice) { o.Name = word(g.random) },
	func(g *generator, o *discoveryv1.EndpointSlice) { o.Namespace = word(g.random) },
	func(g *generator, o *discoveryv1.EndpointSlice) { o.Labels = nil },
	func(g *generator, o *discoveryv1.EndpointSlice) {
		o.Labels = map[string]string{discoveryv1.LabelServiceName: word(g.random)}
	},
	func(g *generator, o *discoveryv1.EndpointSlice) {
		o.AddressType = discoveryv1.AddressType(word(g.random))
	},
	func(g *generator, o *discoveryv1.EndpointSlice) { o.AddressType = discoveryv1.AddressTypeFQDN },
	func(g *generator, o *discoveryv1.EndpointSlice) {
		o.AddressType = map[discoveryv1.AddressType]discoveryv1.AddressType{
			discoveryv1.AddressTypeIPv4: discoveryv1.AddressTypeIPv6,
			discoveryv1.AddressTypeIPv6: discoveryv1.AddressTypeIPv4,
		}[o.AddressType]
	},
	func(g *generator, o *discoveryv1.EndpointSlice) { o.Ports = nil },
	func(g *generator, o *discoveryv1.EndpointSlice) {
		o.Ports = append(o.Ports, discoveryv1.EndpointPort{})
	},
	func(g *generator, o *discoveryv1.EndpointSlice) { o.Ports = append(o.Ports, o.Ports...) },
	func(g *generator, o *discoveryv1.EndpointSlice) { g.portOf(o).Name = new(word(g.random)) },
	func(g *generator, o *discoveryv1.EndpointSlice) { g.portOf(o).Name = nil },
	func(g *generator, o *discoveryv1.EndpointSlice) { g.portOf(o).Port = new(pick(g.random, ports)) },
	func(g *generator, o *discoveryv1.EndpointSlice) { g.portOf(o).Port = nil },
	func(g *generator, o *discoveryv1.EndpointSlice) { g.portOf(o).Protocol = nil },
	func(g *generator, o *discoveryv1.EndpointSlice) {
		g.portOf(o).Protocol = new(corev1.Protocol(pick(g.random, protocols)))
	},
	func(g *generator, o *discoveryv1.EndpointSlice) { g.endpointOf(o).Addresses = nil },
	func(g *generator, o *discoveryv1.EndpointSlice) {
		g.endpointOf(o).Addresses = []string{pick(g.random, addresses)}
	},
	func(g *generator, o *discoveryv1.EndpointSlice) { g.endpointOf(o).Addresses = []string{word(g.random)} },
	func(g *generator, o *discoveryv1.EndpointSlice) { g.endpointOf(o).NodeName = new(word(g.random)) },
	func(g *generator, o *discoveryv1.EndpointSlice) { g.endpointOf(o).Hostname = new(word(g.random)) },
	func(g *generator, o *discoveryv1.EndpointSlice) {
		for _, a := range addresses {
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
		}
	},
	func(g *generator, o *discoveryv1.EndpointSlice) { o.Endpoints = append(o.Endpoints, o.Endpoints...) },
	func(g *generator, o *discoveryv1.EndpointSlice) {
		for i := range g.many(math.MaxUint16 / 20) {
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.245.%d.%d", i/256, i%256)}})
		}
	},
}

// portOf returns one of the slice's ports, or a new one if it has none.
func (g *generator) portOf(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointPort {
	if len(o.Ports) == 0 {
		o.Ports = []discoveryv1.EndpointPort{g.slicePort(0)}
	}
	return &o.Ports[g.random.IntN(len(o.Ports))]
}

// endpointOf returns one of the slice's endpoints, or a new one if it has none.
func (g *generator) endpointOf(o *discoveryv1.EndpointSlice) *discoveryv1.Endpoint {
	if len(o.Endpoints) == 0 {
		o.Endpoints = []discoveryv1.Endpoint{g.endpoint(o.AddressType)}
	}
	return &o.Endpoints[g.random.IntN(len(o.Endpoints))]
}
