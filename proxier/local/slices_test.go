package local

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"svcproxy/proxier"
)

// webService selects app=web, and its target port has a name.
func webService(t testing.TB) *corev1.Service {
	s := service(t, "{selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}")
	s.Name, s.UID = "web", "service-uid"
	s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.5", []string{"10.96.0.5", "fd00:10:96::5"}
	s.Spec.IPFamilies = []corev1.IPFamily{"IPv4", "IPv6"}
	return s
}

// webPod is a ready pod that webService selects, at offset n of both ranges.
func webPod(n int, ready bool) *corev1.Pod {
	pod := simplePod(fmt.Sprint("web-", n), map[string]string{"app": "web"})
	pod.UID = "pod-uid"
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}}
	pod.Status.PodIPs = []corev1.PodIP{
		{IP: addrAt(DefaultRanges(true).Pods[0], uint64(n)).String()},
		{IP: addrAt(DefaultRanges(true).Pods[1], uint64(n)).String()},
	}
	return setReady(pod, ready)
}

func ofFamily(all []*discoveryv1.EndpointSlice, family discoveryv1.AddressType) []*discoveryv1.EndpointSlice {
	var some []*discoveryv1.EndpointSlice
	for _, s := range all {
		if s.AddressType == family {
			some = append(some, s)
		}
	}
	return some
}

func TestASliceIsAsTheControllerMakesIt(t *testing.T) {
	s := webService(t)
	s.Labels = map[string]string{"team": "a", discoveryv1.LabelManagedBy: "me"}
	all := Slices(s, []*corev1.Pod{webPod(2, true)}, "node")
	if len(all) != 2 || all[0].AddressType != "IPv4" || all[1].AddressType != "IPv6" {
		t.Fatalf("got %+v", all)
	}
	yes, no, name, tcp, port, node := true, false, "http", corev1.ProtocolTCP, int32(8080), "node"
	got := all[0]
	want := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: got.Name,
			Labels:          map[string]string{"team": "a", "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web", UID: "service-uid", Controller: &yes, BlockOwnerDeletion: &yes}},
		},
		AddressType: "IPv4",
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &tcp, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{"10.244.0.2"},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web-2", UID: "pod-uid"},
			NodeName:   &node,
		}},
	}
	if !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if !strings.HasPrefix(got.Name, "web-") || len(got.Name) != len("web-")+5 || got.Name == all[1].Name {
		t.Errorf("names %s and %s", got.Name, all[1].Name)
	}
}

func TestConditionsOfEndpoints(t *testing.T) {
	for _, c := range []struct {
		ready, deleted, publish bool
		want                    string
	}{
		{true, false, false, "true true false"},
		{false, false, false, "false false false"},
		{true, true, false, "false true true"},
		{false, true, false, "false false true"},
		{false, false, true, "true false false"},
		{true, true, true, "true true true"},
	} {
		s, pod := webService(t), webPod(2, c.ready)
		s.Spec.PublishNotReadyAddresses = c.publish
		if c.deleted {
			pod.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}
		got := Slices(s, []*corev1.Pod{pod}, "node")[0].Endpoints[0].Conditions
		if text := fmt.Sprint(*got.Ready, *got.Serving, *got.Terminating); text != c.want {
			t.Errorf("%+v: %s", c, text)
		}
	}
}

func TestPodsThatAreNoEndpoints(t *testing.T) {
	other, ended, elsewhere, nowhere := webPod(2, true), webPod(3, true), webPod(4, true), webPod(5, true)
	other.Labels["app"] = "db"
	ended.Status.Phase = corev1.PodSucceeded
	elsewhere.Namespace = "other"
	nowhere.Status.PodIPs = nil
	all := Slices(webService(t), []*corev1.Pod{other, ended, elsewhere, nowhere}, "node")
	if len(all) != 2 || len(all[0].Endpoints)+len(all[1].Endpoints) != 0 || len(all[0].Ports) != 0 {
		t.Errorf("want one empty slice a family, got %+v", all)
	}
	s := webService(t)
	s.Spec.Selector = map[string]string{}
	if all := Slices(s, []*corev1.Pod{webPod(2, true)}, "node"); all != nil {
		t.Errorf("without a selector: %+v", all)
	}
	s = webService(t)
	s.Spec.Type = corev1.ServiceTypeExternalName
	if all := Slices(s, []*corev1.Pod{webPod(2, true)}, "node"); all != nil {
		t.Errorf("ExternalName: %+v", all)
	}
}

func TestPortsOfAnotherNumberAreInASliceOfTheirOwn(t *testing.T) {
	odd, nameless := webPod(3, true), webPod(4, true)
	odd.Spec.Containers[0].Ports[0].ContainerPort = 9090
	nameless.Spec.Containers[0].Ports = nil
	v4 := ofFamily(Slices(webService(t), []*corev1.Pod{webPod(2, true), odd, nameless}, "node"), "IPv4")
	got := map[string]string{}
	for _, s := range v4 {
		ports := ""
		for _, p := range s.Ports {
			ports += fmt.Sprint(*p.Port)
		}
		for _, e := range s.Endpoints {
			got[e.Addresses[0]] = ports
		}
	}
	if fmt.Sprint(got) != "map[10.244.0.2:8080 10.244.0.3:9090 10.244.0.4:]" {
		t.Errorf("got %v", got)
	}
}

func TestTargetPorts(t *testing.T) {
	s, pod := webService(t), webPod(2, true)
	pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, corev1.ContainerPort{Name: "dns", ContainerPort: 5353, Protocol: "UDP"})
	s.Spec.Ports = service(t, "{ports: [{name: a, port: 1}, {name: b, port: 2, targetPort: 22}, {name: c, port: 53, protocol: UDP, targetPort: dns}, {name: d, port: 53, targetPort: dns}]}").Spec.Ports
	var got []string
	for _, p := range Slices(s, []*corev1.Pod{pod}, "node")[0].Ports {
		got = append(got, fmt.Sprint(*p.Name, *p.Port, *p.Protocol))
	}
	if !slices.Equal(got, []string{"a1TCP", "b22TCP", "c5353UDP"}) {
		t.Errorf("got %v", got)
	}
}

func TestHeadlessServicesHaveHostnames(t *testing.T) {
	s, pod := webService(t), webPod(2, true)
	s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Ports = "None", []string{"None"}, nil
	pod.Spec.Hostname, pod.Spec.Subdomain = "first", "web"
	got := Slices(s, []*corev1.Pod{pod}, "node")[0]
	if _, labelled := got.Labels[corev1.IsHeadlessService]; !labelled || got.Endpoints[0].Hostname == nil || *got.Endpoints[0].Hostname != "first" {
		t.Errorf("got %+v", got)
	}
	pod.Spec.Subdomain = "other"
	if got := Slices(s, []*corev1.Pod{pod}, "node")[0]; got.Endpoints[0].Hostname != nil {
		t.Errorf("a hostname of another subdomain: %+v", got)
	}
}

// Whatever pods there are: no slice is too large, no pod is lost or doubled, names are distinct, the proxy takes all
// slices, order has no influence, and a pod that stays also stays in its slice while others come and go, unless
// MaxEndpoints is crossed.
func TestSlicesHoldEachPodOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOfNDistinct(rapid.IntRange(2, 250), 0, 230, rapid.ID[int]).Draw(t, "pods")
		s := &corev1.Service{}
		s.Namespace, s.Name = "default", "web"
		s.Spec = corev1.ServiceSpec{ClusterIP: "10.96.0.1", Selector: map[string]string{"app": "web"}, IPFamilies: []corev1.IPFamily{"IPv4", "IPv6"},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}}}
		var pods []*corev1.Pod
		for _, n := range numbers {
			pod := webPod(n, n%3 == 0)
			pod.Spec.Containers[0].Ports[0].ContainerPort += int32(n % 2)
			pods = append(pods, pod)
		}
		all := Slices(s, pods, "node")
		first := places(t, all, len(pods))
		slices.Reverse(pods)
		if !equality.Semantic.DeepEqual(all, Slices(s, pods, "node")) {
			t.Fatal("the order of the pods matters")
		}
		if len(pods) == 0 {
			return
		}
		rest := places(t, Slices(s, pods[1:], "node"), len(pods)-1)
		groups := map[int]int{}
		for _, n := range numbers {
			groups[n%2]++
		}
		gone := pods[0].Status.PodIPs[0].IP
		for addr, slice := range rest {
			crossed := groups[0] == MaxEndpoints+1 || groups[1] == MaxEndpoints+1
			if !crossed && first[addr] != slice {
				t.Fatalf("%s moved from %s to %s when %s went", addr, first[addr], slice, gone)
			}
		}
	})
}

// places tells which slice an address is in.
func places(t *rapid.T, all []*discoveryv1.EndpointSlice, pods int) map[string]string {
	got, named := map[string]string{}, map[string]bool{}
	for _, s := range all {
		if len(s.Endpoints) > MaxEndpoints || named[s.Name] {
			t.Fatalf("%d endpoints in %s", len(s.Endpoints), s.Name)
		}
		named[s.Name] = true
		if _, notes, err := proxier.ConvertSlice(s); err != nil || len(notes) > 0 {
			t.Fatalf("the proxy says %v %v", notes, err)
		}
		for _, e := range s.Endpoints {
			if got[e.Addresses[0]] != "" {
				t.Fatalf("%s is there twice", e.Addresses[0])
			}
			got[e.Addresses[0]] = s.Name
		}
	}
	if len(got) != 2*pods {
		t.Fatalf("%d addresses of %d pods", len(got), pods)
	}
	return got
}
