package proxier

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	kjson "sigs.k8s.io/json"

	"svcproxy/model"
	"svcproxy/plan"
)

func FuzzConvertService(f *testing.F) {
	f.Add("web", "http", "10.96.0.1", "TCP", int32(80))
	f.Add("a b", "\x00", "::ffff:1.2.3.4", "", int32(-1))
	f.Add(strings.Repeat("x", 64), "-j", "010.0.0.1", "SCTP", int32(70000))
	f.Fuzz(func(t *testing.T, name, portName, ip, protocol string, port int32) {
		o := &corev1.Service{}
		o.Namespace, o.Name, o.Spec.ClusterIP = "default", name, ip
		o.Spec.Ports = []corev1.ServicePort{{Name: portName, Protocol: corev1.Protocol(protocol), Port: port}}
		DefaultService(o)
		s, _, err := ConvertService(o)
		if err != nil || s == nil {
			return
		}
		text := s.PortName(s.Ports[0]).String()
		if strings.ContainsAny(text, " \"'\n\x00;\\") || len(text) > 3*63+2 || s.Ports[0].Port == 0 || s.ClusterIPs[0].Is4In6() || s.ClusterIPs[0].Zone() != "" {
			t.Errorf("accepted %q at %v", text, s.ClusterIPs)
		}
		planBoth(s, nil)
	})
}

// FuzzConvertExternal reads any text as whatever lets a Service be reached from outside.
func FuzzConvertExternal(f *testing.F) {
	f.Add("LoadBalancer", "192.0.2.1", "2001:db8::1", "10.0.0.0/8", "Local", "ClientIP", int32(30080), int32(32000), int32(10800))
	f.Add("NodePort", "127.0.0.1", "fe80::1%eth0", " ::ffff:1.2.3.4/96 ", "Cluster", "None", int32(-1), int32(70000), int32(0))
	f.Add("ClusterIP", "010.0.0.1", "255.255.255.255", "1.2.3.4/ 8", "x", "Cookie", int32(0), int32(0), int32(86401))
	f.Fuzz(func(t *testing.T, kind, externalIP, ingress, sources, policy, affinity string, nodePort, health, seconds int32) {
		o := parse[corev1.Service](t, goodSpec)
		o.Spec.ClusterIPs = []string{"10.96.0.5", "fd00::5"}
		o.Spec.Type, o.Spec.SessionAffinity = corev1.ServiceType(kind), corev1.ServiceAffinity(affinity)
		o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(policy)
		o.Spec.ExternalIPs, o.Spec.LoadBalancerSourceRanges = []string{externalIP}, []string{sources}
		o.Spec.Ports[0].NodePort, o.Spec.HealthCheckNodePort = nodePort, health
		o.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ingress}}
		DefaultService(o)
		s, notes, err := ConvertService(o)
		for _, text := range notes {
			checkMessage(t, text)
		}
		if err != nil {
			checkMessage(t, err.Error())
		}
		if s == nil {
			return
		}
		for _, a := range slices.Concat(s.ExternalIPs, s.LoadBalancerIPs) {
			if a.Zone() != "" || a.Is4In6() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
				t.Errorf("accepted %v", a)
			}
		}
		if s.Affinity < 0 || s.Affinity > 24*time.Hour || s.SourceRanges != nil && kind != "LoadBalancer" {
			t.Errorf("accepted %+v", s)
		}
		planBoth(s, nil)
	})
}

func FuzzConvertNode(f *testing.F) {
	f.Add("InternalIP", "192.0.2.1", "10.244.0.0/24")
	f.Add("ExternalIP", "fe80::1%x", "::/0")
	f.Add("Hostname", "\x1b[2J", "\n")
	f.Fuzz(func(t *testing.T, kind, address, cidr string) {
		o := parse[corev1.Node](t, nodeText)
		o.Spec.PodCIDRs = []string{cidr}
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeAddressType(kind), Address: address})
		n, notes, err := ConvertNode(o)
		for _, text := range notes {
			checkMessage(t, text)
		}
		if err != nil {
			checkMessage(t, err.Error())
			return
		}
		for _, a := range n.Addrs {
			if a.Zone() != "" || a.Is4In6() || a.IsLoopback() || a.IsMulticast() {
				t.Errorf("accepted %v", a)
			}
		}
		if len(n.Addrs) == 0 || n.Addrs[0].String() != "192.0.2.10" {
			t.Errorf("the primary address is lost: %v", n.Addrs)
		}
	})
}

// checkMessage checks that a message is one line of visible text.
func checkMessage(t *testing.T, text string) {
	t.Helper()
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) || !utf8.ValidString(text) {
		t.Errorf("a message that is more than text: %q", text)
	}
}

func FuzzConvertSlice(f *testing.F) {
	f.Add(`{"metadata":{"namespace":"default","name":"a","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","ports":[{"port":80}],"endpoints":[{"addresses":["10.0.0.1"]},{"addresses":["x"]}]}`)
	f.Add(`{"addressType":"IPv6","ports":[{}],"endpoints":[{}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		var o discoveryv1.EndpointSlice
		if kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &o) != nil {
			return
		}
		DefaultSlice(&o)
		s, _, err := ConvertSlice(&o)
		if s == nil || err != nil {
			return
		}
		for _, e := range s.Endpoints {
			if model.FamilyOf(e.Addr) != s.Family || e.Addr.Zone() != "" || e.Addr.Is4In6() {
				t.Errorf("accepted %v", e.Addr)
			}
		}
		planBoth(service("web", 1), s)
	})
}

// planBoth plans a Service, which must not panic.
func planBoth(s *model.Service, slice *model.Slice) {
	for _, family := range model.Families {
		in := plan.Input{Name: s.Name, Service: s}
		if slice != nil {
			in.Slices = []*model.Slice{slice}
		}
		plan.Build(Settings{}.Config(family, model.Node{}, nil), []plan.Input{in})
	}
}

// FuzzManifests puts anything between two healthy Services, which must both survive.
func FuzzManifests(f *testing.F) {
	healthy := func(name, ip string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {clusterIP: " + ip + ", ports: [{port: 80}]}\n"
	}
	f.Add(healthy("c", "10.0.0.3"))
	f.Add("a: [")
	f.Add("{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [null, 1, {}]}")
	f.Add("apiVersion: v1\nkind: Service\nmetadata: {name: 5}")
	f.Add("kind: Service\napiVersion: v1\nspec: {ports: [{port: x}]}")
	f.Fuzz(func(t *testing.T, odd string) {
		text := healthy("first-healthy", "10.0.0.1") + "\n---\n" + odd + "\n---\n" + healthy("last-healthy", "10.0.0.2")
		if strings.Contains(odd, "healthy") {
			return
		}
		found := NewObjects()
		for _, m := range parseManifests("f.yaml", []byte(text)).objects {
			if m.set != nil {
				m.set(found)
			}
		}
		if found.Services[named("first-healthy")] == nil || found.Services[named("last-healthy")] == nil {
			t.Errorf("a healthy Service did not survive %q", odd)
		}
		found.Plan(model.IPv4, Settings{}, "node")
	})
}
