package demo

import (
	"fmt"
	"net/netip"
	"strings"

	"svcproxy/model"
)

// endpointSlices writes the EndpointSlices of one Service, one for each family in use, as the cluster's
// slice controller would.
func endpointSlices(service model.ServiceName, ports []slicePort, pods []podSpec) string {
	var out strings.Builder
	for _, family := range model.Families {
		var endpoints []string
		for _, p := range pods {
			for _, a := range p.addrs {
				if model.FamilyOf(a) == family {
					endpoints = append(endpoints, fmt.Sprintf("- {addresses: [%q], conditions: {ready: true}, nodeName: node}\n", a))
				}
			}
		}
		if len(endpoints) == 0 {
			continue
		}
		fmt.Fprintf(&out, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"+
			"metadata: {name: %s-%s, namespace: %s, labels: {kubernetes.io/service-name: %s}}\naddressType: %v\nports:\n",
			service.Name, strings.ToLower(family.String()), service.Namespace, service.Name, family)
		for _, p := range ports {
			fmt.Fprintf(&out, "- {name: %s, protocol: %v, port: %d}\n", p.name, p.protocol, p.port)
		}
		out.WriteString("endpoints:\n" + strings.Join(endpoints, ""))
	}
	return out.String()
}

type slicePort struct {
	name     string
	protocol model.Protocol
	port     uint16
}

// podSpec is a pod of the demo.
type podSpec struct {
	namespace, name string
	addrs           []netip.Addr
}

// String is the pod's full name.
func (p podSpec) String() string { return p.namespace + "/" + p.name }
