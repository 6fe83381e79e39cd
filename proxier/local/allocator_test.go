package local

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func newAllocator(t testing.TB, r Ranges) *Allocator {
	t.Helper()
	a, err := NewAllocator(r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustPod(t testing.TB, a *Allocator, name string, wanted ...netip.Addr) []netip.Addr {
	t.Helper()
	got, err := a.Pod(key(name), wanted)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPodAddressesComeInSequenceAndAreKept(t *testing.T) {
	a := newAllocator(t, DefaultRanges(true))
	if got := mustPod(t, a, "a"); !slices.Equal(got, addrs("10.244.0.2", "fd00:10:244::2")) {
		t.Errorf("first: %v", got)
	}
	if got := mustPod(t, a, "b"); !slices.Equal(got, addrs("10.244.0.3", "fd00:10:244::3")) {
		t.Errorf("second: %v", got)
	}
	if got := mustPod(t, a, "a"); !slices.Equal(got, addrs("10.244.0.2", "fd00:10:244::2")) {
		t.Errorf("again: %v", got)
	}
	a.FreePod(key("a"))
	if got := mustPod(t, a, "c"); !slices.Equal(got, addrs("10.244.0.4", "fd00:10:244::4")) {
		t.Errorf("an address that was just freed came again: %v", got)
	}
}

func TestAFreedPodAddressComesAgainOnlyAfterAllOthers(t *testing.T) {
	a := newAllocator(t, DefaultRanges(false))
	for i := range 253 {
		mustPod(t, a, fmt.Sprint(i))
	}
	if _, err := a.Pod(key("more"), nil); err == nil {
		t.Fatal("254 pods in 10.244.0.0/24")
	}
	a.FreePod(key("7"))
	if got := mustPod(t, a, "more"); got[0] != addrs("10.244.0.9")[0] {
		t.Errorf("got %v", got)
	}
}

func TestWantedPodAddresses(t *testing.T) {
	a := newAllocator(t, DefaultRanges(true))
	if got := mustPod(t, a, "a", addrs("10.244.0.2")...); !slices.Equal(got, addrs("10.244.0.2", "fd00:10:244::2")) {
		t.Errorf("got %v", got)
	}
	if got := mustPod(t, a, "b"); !slices.Equal(got, addrs("10.244.0.3", "fd00:10:244::3")) {
		t.Errorf("got %v", got)
	}
	_, err := a.Pod(key("c"), addrs("10.244.0.2"))
	wantError(t, err, "Pod default/c", "10.244.0.2", "Pod default/a")
	for _, bad := range []string{"10.244.0.0", "10.244.0.1", "10.244.0.255", "10.244.1.2", "fd00:10:244::1", "::1"} {
		_, err := a.Pod(key("c"), addrs(bad))
		wantError(t, err, "Pod default/c", bad)
	}
	if got := mustPod(t, a, "a", addrs("10.244.0.200")...); !slices.Equal(got, addrs("10.244.0.200", "fd00:10:244::2")) {
		t.Errorf("a pod that wants another address got %v", got)
	}
	mustPod(t, a, "d", addrs("10.244.0.2")...)
}

func service(t testing.TB, spec string) *corev1.Service {
	t.Helper()
	return parse(t, "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: "+spec).Services[0]
}

func mustService(t testing.TB, a *Allocator, s, old *corev1.Service) *corev1.Service {
	t.Helper()
	if err := a.Service(s, old); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFamiliesOfServices(t *testing.T) {
	for _, c := range []struct {
		spec           string
		dual           bool
		ips, families  string
		policy, wanted string // wanted: what the error says
	}{
		{"{ports: [{port: 1}]}", true, "[10.96.1.1]", "[IPv4]", "SingleStack", ""},
		{"{ports: [{port: 1}], ipFamilies: [IPv6]}", true, "[fd00:10:96::101]", "[IPv6]", "SingleStack", ""},
		{"{ports: [{port: 1}], ipFamilyPolicy: PreferDualStack}", true, "[10.96.1.1 fd00:10:96::101]", "[IPv4 IPv6]", "PreferDualStack", ""},
		{"{ports: [{port: 1}], ipFamilyPolicy: PreferDualStack}", false, "[10.96.1.1]", "[IPv4]", "PreferDualStack", ""},
		{"{ports: [{port: 1}], ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4]}", true, "[fd00:10:96::101 10.96.1.1]", "[IPv6 IPv4]", "RequireDualStack", ""},
		{"{ports: [{port: 1}], clusterIPs: [10.96.0.10, 'fd00:10:96::a']}", true, "[10.96.0.10 fd00:10:96::a]", "[IPv4 IPv6]", "RequireDualStack", ""},
		{"{ports: [{port: 1}], clusterIP: None, selector: {a: b}}", true, "[None]", "[IPv4]", "SingleStack", ""},
		{"{clusterIP: None}", false, "[None]", "[IPv4 IPv6]", "RequireDualStack", ""},
		{"{ports: [{port: 1}], ipFamilyPolicy: RequireDualStack}", false, "", "", "", "spec.ipFamilyPolicy"},
		{"{ports: [{port: 1}], ipFamilies: [IPv6]}", false, "", "", "", "spec.ipFamilies[0]"},
		{"{ports: [{port: 1}], ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6]}", true, "", "", "", "spec.ipFamilyPolicy"},
		{"{ports: [{port: 1}], clusterIP: 10.97.0.1}", true, "", "", "", "spec.clusterIPs[0]"},
		{"{ports: [{port: 1}], clusterIP: 10.96.255.255}", true, "", "", "", "10.96.255.255"},
	} {
		s := service(t, c.spec)
		err := newAllocator(t, DefaultRanges(c.dual)).Service(s, nil)
		if c.wanted != "" {
			wantError(t, err, "Service default/s", c.wanted)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		if fmt.Sprint(s.Spec.ClusterIPs) != c.ips || fmt.Sprint(s.Spec.IPFamilies) != c.families || string(*s.Spec.IPFamilyPolicy) != c.policy || s.Spec.ClusterIP != s.Spec.ClusterIPs[0] {
			t.Errorf("%s: %v %v %v", c.spec, s.Spec.ClusterIPs, s.Spec.IPFamilies, *s.Spec.IPFamilyPolicy)
		}
	}
}

func TestNodePorts(t *testing.T) {
	a := newAllocator(t, DefaultRanges(false))
	s := mustService(t, a, service(t, "{type: NodePort, ports: [{name: d, port: 53, protocol: UDP}, {name: t, port: 53}, {name: w, port: 80, nodePort: 30080}]}"), nil)
	ports := []int32{s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort}
	if !slices.Equal(ports, []int32{30086, 30086, 30080}) {
		t.Errorf("one number for two protocols, and the wanted one: got %v", ports)
	}
	other := service(t, "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}")
	other.Name = "other"
	wantError(t, a.Service(other, nil), "Service default/other", "30080", "Service default/s", "nodePort")

	// The same manifest again, and with another port besides: what it has stays.
	again := mustService(t, a, service(t, "{type: NodePort, ports: [{name: x, port: 1}, {name: d, port: 53, protocol: UDP}]}"), s)
	if again.Spec.Ports[0].NodePort != 30087 || again.Spec.Ports[1].NodePort != 30086 {
		t.Errorf("got %+v", again.Spec.Ports)
	}
	mustService(t, a, other, nil) // 30080 was given back
	balancer := service(t, "{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 1}]}")
	balancer.Name = "lb"
	mustService(t, a, balancer, nil)
	if balancer.Spec.Ports[0].NodePort != 30088 || balancer.Spec.HealthCheckNodePort != 30089 {
		t.Errorf("got %+v", balancer.Spec)
	}
	without := service(t, "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 1}]}")
	if mustService(t, a, without, nil).Spec.Ports[0].NodePort != 0 {
		t.Errorf("got %+v", without.Spec)
	}
	wantError(t, a.Service(service(t, "{type: NodePort, ports: [{port: 80, nodePort: 80}]}"), nil), "Service default/s", "80", "30000", "32767")
}

func TestRangesAreChecked(t *testing.T) {
	for _, r := range []Ranges{
		{},
		{Pods: DefaultRanges(true).Pods, Services: DefaultRanges(false).Services, FirstNodePort: 1, LastNodePort: 2},
		{Pods: DefaultRanges(false).Services, Services: DefaultRanges(false).Services, FirstNodePort: 1, LastNodePort: 2},
		{Pods: DefaultRanges(true).Pods[1:], Services: DefaultRanges(false).Services, FirstNodePort: 1, LastNodePort: 2},
		{Pods: DefaultRanges(false).Pods, Services: DefaultRanges(false).Services, FirstNodePort: 3, LastNodePort: 2},
	} {
		if _, err := NewAllocator(r); err == nil {
			t.Errorf("accepted %+v", r)
		}
	}
}

// Whatever is asked for and given back in whatever order, nobody has what somebody else has, and everybody keeps
// what he has.
func TestNoNumberHasTwoOwners(t *testing.T) {
	small := Ranges{
		Pods: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/28"), netip.MustParsePrefix("fd00::/120")}, FirstNodePort: 30000, LastNodePort: 30007,
		Services: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/28"), netip.MustParsePrefix("fd01::/120")},
	}
	rapid.Check(t, func(t *rapid.T) {
		a, err := NewAllocator(small)
		if err != nil {
			t.Fatal(err)
		}
		pods, services := map[string][]netip.Addr{}, map[string]*corev1.Service{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := fmt.Sprint("n", rapid.IntRange(0, 20).Draw(t, "name"))
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				var wanted []netip.Addr
				if n := rapid.IntRange(0, 20).Draw(t, "wanted"); n > 15 {
					wanted = append(wanted, addrAt(small.Pods[0], uint64(n)-14))
				}
				got, err := a.Pod(key(name), wanted)
				if err != nil {
					break
				}
				if had := pods[name]; had != nil && wanted == nil && !slices.Equal(had, got) {
					t.Fatalf("%s had %v and got %v", name, had, got)
				}
				pods[name] = got
			case 1:
				a.FreePod(key(name))
				delete(pods, name)
			case 2:
				s := &corev1.Service{}
				s.Namespace, s.Name = "default", name
				s.Spec.Type = corev1.ServiceTypeNodePort
				s.Spec.Ports = []corev1.ServicePort{{Port: 1, Protocol: "TCP"}}
				prefer := corev1.IPFamilyPolicyPreferDualStack
				s.Spec.IPFamilyPolicy = &prefer
				if n := rapid.IntRange(0, 20).Draw(t, "port"); n < 8 {
					s.Spec.Ports[0].NodePort = 30000 + int32(n)
				}
				trial := a.clone()
				if trial.Service(s, services[name]) != nil {
					break
				}
				a = trial
				services[name] = s
			case 3:
				a.FreeService(types.NamespacedName{Namespace: "default", Name: name})
				delete(services, name)
			}
			seen := map[any]string{}
			claim := func(what any, name string) {
				if other, taken := seen[what]; taken {
					t.Fatalf("%v belongs to %s and to %s", what, other, name)
				}
				seen[what] = name
			}
			for name, all := range pods {
				for _, addr := range all {
					claim(addr, name)
				}
			}
			for name, s := range services {
				claim(s.Spec.Ports[0].NodePort, name)
				for _, ip := range s.Spec.ClusterIPs {
					claim(ip, name)
				}
			}
		}
	})
}
