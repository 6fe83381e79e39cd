package controlplane

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"svcproxy/test/nstest"
)

const namespace = "kube-system"

// kubeDNSPorts are those of the Service that every cluster has.
var kubeDNSPorts = []struct {
	name     string
	protocol corev1.Protocol
	port     int32
}{
	{"dns", corev1.ProtocolUDP, 53},
	{"dns-tcp", corev1.ProtocolTCP, 53},
	{"metrics", corev1.ProtocolTCP, 9153},
}

// createNode creates the worker's object.
func (c *cluster) createNode(t *testing.T) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.worker.Name}}
	node, err := c.Client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: c.worker.Addrs[0].String()}}
	if _, err = c.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) createKubeDNS(t *testing.T) {
	t.Helper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Labels: map[string]string{"k8s-app": "kube-dns"}},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.10"},
	}
	for _, p := range kubeDNSPorts {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
			Name: p.name, Protocol: p.protocol, Port: p.port, TargetPort: intstr.FromInt32(p.port),
		})
	}
	// The namespace, and the right to allocate from the Service CIDR, follow readiness shortly.
	nstest.Eventually(t, 20*time.Second, func() error {
		_, err := c.Client.CoreV1().Services(namespace).Create(t.Context(), service, metav1.CreateOptions{})
		return err
	})
}

func (c *cluster) deleteKubeDNS(t *testing.T) {
	t.Helper()
	if err := c.Client.CoreV1().Services(namespace).Delete(t.Context(), "kube-dns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// slice is one of kube-dns with these pods, in the order ready, not ready.
func slice(name string, ready, unready []netip.Addr) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, p := range kubeDNSPorts {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new(p.name), Protocol: new(p.protocol), Port: new(p.port)})
	}
	for condition, pods := range map[bool][]netip.Addr{true: ready, false: unready} {
		for _, pod := range pods {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{pod.String()},
				Conditions: discoveryv1.EndpointConditions{Ready: new(condition)},
			})
		}
	}
	return s
}

func ready(name string, pods ...netip.Addr) *discoveryv1.EndpointSlice { return slice(name, pods, nil) }

func unready(name string, pods ...netip.Addr) *discoveryv1.EndpointSlice {
	return slice(name, nil, pods)
}

func (c *cluster) create(t *testing.T, s *discoveryv1.EndpointSlice) {
	t.Helper()
	_, err := c.Client.DiscoveryV1().EndpointSlices(namespace).Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) update(t *testing.T, s *discoveryv1.EndpointSlice) {
	t.Helper()
	_, err := c.Client.DiscoveryV1().EndpointSlices(namespace).Update(t.Context(), s, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) delete(t *testing.T, name string) {
	t.Helper()
	if err := c.Client.DiscoveryV1().EndpointSlices(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
