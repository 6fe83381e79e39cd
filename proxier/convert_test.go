package proxier

import (
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"svcproxy/model"
)

func parse[T any](t testing.TB, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

const goodSpec = `{metadata: {namespace: default, name: web}, spec: {clusterIP: 10.96.0.5, ports: [{port: 80}]}}`

func TestConvertServiceReadsWhatTheDataPlaneNeeds(t *testing.T) {
	s, notes, err := ConvertService(parse[corev1.Service](t, `
metadata: {namespace: kube-system, name: kube-dns}
spec:
  clusterIPs: [10.96.0.10, "fd00::a"]
  ipFamilies: [IPv4, IPv6]
  ports:
  - {name: dns, protocol: UDP, port: 53, targetPort: dns}
  - {name: dns-tcp, protocol: TCP, port: 53, targetPort: 5353}
  - {name: sctp, protocol: SCTP, port: 65535}`))
	if err != nil || len(notes) > 0 {
		t.Fatalf("%v, %v", err, notes)
	}
	want := &model.Service{
		Name:       model.ServiceName{Namespace: "kube-system", Name: "kube-dns"},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")},
		Ports: []model.ServicePort{
			{Name: "dns", Protocol: model.UDP, Port: 53}, {Name: "dns-tcp", Protocol: model.TCP, Port: 53}, {Name: "sctp", Protocol: model.SCTP, Port: 65535},
		},
	}
	if !s.Equal(want) {
		t.Errorf("got %+v", s)
	}
}

func TestServicesOfOthersAreNotServed(t *testing.T) {
	for name, text := range map[string]string{
		"headless":      `{metadata: {name: a}, spec: {clusterIP: None}}`,
		"ExternalName":  `{metadata: {name: a}, spec: {type: ExternalName, externalName: example.com}}`,
		"other proxy":   `{metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: x}}, spec: {clusterIP: 10.0.0.1}}`,
		"headless mark": `{metadata: {name: a, labels: {service.kubernetes.io/headless: ""}}, spec: {clusterIP: 10.0.0.1}}`,
	} {
		s, notes, err := ConvertService(parse[corev1.Service](t, text))
		if s != nil || err != nil || len(notes) != 1 {
			t.Errorf("%s: got %+v, %v, %v", name, s, notes, err)
		}
	}
}

func TestErrorsNameObjectAndField(t *testing.T) {
	spec := func(s string) string { return `{metadata: {namespace: default, name: web}, spec: ` + s + `}` }
	for text, want := range map[string]string{
		spec(`{ports: [{port: 80}]}`):                                                                             `Service default/web: spec.clusterIP: is missing`,
		spec(`{clusterIP: 10.0.0.1}`):                                                                             `Service default/web: spec.ports: is empty`,
		spec(`{clusterIP: 10.0.0, ports: [{port: 80}]}`):                                                          `Service default/web: spec.clusterIP: 10.0.0 is not an IP address`,
		spec(`{clusterIPs: ["::ffff:10.0.0.1"], ports: [{port: 80}]}`):                                            `spec.clusterIPs[0]: ::ffff:10.0.0.1 is an IPv4-mapped IPv6 address: write 10.0.0.1`,
		spec(`{clusterIPs: [10.0.0.1, 10.0.0.2], ports: [{port: 80}]}`):                                           `spec.clusterIPs[1]: 10.0.0.2 is the second of its family`,
		spec(`{clusterIP: "fe80::1%eth0", ports: [{port: 80}]}`):                                                  `has a zone`,
		spec(`{clusterIP: 127.0.0.1, ports: [{port: 80}]}`):                                                       `spec.clusterIP: 127.0.0.1 can't be a ClusterIP`,
		spec(`{clusterIP: 10.0.0.1, ipFamilies: [IPv6], ports: [{port: 80}]}`):                                    `spec.ipFamilies[0]: "IPv6" is not the family of 10.0.0.1`,
		spec(`{clusterIP: 10.0.0.1, ports: [{name: a, port: 80}, {name: b, port: 70000}]}`):                       `spec.ports[1].port: 70000 is not a port: want 1 to 65535`,
		spec(`{clusterIP: 10.0.0.1, ports: [{port: 80, protocol: ICMP}]}`):                                        `spec.ports[0].protocol: unknown protocol "ICMP"`,
		spec(`{clusterIP: 10.0.0.1, ports: [{name: a, port: 80}, {name: a, port: 81}]}`):                          `spec.ports[1].name: a is there twice`,
		spec(`{clusterIP: 10.0.0.1, ports: [{name: a, port: 80}, {name: b, port: 80}]}`):                          `spec.ports[1].port: 80 TCP is there twice`,
		spec(`{clusterIP: 10.0.0.1, ports: [{name: a, port: 80}, {port: 81}]}`):                                   `spec.ports[1].name: is missing`,
		spec(`{clusterIP: 10.0.0.1, ports: [{port: 80, targetPort: 99999}]}`):                                     `spec.ports[0].targetPort: 99999 is not a port`,
		spec(`{clusterIP: 10.0.0.1, ports: [{name: "a\"; flush", port: 80}]}`):                                    `spec.ports[0].name: "a\"; flush" is not a DNS label`,
		`{metadata: {namespace: default, name: "-j ACCEPT\n"}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}`: `Service default/"-j ACCEPT\n": metadata.name:`,
	} {
		s, _, err := ConvertService(parse[corev1.Service](t, text))
		if s != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestLeadingZerosAreReadAsDecimalAndNoted(t *testing.T) {
	s, notes, err := ConvertService(parse[corev1.Service](t, strings.Replace(goodSpec, "10.96.0.5", "10.096.0.010", 1)))
	if err != nil || len(notes) != 1 || s.ClusterIPs[0] != netip.MustParseAddr("10.96.0.10") {
		t.Errorf("got %+v, %q, %v", s, notes, err)
	}
}

const sliceText = `
metadata: {namespace: default, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: http, port: 8080}
- {name: all}
- {port: 9090, protocol: UDP}
endpoints:
- {addresses: [10.244.0.1, 10.244.9.9]}
- {addresses: [10.244.0.2], conditions: {ready: false, terminating: true}, nodeName: n1}
- {addresses: [10.244.0.3], conditions: {ready: true, serving: false}}
- {addresses: [nonsense]}
- {addresses: ["fd00::1"]}
- {addresses: []}`

func TestConvertSliceLeavesOutOnlyWhatIsBad(t *testing.T) {
	s, notes, err := ConvertSlice(parse[discoveryv1.EndpointSlice](t, sliceText))
	if err != nil {
		t.Fatal(err)
	}
	want := &model.Slice{
		Name: model.SliceName{Namespace: "default", Name: "web-1"}, Service: named("web"), Family: model.IPv4,
		Ports: []model.SlicePort{{Name: "http", Protocol: model.TCP, Port: 8080}, {Protocol: model.UDP, Port: 9090}},
		Endpoints: []model.Endpoint{
			{Addr: netip.MustParseAddr("10.244.0.1"), Ready: true, Serving: true},
			{Addr: netip.MustParseAddr("10.244.0.2"), Serving: true, Terminating: true, NodeName: "n1"},
			{Addr: netip.MustParseAddr("10.244.0.3"), Ready: true},
		},
	}
	if !s.Equal(want) {
		t.Errorf("got %+v", s)
	}
	if len(notes) != 4 || !strings.HasPrefix(notes[1], "EndpointSlice default/web-1: endpoints[3].addresses[0]: nonsense is not an IP address") {
		t.Errorf("notes: %q", notes)
	}
}

func TestSlicesWithoutServiceOrAddressesAreNotServed(t *testing.T) {
	for _, text := range []string{
		strings.Replace(sliceText, "labels: {kubernetes.io/service-name: web}", "labels: {}", 1),
		strings.Replace(sliceText, "addressType: IPv4", "addressType: FQDN", 1),
		strings.Replace(sliceText, "labels: {", `labels: {service.kubernetes.io/headless: "", `, 1),
	} {
		if s, notes, err := ConvertSlice(parse[discoveryv1.EndpointSlice](t, text)); s != nil || err != nil || len(notes) != 1 {
			t.Errorf("got %+v, %v, %v", s, notes, err)
		}
	}
}

func TestDefaultsAreTheAPIServers(t *testing.T) {
	o := parse[corev1.Service](t, `{metadata: {name: a}, spec: {clusterIP: "fd00::1", sessionAffinity: ClientIP, ports: [{port: 80}]}}`)
	DefaultService(o)
	s := o.Spec
	if o.Namespace != "default" || s.Type != corev1.ServiceTypeClusterIP || s.Ports[0].Protocol != corev1.ProtocolTCP ||
		s.Ports[0].TargetPort.IntVal != 80 || s.ClusterIPs[0] != "fd00::1" || s.IPFamilies[0] != corev1.IPv6Protocol ||
		*s.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack || *s.SessionAffinityConfig.ClientIP.TimeoutSeconds != 10800 ||
		*s.InternalTrafficPolicy != corev1.ServiceInternalTrafficPolicyCluster || s.ExternalTrafficPolicy != "" {
		t.Errorf("got %+v", o)
	}
	o = parse[corev1.Service](t, `{metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1, sessionAffinityConfig: {}, ports: [{port: 80}]},
  status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: a.example}]}}}`)
	DefaultService(o)
	s = o.Spec
	ingress := o.Status.LoadBalancer.Ingress
	if s.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyCluster || !*s.AllocateLoadBalancerNodePorts || s.SessionAffinityConfig != nil ||
		*ingress[0].IPMode != corev1.LoadBalancerIPModeVIP || ingress[1].IPMode != nil {
		t.Errorf("a load balancer: got %+v", o)
	}
}
