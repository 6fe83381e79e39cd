package local

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// FuzzPodManifest reads anything as manifests. What is accepted stays the same when it is written and read
// again, can be given to a cluster or is refused by it with an error, and gives slices.
func FuzzPodManifest(f *testing.F) {
	for _, seed := range []string{folderPod, folderService, clusterPod, goodPod, webManifests, "[]", "{}", "---\n---", "---\x00\t\xff\xff", "kind: List\napiVersion: v1\nitems: [null]",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {svcproxy/pod-ips: '::1'}}\nspec: {containers: [{name: a, image: b, resources: {limits: {memory: 1e3, cpu: 0.0005}}}]}",
		"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, clusterIPs: ['10.96.0.1'], ports: [{port: 1, nodePort: 30000}]}}",
		"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv6, metadata: {name: a, labels: {kubernetes.io/service-name: b}}, endpoints: [{addresses: ['::1']}]}",
	} {
		f.Add([]byte(seed))
	}
	selects := &corev1.Service{Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 1, TargetPort: intstr.FromString("http")}}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse("f", data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x00\x1b") {
				t.Errorf("the error has control characters: %q", err)
			}
			return
		}
		text, err := m.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again", text)
		if err != nil {
			t.Fatalf("accepted, but not when written: %v\n%s", err, text)
		}
		if !equality.Semantic.DeepEqual(m, again) {
			t.Fatalf("changed by writing and reading:\n%s", text)
		}
		for _, pod := range m.Pods {
			if err := ValidatePod(pod); err != nil {
				t.Error(err)
			}
			pod.Status.PodIPs = []corev1.PodIP{{IP: "10.244.0.2"}}
			selects.Namespace = pod.Namespace
			if len(Slices(selects, m.Pods, "node")) != 1 {
				t.Error("not one slice")
			}
		}
		c := newCluster(t)
		if _, err := c.Apply(m); err != nil {
			return
		}
		if _, err := c.Objects().YAML(); err != nil {
			t.Error(err)
		}
	})
}
