package proxier

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"

	"svcproxy/model"
)

func mustAddrs(all ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range all {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

const fullBalancer = `
metadata: {namespace: default, name: web}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.5, "fd00::5"]
  externalIPs: [192.0.2.7, "2001:db8::7", 192.0.2.7]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 32000
  loadBalancerSourceRanges: [" 198.51.100.7/24 ", "2001:db8:1::/48"]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP, nodePort: 30080}
status:
  loadBalancer:
    ingress: [{ip: 192.0.2.1}, {ip: "2001:db8::1", ipMode: VIP}, {ip: 192.0.2.1}]`

func TestConvertServiceReadsEveryExternalAddress(t *testing.T) {
	s, notes, err := ConvertService(parse[corev1.Service](t, fullBalancer))
	if err != nil || len(notes) > 0 {
		t.Fatal(err, notes)
	}
	want := &model.Service{
		Name:                named("web"),
		ClusterIPs:          mustAddrs("10.96.0.5", "fd00::5"),
		ExternalIPs:         mustAddrs("192.0.2.7", "2001:db8::7"),
		LoadBalancerIPs:     mustAddrs("192.0.2.1", "2001:db8::1"),
		SourceRanges:        mustPrefixes("198.51.100.0/24", "2001:db8:1::/48"),
		Affinity:            time.Minute,
		HealthCheckNodePort: 32000,
		ExternalLocal:       true,
		InternalLocal:       true,
		Ports: []model.ServicePort{
			{Name: "http", Protocol: model.TCP, Port: 80, NodePort: 30080}, {Name: "dns", Protocol: model.UDP, Port: 53, NodePort: 30080},
		},
	}
	if !s.Equal(want) {
		t.Errorf("got %+v\nwant %+v", s, want)
	}
}

// spec is a Service of a type with further fields of its spec and with ingress points.
func spec(kind, fields, ports, ingress string) string {
	return `{metadata: {namespace: default, name: web}, spec: {type: ` + kind + `, clusterIP: 10.0.0.1, ` + fields + ` ports: [` + ports + `]}, ` +
		`status: {loadBalancer: {ingress: [` + ingress + `]}}}`
}

const port80, port30080 = `{port: 80}`, `{port: 80, nodePort: 30080}`

func TestWhatTheAPIServerRefusesIsRefusedByName(t *testing.T) {
	for text, want := range map[string]string{
		spec("ClusterIP", `externalIPs: [192.0.2.1, 127.0.0.1],`, port80, ``):                            `spec.externalIPs[1]: 127.0.0.1 can't be an external IP`,
		spec("ClusterIP", `externalIPs: ["::"],`, port80, ``):                                            `spec.externalIPs[0]: :: can't be`,
		spec("ClusterIP", `externalIPs: [169.254.1.1],`, port80, ``):                                     `spec.externalIPs[0]: 169.254.1.1 can't be`,
		spec("ClusterIP", `externalIPs: [224.0.0.1],`, port80, ``):                                       `spec.externalIPs[0]: 224.0.0.1 can't be`,
		spec("ClusterIP", `externalIPs: [nonsense],`, port80, ``):                                        `spec.externalIPs[0]: nonsense is not an IP address`,
		spec("ClusterIP", `externalIPs: ["::ffff:192.0.2.1"],`, port80, ``):                              `write 192.0.2.1`,
		spec("ClusterIP", ``, port30080, ``):                                                             `spec.ports[0].nodePort: 30080 goes with the types NodePort and LoadBalancer alone`,
		spec("NodePort", ``, port80, ``):                                                                 `spec.ports[0].nodePort: is missing`,
		spec("NodePort", ``, `{name: a, port: 80, nodePort: 30080}, {name: b, port: 81}`, ``):            `spec.ports[1].nodePort: is missing`,
		spec("LoadBalancer", ``, port80, ``):                                                             `spec.ports[0].nodePort: is missing`,
		spec("LoadBalancer", `allocateLoadBalancerNodePorts: true,`, port80, ``):                         `spec.ports[0].nodePort: is missing`,
		spec("NodePort", ``, `{port: 80, nodePort: 65536}`, ``):                                          `spec.ports[0].nodePort: 65536 is not a port`,
		spec("NodePort", ``, `{port: 80, nodePort: -1}`, ``):                                             `spec.ports[0].nodePort: -1 is not a port`,
		spec("NodePort", ``, `{name: a, port: 80, nodePort: 1}, {name: b, port: 81, nodePort: 1}`, ``):   `spec.ports[1].nodePort: 1 TCP is there twice`,
		spec("Balancer", ``, port80, ``):                                                                 `spec.type: "Balancer" is unknown`,
		spec("NodePort", `externalTrafficPolicy: Lokal,`, port30080, ``):                                 `spec.externalTrafficPolicy: "Lokal" is unknown`,
		spec("NodePort", `loadBalancerSourceRanges: [10.0.0.0/8],`, port30080, ``):                       `spec.loadBalancerSourceRanges: goes with the type LoadBalancer alone`,
		spec("LoadBalancer", `loadBalancerSourceRanges: [10.0.0.0/8, 10.0.0.0],`, port30080, ``):         `spec.loadBalancerSourceRanges[1]: 10.0.0.0 is not a CIDR`,
		spec("LoadBalancer", ``, port30080, `{ip: nonsense}`):                                            `status.loadBalancer.ingress[0].ip: nonsense is not an IP address`,
		spec("LoadBalancer", ``, port30080, `{ip: 192.0.2.1, ipMode: vip}`):                              `status.loadBalancer.ingress[0].ipMode: vip is unknown`,
		spec("LoadBalancer", `externalTrafficPolicy: Local, healthCheckNodePort: 70000,`, port30080, ``): `spec.healthCheckNodePort: 70000 is not a port`,
		spec("LoadBalancer", `externalTrafficPolicy: Local, healthCheckNodePort: 30080,`, port30080, ``): `spec.healthCheckNodePort: 30080 is also the nodePort`,
		spec("ClusterIP", `sessionAffinity: Cookie,`, port80, ``):                                        `spec.sessionAffinity: "Cookie" is unknown`,
		spec("ClusterIP", `sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}},`, port80, ``): `` +
			`spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is out of range: want 1 to 86400`,
		spec("ClusterIP", `sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}},`, port80, ``): `timeoutSeconds: 86401 is out of range`,
	} {
		s, _, err := ConvertService(parse[corev1.Service](t, text))
		if s != nil || err == nil || !strings.HasPrefix(err.Error(), "Service default/web: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestWhatIsTakenAndNotServedIsNoted(t *testing.T) {
	const local = `externalTrafficPolicy: Local, `
	for text, want := range map[string]string{
		spec("ClusterIP", `externalIPs: [239.1.1.1],`, port80, ``):                                    `spec.externalIPs[0]: 239.1.1.1 is not served`,
		spec("ClusterIP", `externalIPs: [255.255.255.255],`, port80, ``):                              `spec.externalIPs[0]: 255.255.255.255 is not served`,
		spec("ClusterIP", `externalIPs: ["2001:db8::1"],`, port80, ``):                                `spec.externalIPs[0]: 2001:db8::1 is not served: the Service has no IPv6 ClusterIP`,
		spec("ClusterIP", ``, port80, `{ip: 192.0.2.1}`):                                              `status.loadBalancer.ingress: not served: the type is not LoadBalancer`,
		spec("LoadBalancer", ``, port30080, `{ip: 127.0.0.1}`):                                        `status.loadBalancer.ingress[0].ip: 127.0.0.1 is not served`,
		spec("LoadBalancer", ``, port30080, `{ip: 192.0.2.1, ipMode: Proxy}`):                         `status.loadBalancer.ingress[0].ipMode: Proxy: 192.0.2.1 is left to the load balancer`,
		spec("LoadBalancer", ``, port30080, `{hostname: lb.example}`):                                 `status.loadBalancer.ingress[0]: has no IP address`,
		spec("LoadBalancer", local, port30080, ``):                                                    `spec.healthCheckNodePort: is missing`,
		spec("LoadBalancer", `healthCheckNodePort: 32000,`, port30080, ``):                            `spec.healthCheckNodePort: has no effect`,
		spec("ClusterIP", local, port80, ``):                                                          `spec.externalTrafficPolicy: has no effect`,
		spec("LoadBalancer", `loadBalancerSourceRanges: ["fd00::/8"],`, port30080, `{ip: 192.0.2.1}`): `spec.loadBalancerSourceRanges: no range is IPv4, so 192.0.2.1 takes connections from everywhere`,
	} {
		s, notes, err := ConvertService(parse[corev1.Service](t, text))
		if err != nil || len(notes) != 1 || !strings.HasPrefix(notes[0], "Service default/web: "+want) {
			t.Errorf("%s:\n got %q, %v\nwant %s", text, notes, err, want)
			continue
		}
		if len(s.ClusterIPs) != 1 || len(s.ExternalIPs) > 0 || s.HealthCheckNodePort != 0 || len(s.LoadBalancerIPs) > 0 && !strings.Contains(want, "everywhere") {
			t.Errorf("%s: got %+v", text, s)
		}
	}
	old := parse[corev1.Service](t, spec("LoadBalancer", ``, port30080, ``))
	old.Annotations = map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: "10.0.0.0/8"}
	if s, notes, err := ConvertService(old); err != nil || len(s.SourceRanges) > 0 || len(notes) != 1 || !strings.Contains(notes[0], "load-balancer-source-ranges]: has no effect") {
		t.Errorf("the annotation: got %q, %v", notes, err)
	}
}

func TestNodePortsMayBeLeftOutWhereTheyAreNotAllocated(t *testing.T) {
	for _, text := range []string{
		spec("LoadBalancer", `allocateLoadBalancerNodePorts: false,`, port80, `{ip: 192.0.2.1}`),
		spec("ClusterIP", ``, port80, ``),
	} {
		if s, notes, err := ConvertService(parse[corev1.Service](t, text)); err != nil || len(notes) > 0 || s.Ports[0].NodePort != 0 {
			t.Errorf("%s: got %+v, %q, %v", text, s, notes, err)
		}
	}
	same := spec("NodePort", ``, `{name: a, port: 80, nodePort: 30080}, {name: b, port: 80, protocol: UDP, nodePort: 30080}`, ``)
	if _, notes, err := ConvertService(parse[corev1.Service](t, same)); err != nil || len(notes) > 0 {
		t.Errorf("one number for two protocols: got %q, %v", notes, err)
	}
}

func TestPoliciesAndAffinityGoByKubeProxysRules(t *testing.T) {
	for text, want := range map[string]model.Service{
		spec("ClusterIP", `externalIPs: [192.0.2.1], externalTrafficPolicy: Local,`, port80, ``): {ExternalLocal: true},
		spec("NodePort", `externalTrafficPolicy: Local,`, port30080, ``):                         {ExternalLocal: true},
		spec("NodePort", `externalTrafficPolicy: Cluster,`, port30080, ``):                       {},
		spec("ClusterIP", `sessionAffinity: ClientIP,`, port80, ``):                              {Affinity: 3 * time.Hour},
		spec("ClusterIP", `sessionAffinity: None,`, port80, ``):                                  {},
	} {
		s, notes, err := ConvertService(parse[corev1.Service](t, text))
		if err != nil || len(notes) > 0 || s.ExternalLocal != want.ExternalLocal || s.Affinity != want.Affinity || s.HealthCheckNodePort != 0 {
			t.Errorf("%s: got %+v, %q, %v", text, s, notes, err)
		}
	}
}

func TestInformersKeepWhatExternalAddressesNeed(t *testing.T) {
	full := parse[corev1.Service](t, fullBalancer)
	full.Annotations = map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: "10.0.0.0/8", "other": "x"}
	node := parse[corev1.Node](t, nodeText)
	s1, notes1, err1 := ConvertService(full)
	n1, _, err2 := ConvertNode(node)
	for _, o := range []any{full, node} {
		if _, err := trim(o); err != nil {
			t.Fatal(err)
		}
	}
	s2, notes2, err3 := ConvertService(full)
	n2, _, err4 := ConvertNode(node)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || !s1.Equal(s2) || !slices.Equal(notes1, notes2) || !n1.Equal(*n2) {
		t.Errorf("trimmed: got %+v, %q and %+v", s2, notes2, n2)
	}
	if len(full.Annotations) != 1 || len(node.Status.Conditions) > 0 {
		t.Errorf("kept %v and %+v", full.Annotations, node.Status)
	}
}

const nodeText = `
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDRs: [10.244.1.0/24, "fd00:1::/64"]}
status:
  conditions: [{type: Ready, status: "True"}]
  addresses:
  - {type: Hostname, address: n1}
  - {type: ExternalIP, address: 203.0.113.1}
  - {type: InternalIP, address: nonsense}
  - {type: InternalIP, address: 127.0.0.1}
  - {type: InternalIP, address: 192.0.2.10}
  - {type: InternalIP, address: "2001:db8::10"}
  - {type: InternalIP, address: 192.0.2.11}
  - {type: ExternalIP, address: 192.0.2.10}`

func TestConvertNodeOrdersAddressesAndLeavesOutBadOnes(t *testing.T) {
	n, notes, err := ConvertNode(parse[corev1.Node](t, nodeText))
	if err != nil {
		t.Fatal(err)
	}
	want := model.Node{
		Name: "n1", Zone: "z1", PodCIDRs: mustPrefixes("10.244.1.0/24", "fd00:1::/64"),
		Addrs: mustAddrs("192.0.2.10", "2001:db8::10", "192.0.2.11", "203.0.113.1"),
	}
	if !n.Equal(want) {
		t.Errorf("got %+v\nwant %+v", n, want)
	}
	expect(t, "notes", notes, []string{
		"Node n1: status.addresses[2].address: nonsense is not an IP address; it is left out",
		"Node n1: status.addresses[3].address: 127.0.0.1 can't be a node's: it is unspecified, loopback, link-local, multicast or broadcast; it is left out",
	})
}

// Whatever mixture of fields a Service has: it is either refused by name, or holds only what can be served.
func TestAnyMixtureOfFieldsIsRefusedOrServed(t *testing.T) {
	pick := func(t *rapid.T, what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
	rapid.Check(t, func(t *rapid.T) {
		o := &corev1.Service{}
		o.Namespace, o.Name = "default", "web"
		o.Spec.ClusterIPs = rapid.SampledFrom([][]string{{"10.0.0.1"}, {"fd00::1"}, {"10.0.0.1", "fd00::1"}}).Draw(t, "clusterIPs")
		o.Spec.ClusterIP = o.Spec.ClusterIPs[0]
		o.Spec.Type = corev1.ServiceType(pick(t, "type", "", "ClusterIP", "NodePort", "LoadBalancer", "x"))
		o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(pick(t, "policy", "", "Local", "Cluster", "y"))
		o.Spec.HealthCheckNodePort = rapid.SampledFrom([]int32{0, 1, 30001, 70000}).Draw(t, "health")
		addr := func() string {
			return pick(t, "address", "192.0.2.1", "2001:db8::1", "127.0.0.1", "::1", "fe80::1", "239.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "x", "1.2.3.4")
		}
		for range rapid.IntRange(0, 2).Draw(t, "external IPs") {
			o.Spec.ExternalIPs = append(o.Spec.ExternalIPs, addr())
		}
		for range rapid.IntRange(0, 2).Draw(t, "ingress") {
			o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr()})
		}
		for range rapid.IntRange(0, 2).Draw(t, "ranges") {
			o.Spec.LoadBalancerSourceRanges = append(o.Spec.LoadBalancerSourceRanges, pick(t, "range", "10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "x", "10.0.0.0/33"))
		}
		for i := range rapid.IntRange(1, 3).Draw(t, "ports") {
			o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{
				Name: string(rune('a' + i)), Port: int32(80 + i), Protocol: corev1.Protocol(pick(t, "protocol", "TCP", "UDP", "SCTP")),
				NodePort: rapid.SampledFrom([]int32{0, 30001, 30002, 70000}).Draw(t, "nodePort"),
			})
		}
		if rapid.Bool().Draw(t, "defaulted") {
			DefaultService(o)
		}
		s, _, err := ConvertService(o)
		if err != nil {
			if s != nil || !strings.HasPrefix(err.Error(), "Service default/web: ") {
				t.Fatalf("got %+v and the error %v", s, err)
			}
			return
		}
		for _, a := range slices.Concat(s.ExternalIPs, s.LoadBalancerIPs) {
			if !slices.Contains([]string{"192.0.2.1", "2001:db8::1", "1.2.3.4"}, a.String()) {
				t.Fatalf("%v is served", a)
			}
		}
		if s.HealthCheckNodePort != 0 && !s.ExternalLocal || len(s.LoadBalancerIPs) > 0 && o.Spec.Type != corev1.ServiceTypeLoadBalancer {
			t.Fatalf("got %+v", s)
		}
		planBoth(s, nil)
	})
}
