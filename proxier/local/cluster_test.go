package local

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"svcproxy/proxier"
)

// recorder is a sink that keeps what it was given.
type recorder struct {
	mu      sync.Mutex
	held    *proxier.Objects
	updates []proxier.Objects
	synced  chan struct{}
}

func newRecorder() *recorder {
	return &recorder{held: proxier.NewObjects(), synced: make(chan struct{})}
}

func (r *recorder) Synced() { close(r.synced) }

func (r *recorder) Update(o proxier.Objects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.updates = append(r.updates, o)
	merge(r.held.Services, o.Services)
	merge(r.held.Slices, o.Slices)
	merge(r.held.Nodes, o.Nodes)
	maps.Copy(r.held.ServiceCIDRs, o.ServiceCIDRs)
}

func merge[K comparable, V any](held, update map[K]*V) {
	for k, v := range update {
		if v == nil {
			delete(held, k)
		} else {
			held[k] = v
		}
	}
}

// last is the last update, and how many there were.
func (r *recorder) last() (proxier.Objects, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.updates[len(r.updates)-1], len(r.updates)
}

func newCluster(t testing.TB) *Cluster {
	t.Helper()
	c, err := New(Config{NodeName: "node", NodeAddrs: addrs("172.18.0.2", "fc00:f853:ccd:e793::2"), Ranges: DefaultRanges(true)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// follow runs a cluster with a recorder until the test ends.
func follow(t testing.TB, c *Cluster) *recorder {
	t.Helper()
	r := newRecorder()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, r) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Run returned %v", err)
		}
	})
	<-r.synced
	return r
}

func apply(t testing.TB, c *Cluster, m *Manifests) *Manifests {
	t.Helper()
	taken, err := c.Apply(m)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

const webManifests = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {containers: [{name: main, image: 'host:bash', ports: [{name: http, containerPort: 8080}]}]}
`

func TestAClusterIsASource(t *testing.T) {
	c := newCluster(t)
	taken := apply(t, c, parse(t, webManifests))
	pod := taken.Pods[0]
	if pod.Status.PodIP != "10.244.0.2" || len(pod.Status.PodIPs) != 2 || pod.Status.HostIP != "172.18.0.2" || pod.Spec.NodeName != "node" || pod.UID == "" ||
		pod.Status.Phase != corev1.PodPending || pod.CreationTimestamp.IsZero() {
		t.Errorf("pod %+v", pod)
	}
	r := follow(t, c)
	if len(r.held.Services) != 1 || len(r.held.Slices) != 2 || r.held.Nodes["node"] == nil || len(r.held.ServiceCIDRs["kubernetes"]) != 2 {
		t.Fatalf("given %+v", r.held)
	}
	for _, s := range r.held.Slices {
		if len(s.Endpoints) != 1 || s.Endpoints[0].Ready {
			t.Errorf("before the pod is ready: %+v", s)
		}
	}
	if err := c.SetPod(setReady(pod, true)); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.held.Slices {
		if len(s.Endpoints) != 1 || !s.Endpoints[0].Ready || s.Ports[0].Port != 8080 {
			t.Errorf("ready: %+v", s)
		}
	}
	pod.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	if err := c.SetPod(pod); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.held.Slices {
		if e := s.Endpoints[0]; e.Ready || !e.Serving || !e.Terminating {
			t.Errorf("terminating: %+v", s)
		}
	}
	apply(t, c, parse(t, webManifests))
	for _, s := range r.held.Slices {
		if e := s.Endpoints[0]; e.Ready || !e.Serving || !e.Terminating {
			t.Errorf("applied again while it ends: %+v", s)
		}
	}
	c.DeletePod(key("web-1"))
	for _, s := range r.held.Slices {
		if len(s.Endpoints) != 0 {
			t.Errorf("gone: %+v", s)
		}
	}
	wantError(t, c.SetPod(pod), "Pod default/web-1")
	c.DeleteService(key("web"))
	if len(r.held.Services)+len(r.held.Slices) != 0 {
		t.Errorf("left over: %+v", r.held)
	}
}

func TestApplyingTheSameAgainChangesNothing(t *testing.T) {
	c := newCluster(t)
	m := parse(t, folderPod+"---\n"+folderService)
	first := apply(t, c, m)
	if err := c.SetPod(setReady(first.Pods[0], true)); err != nil {
		t.Fatal(err)
	}
	before := c.Objects()
	apply(t, c, m)
	if after := c.Objects(); !equality.Semantic.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
}

func TestApplyTakesAllOrNone(t *testing.T) {
	c := newCluster(t)
	apply(t, c, parse(t, webManifests))
	before := c.Objects()
	for _, bad := range []struct{ manifests, first, second string }{
		{"{apiVersion: v1, kind: Service, metadata: {name: new}, spec: {ports: [{port: 1}]}}\n---\n" +
			"{apiVersion: v1, kind: Service, metadata: {name: clash}, spec: {clusterIP: " + c.Services()[0].Spec.ClusterIP + ", ports: [{port: 1}]}}",
			"Service default/clash", "Service default/web"},
		{"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.10, ports: [{port: 1}]}}\n---\n" +
			"{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.10, ports: [{port: 1}]}}",
			"Service default/b", "Service default/a"},
		{"{apiVersion: v1, kind: Service, metadata: {name: new}, spec: {ports: [{port: 1}]}}\n---\n" +
			"{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {svcproxy/pod-ips: 10.244.0.2}}, spec: {containers: [{name: a, image: b}]}}",
			"Pod default/p", "Pod default/web-1"},
		{"{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: elsewhere, containers: [{name: a, image: b}]}}", "spec.nodeName", "node"},
		{"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: a, labels: {kubernetes.io/service-name: web}}}",
			"EndpointSlice default/a", "Service default/web"},
	} {
		_, err := c.Apply(parse(t, bad.manifests))
		wantError(t, err, bad.first, bad.second)
		if !equality.Semantic.DeepEqual(before, c.Objects()) {
			t.Fatalf("%s: something was taken", bad.manifests)
		}
	}
	if got := apply(t, c, parse(t, "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: a, image: b}]}}")); got.Pods[0].Status.PodIP != "10.244.0.3" {
		t.Errorf("failed applies used addresses up: %s", got.Pods[0].Status.PodIP)
	}
}

func TestWantedAddressesComeBeforeOthers(t *testing.T) {
	c := newCluster(t)
	taken := apply(t, c, parse(t, `
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.1.1, ports: [{port: 1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: b}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, annotations: {svcproxy/pod-ips: 10.244.0.2}}, spec: {containers: [{name: a, image: b}]}}
`))
	if ips := taken.Services[0].Spec.ClusterIP + " " + taken.Services[1].Spec.ClusterIP; ips != "10.96.1.2 10.96.1.1" {
		t.Errorf("Services: %s", ips)
	}
	if ips := taken.Pods[0].Status.PodIP + " " + taken.Pods[1].Status.PodIP; ips != "10.244.0.3 10.244.0.2" {
		t.Errorf("pods: %s", ips)
	}
}

func TestAServiceThatChangesKeepsItsAddress(t *testing.T) {
	c := newCluster(t)
	r := follow(t, c)
	apply(t, c, parse(t, webManifests))
	ip := c.Services()[0].Spec.ClusterIP
	changed := parse(t, webManifests)
	changed.Services[0].Spec.Selector = map[string]string{"app": "db"}
	taken := apply(t, c, changed)
	if got := taken.Services[0]; got.Spec.ClusterIP != ip || got.UID == "" {
		t.Errorf("got %+v", got)
	}
	for _, s := range r.held.Slices {
		if len(s.Endpoints) != 0 {
			t.Errorf("still selects: %+v", s)
		}
	}
	// The index of selectors follows too.
	pod, _ := c.Pod(key("web-1"))
	pod.Labels = map[string]string{"app": "db"}
	if err := c.SetPod(pod); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.held.Slices {
		if len(s.Endpoints) != 1 {
			t.Errorf("does not select: %+v", s)
		}
	}
}

func TestSlicesOfManifestsAreGiven(t *testing.T) {
	c := newCluster(t)
	apply(t, c, parse(t, `
{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: a, labels: {kubernetes.io/service-name: outside}},
 ports: [{port: 80}], endpoints: [{addresses: [172.18.0.9]}]}
`))
	r := follow(t, c)
	if len(r.held.Slices) != 1 || len(c.EndpointSlices()) != 1 {
		t.Errorf("given %+v", r.held)
	}
	c.DeleteEndpointSlice(key("a"))
	if len(r.held.Slices) != 0 {
		t.Errorf("still there: %+v", r.held)
	}
}

// manyServices is a cluster with a Service and a pod for each number.
func manyServices(t testing.TB, n int) (*Cluster, *Manifests) {
	m := &Manifests{}
	for i := range n {
		s := service(t, "{ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}")
		s.Name, s.Spec.Selector = fmt.Sprint("s", i), map[string]string{"all": "yes", "app": fmt.Sprint("a", i)}
		m.Services = append(m.Services, s)
		if i < 200 {
			m.Pods = append(m.Pods, simplePod(fmt.Sprint("p", i), map[string]string{"all": "yes", "app": fmt.Sprint("a", i)}))
		}
	}
	c := newCluster(t)
	return c, apply(t, c, m)
}

func TestOnePodsReadinessTouchesItsServicesAlone(t *testing.T) {
	c, m := manyServices(t, 1000)
	r := follow(t, c)
	_, before := r.last()
	if err := c.SetPod(setReady(m.Pods[7], true)); err != nil {
		t.Fatal(err)
	}
	update, after := r.last()
	if after != before+1 || len(update.Services)+len(update.Nodes)+len(update.ServiceCIDRs) != 0 || len(update.Slices) != 2 {
		t.Errorf("%d updates, the last %+v", after-before, update)
	}
	for name, s := range update.Slices {
		if s.Service.Name != "s7" {
			t.Errorf("%s was given too", name)
		}
	}
	m.Pods[7].Status.Message = "of no interest"
	if err := c.SetPod(m.Pods[7]); err != nil {
		t.Fatal(err)
	}
	if _, n := r.last(); n != after {
		t.Error("an update without a change")
	}
}

func BenchmarkReadinessAmong1000Services(b *testing.B) {
	c, m := manyServices(b, 1000)
	store := proxier.NewStore("node")
	go func() { _ = c.Run(b.Context(), store) }()
	<-store.WaitSynced()
	for i := 0; b.Loop(); i++ {
		if err := c.SetPod(setReady(m.Pods[7], i%2 == 0)); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever happens in whatever order, who followed the changes holds what a newcomer is given.
func TestChangesLeadToWhatThereIs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(t)
		follower := newRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx, follower) }()
		<-follower.synced
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			name := fmt.Sprint("n", rapid.IntRange(0, 4).Draw(rt, "name"))
			app := map[string]string{"app": fmt.Sprint(rapid.IntRange(0, 2).Draw(rt, "app"))}
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0:
				s := &corev1.Service{Spec: corev1.ServiceSpec{Selector: app, Ports: []corev1.ServicePort{{Port: 80}}}}
				s.Name = name
				proxier.DefaultService(s)
				apply(t, c, &Manifests{Services: []*corev1.Service{s}})
			case 1:
				apply(t, c, &Manifests{Pods: []*corev1.Pod{simplePod(name, app)}})
			case 2:
				if pod, known := c.Pod(key(name)); known {
					if err := c.SetPod(setReady(pod, rapid.Bool().Draw(rt, "ready"))); err != nil {
						rt.Fatal(err)
					}
				}
			case 3:
				c.DeletePod(key(name))
			case 4:
				c.DeleteService(key(name))
			}
		}
		cancel()
		<-done
		c.mu.Lock()
		defer c.mu.Unlock()
		if now := c.all(); !reflect.DeepEqual(follower.held.Services, now.Services) || !reflect.DeepEqual(follower.held.Slices, now.Slices) {
			rt.Fatalf("followed %+v\nthere is %+v", follower.held.Slices, now.Slices)
		}
	})
}

func TestObjectsAreManifests(t *testing.T) {
	c := newCluster(t)
	apply(t, c, parse(t, webManifests+"---\n"+folderPod[:len(folderPod)-1]+"\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: x}}"+
		"\n---\n{apiVersion: v1, kind: Secret, metadata: {name: hidden}, stringData: {k: v}}"))
	network, err := c.Objects().NetworkYAML()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "network.yaml")
	if err := os.WriteFile(path, network, 0o600); err != nil {
		t.Fatal(err)
	}
	read, errs := proxier.LoadManifests([]string{path})
	if len(errs) > 0 || len(read.Warnings) > 0 {
		t.Fatalf("the proxy says %v, %v", errs, read.Warnings)
	}
	r := follow(t, c)
	if !reflect.DeepEqual(read.Slices, r.held.Slices) || len(read.Services) != len(r.held.Services) || !read.Nodes["node"].Equal(*r.held.Nodes["node"]) {
		t.Errorf("read %+v\nheld %+v", read, r.held)
	}
	o := c.Objects()
	text, err := o.Manifests.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again := parse(t, string(text)) // with what the sandbox filled in, and without the slices that it makes
	if len(again.Pods) != 2 || len(again.EndpointSlices) != 0 || again.Services[0].Spec.ClusterIP != o.Services[0].Spec.ClusterIP {
		t.Errorf("got %+v", again)
	}
	second := newCluster(t)
	apply(t, second, again)
}

func TestAClusterIsSafeForConcurrentUse(t *testing.T) {
	c, m := manyServices(t, 20)
	follow(t, c)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			pod := m.Pods[i].DeepCopy()
			for n := range 50 {
				if err := c.SetPod(setReady(pod, n%2 == 0)); err != nil {
					t.Error(err)
				}
				c.Objects()
				c.DeleteService(types.NamespacedName{Namespace: "default", Name: fmt.Sprint("s", 10+i)})
			}
		})
	}
	all.Wait()
}
