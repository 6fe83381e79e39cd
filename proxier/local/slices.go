package local

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"svcproxy/model"
)

// sliceManager is the label value of slices that Kubernetes' EndpointSlice controller makes, whose part this
// package plays.
const sliceManager = "endpointslice-controller.k8s.io"

// MaxEndpoints is how many endpoints a slice has at most: the EndpointSlice controller's default.
const MaxEndpoints = 100

// sliceBlock is the number of neighbouring addresses that share a slice where a Service has more than
// MaxEndpoints endpoints. As a pod keeps its address, it keeps its slice.
const sliceBlock = 64

// Slices returns the EndpointSlices of a Service, as Kubernetes' EndpointSlice controller makes them of the pods
// of its namespace that it selects: one or more for each family and each set of port numbers that a named
// target port leads to, and one without endpoints for a family that has none. A Service without a selector
// and one of type ExternalName have none. Endpoints of pods that don't say their node get this one.
//
// The result is a function of the arguments: the same endpoints are in slices of the same names, whatever there
// was before. It shares nothing with the pods and the Service.
func Slices(service *corev1.Service, pods []*corev1.Pod, node string) []*discoveryv1.EndpointSlice {
	if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	selects := selector(service.Spec.Selector)
	var taken []*corev1.Pod
	for _, pod := range pods {
		if pod.Namespace == service.Namespace && selects(pod.Labels) && !ended(pod) {
			taken = append(taken, pod)
		}
	}
	var all []*discoveryv1.EndpointSlice
	names := map[string]bool{}
	for _, family := range serviceFamilies(service) {
		all = append(all, familySlices(service, taken, node, family, names)...)
	}
	return all
}

// selector returns a test for labels that have all of these.
func selector(want map[string]string) func(map[string]string) bool {
	return func(labels map[string]string) bool {
		for k, v := range want {
			if got, has := labels[k]; !has || got != v {
				return false
			}
		}
		return true
	}
}

// ended tells whether nothing of a pod will run again.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// serviceFamilies are the families of a Service; by default that of its ClusterIP, or IPv4.
func serviceFamilies(s *corev1.Service) []model.Family {
	families, err := namedFamilies(s)
	if err != nil || len(families) == 0 {
		return []model.Family{model.IPv4}
	}
	return families
}

// group is the endpoints of a family that have the same ports.
type group struct {
	ports     []discoveryv1.EndpointPort
	key       string
	endpoints []endpoint
}

type endpoint struct {
	addr netip.Addr
	pod  string
	api  discoveryv1.Endpoint
}

func familySlices(service *corev1.Service, pods []*corev1.Pod, node string, family model.Family, names map[string]bool) []*discoveryv1.EndpointSlice {
	groups := map[string]*group{}
	for _, pod := range pods {
		addrs := podAddrs(pod, family)
		if len(addrs) == 0 {
			continue
		}
		ports := endpointPorts(service, pod)
		key := portsKey(ports)
		if groups[key] == nil {
			groups[key] = &group{ports: ports, key: key}
		}
		groups[key].endpoints = append(groups[key].endpoints, endpoint{addrs[0], pod.Name, apiEndpoint(service, pod, node, addrs)})
	}
	if len(groups) == 0 {
		groups[""] = &group{ports: []discoveryv1.EndpointPort{}}
	}
	var all []*discoveryv1.EndpointSlice
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		for _, part := range groups[key].parts() {
			s := newSlice(service, family, groups[key].ports, sliceName(service.Name, fmt.Sprint(family, key, part.key), names))
			for _, e := range part.endpoints {
				s.Endpoints = append(s.Endpoints, e.api)
			}
			all = append(all, s)
		}
	}
	return all
}

// parts divides a group so that no part is too large for a slice.
func (g *group) parts() []group {
	slices.SortFunc(g.endpoints, func(a, b endpoint) int {
		return cmp.Or(a.addr.Compare(b.addr), strings.Compare(a.pod, b.pod))
	})
	if len(g.endpoints) <= MaxEndpoints {
		return []group{{endpoints: g.endpoints}}
	}
	var parts []group
	for block := range chunkBlocks(g.endpoints) {
		for i, some := range slices.Collect(slices.Chunk(block, MaxEndpoints)) {
			parts = append(parts, group{key: fmt.Sprint(blockOf(some[0].addr), i), endpoints: some})
		}
	}
	return parts
}

// chunkBlocks gives runs of endpoints whose addresses are in one block.
func chunkBlocks(sorted []endpoint) func(func([]endpoint) bool) {
	return func(yield func([]endpoint) bool) {
		for len(sorted) > 0 {
			n := 1
			for n < len(sorted) && blockOf(sorted[n].addr) == blockOf(sorted[0].addr) {
				n++
			}
			if !yield(sorted[:n]) {
				return
			}
			sorted = sorted[n:]
		}
	}
}

// blockOf is the first address of the block that an address is in.
func blockOf(a netip.Addr) netip.Addr {
	raw := a.AsSlice()
	raw[len(raw)-1] &^= sliceBlock - 1
	first, _ := netip.AddrFromSlice(raw)
	return first
}

// podAddrs are a pod's addresses of a family.
func podAddrs(pod *corev1.Pod, family model.Family) []netip.Addr {
	given := pod.Status.PodIPs
	if len(given) == 0 && pod.Status.PodIP != "" {
		given = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	var addrs []netip.Addr
	for _, ip := range given {
		if a, err := netip.ParseAddr(ip.IP); err == nil && model.FamilyOf(a) == family {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func apiEndpoint(service *corev1.Service, pod *corev1.Pod, node string, addrs []netip.Addr) discoveryv1.Endpoint {
	serving, terminating := PodReady(pod), pod.DeletionTimestamp != nil
	ready := service.Spec.PublishNotReadyAddresses || serving && !terminating
	if pod.Spec.NodeName != "" {
		node = pod.Spec.NodeName
	}
	e := discoveryv1.Endpoint{
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	for _, a := range addrs {
		e.Addresses = append(e.Addresses, a.String())
	}
	if node != "" {
		e.NodeName = &node
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
		hostname := pod.Spec.Hostname
		e.Hostname = &hostname
	}
	return e
}

// PodReady tells whether a pod's condition Ready is true.
func PodReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// endpointPorts are the ports of a Service as they are in a pod; one whose target port has a name that the pod
// doesn't know is left out.
func endpointPorts(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	ports := []discoveryv1.EndpointPort{}
	for _, p := range service.Spec.Ports {
		number, found := targetPort(&p, pod)
		if !found {
			continue
		}
		name, protocol := p.Name, p.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		read := discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number}
		if p.AppProtocol != nil {
			app := *p.AppProtocol
			read.AppProtocol = &app
		}
		ports = append(ports, read)
	}
	return ports
}

// targetPort is the number that a Service's port has in a pod.
func targetPort(p *corev1.ServicePort, pod *corev1.Pod) (number int32, found bool) {
	protocol := cmp.Or(p.Protocol, corev1.ProtocolTCP)
	switch {
	case p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal != 0:
		return p.TargetPort.IntVal, true
	case p.TargetPort.Type == intstr.Int || p.TargetPort.StrVal == "":
		return p.Port, true
	}
	for _, c := range pod.Spec.Containers {
		for _, q := range c.Ports {
			if q.Name == p.TargetPort.StrVal && cmp.Or(q.Protocol, corev1.ProtocolTCP) == protocol {
				return q.ContainerPort, true
			}
		}
	}
	return 0, false
}

// portsKey is the same for the same ports, in whatever order.
func portsKey(ports []discoveryv1.EndpointPort) string {
	var keys []string
	for _, p := range ports {
		app := ""
		if p.AppProtocol != nil {
			app = *p.AppProtocol
		}
		keys = append(keys, strings.Join([]string{*p.Name, string(*p.Protocol), strconv.Itoa(int(*p.Port)), app}, "/"))
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}

// nameLetters are those of which the API server makes names: no vowels, and nothing that looks like another.
const nameLetters = "bcdfghjklmnpqrstvwxz2456789"

// sliceName is the name of a slice: the Service's, and as many characters as the API server would add to it.
func sliceName(service, content string, taken map[string]bool) string {
	for salt := 0; ; salt++ {
		sum := sha256.Sum256([]byte(strconv.Itoa(salt) + content))
		suffix := make([]byte, 5)
		for i := range suffix {
			suffix[i] = nameLetters[int(sum[i])%len(nameLetters)]
		}
		if name := service + "-" + string(suffix); !taken[name] {
			taken[name] = true
			return name
		}
	}
}

func newSlice(service *corev1.Service, family model.Family, ports []discoveryv1.EndpointPort, name string) *discoveryv1.EndpointSlice {
	labels := map[string]string{}
	maps.Copy(labels, service.Labels)
	delete(labels, corev1.IsHeadlessService)
	if !hasClusterIP(service) {
		labels[corev1.IsHeadlessService] = ""
	}
	labels[discoveryv1.LabelServiceName] = service.Name
	labels[discoveryv1.LabelManagedBy] = sliceManager
	yes := true
	return &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: service.Namespace,
			Name:      name,
			Labels:    labels,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Service", Name: service.Name, UID: service.UID, Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		AddressType: discoveryv1.AddressType(family.String()),
		Ports:       ports,
		Endpoints:   []discoveryv1.Endpoint{},
	}
}
