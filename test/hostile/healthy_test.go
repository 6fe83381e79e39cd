package hostile

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"svcproxy/model"
	"svcproxy/test/world"
)

// The healthy Services: healthyServices of them, of both families. They answer at healthyPort, each with all
// servers as its endpoints. They win every dispute: without an age they are the oldest, and of those the first
// by the name of their namespace.
const (
	healthyNamespace = "a-healthy"
	healthyServices  = 4
	healthyPort      = 80
	serverPort       = 8080
	// servers are the first pods of the world.
	servers = 2
)

func healthyName(i int) string { return fmt.Sprintf("web-%d", i) }

func healthyClusterIP(i int) string { return fmt.Sprintf("10.96.0.%d", 100+i) }

func healthyClusterIPv6(i int) string { return fmt.Sprintf("fd00:10:96::%x", 0x10+i) }

// healthy returns the healthy Services and their slices.
func healthy() []any {
	var all []any
	for i := range healthyServices {
		all = append(all, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: healthyNamespace, Name: healthyName(i)},
			Spec: corev1.ServiceSpec{
				ClusterIP:  healthyClusterIP(i),
				ClusterIPs: []string{healthyClusterIP(i), healthyClusterIPv6(i)},
				Ports:      []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: healthyPort}},
			},
		})
		for t, f := range map[discoveryv1.AddressType]model.Family{discoveryv1.AddressTypeIPv4: model.IPv4, discoveryv1.AddressTypeIPv6: model.IPv6} {
			slice := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Namespace: healthyNamespace, Name: fmt.Sprintf("%s-%s", healthyName(i), strings.ToLower(string(t))),
					Labels: map[string]string{discoveryv1.LabelServiceName: healthyName(i)}},
				AddressType: t,
				Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(serverPort))}},
			}
			for server := range servers {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{world.PodAddr(f, server).String()}})
			}
			all = append(all, slice)
		}
	}
	return all
}
