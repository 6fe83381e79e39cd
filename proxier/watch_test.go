package proxier

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	ktesting "k8s.io/client-go/testing"

	"svcproxy/model"
	"svcproxy/plan"
)

// watchAPI runs an APISource on a fake API server.
func watchAPI(t *testing.T, client *fake.Clientset) *Store {
	t.Helper()
	store := NewStore("n1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewClientSource(client, "n1", zap.NewNop()).Run(ctx, store) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	<-store.WaitSynced()
	return store
}

func (s *Store) has(service, slice string) (found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.services[named(service)] != nil && s.slices[model.SliceName{Namespace: "default", Name: slice}] != nil
}

func TestAnAPIServerIsFollowed(t *testing.T) {
	web := parse[corev1.Service](t, goodSpec)
	web.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	ends := parse[discoveryv1.EndpointSlice](t, sliceText)
	node := parse[corev1.Node](t, `{metadata: {name: n1}, spec: {podCIDRs: [10.244.0.0/24]}}`)
	cidr := parse[networkingv1.ServiceCIDR](t, `{metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16]}}`)
	client := fake.NewClientset(web, ends, node, cidr)
	client.Resources = []*metav1.APIResourceList{{GroupVersion: "networking.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "servicecidrs"}}}}
	store := watchAPI(t, client)
	if !store.has("web", "web-1") {
		t.Fatal("synced without the Service and its slice")
	}
	eventually(t, "Node and ServiceCIDR", func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return store.node != nil && len(store.serviceCIDRs) == 1
	})

	changed := web.DeepCopy()
	changed.Spec.ClusterIP = "nonsense"
	second := parse[corev1.Service](t, `{metadata: {namespace: default, name: second}, spec: {clusterIP: 10.96.0.6, ports: [{port: 80}]}}`)
	services := client.CoreV1().Services("default")
	if _, err := services.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := services.Create(t.Context(), second, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new Service", func() bool { return store.has("second", "web-1") })
	if !store.has("web", "web-1") {
		t.Error("the last good version of a broken Service is gone")
	}
	if err := services.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion", func() bool { return !store.has("web", "web-1") })
}

func TestAnAPIServerWithoutServiceCIDRsIsFollowedToo(t *testing.T) {
	client := fake.NewClientset(parse[corev1.Service](t, goodSpec), parse[discoveryv1.EndpointSlice](t, sliceText))
	if store := watchAPI(t, client); !store.has("web", "web-1") {
		t.Error("synced without the Service and its slice")
	}
}

// Changes of the Node's addresses, pod CIDRs and zone come from the API server to the kernel with no Service
// having changed, and nothing is programmed before the Node is known.
func TestTheNodeIsFollowedToTheKernel(t *testing.T) {
	node := parse[corev1.Node](t, nodeText)
	client := fake.NewClientset(parse[corev1.Service](t, goodSpec), node)
	kernel := newFakeKernel()
	kernel.fail = func(c plan.Change) error {
		if len(c.Config.NodeAddrs) == 0 {
			t.Errorf("programmed without the Node: %+v", c.Config)
		}
		return nil
	}
	log, logs := quiet()
	p, err := New(Options{
		Source: NewClientSource(client, "n1", log), Backends: map[model.Family]Backend{model.IPv4: kernel},
		Log: zap.NewNop(), NodeName: "n1", Settings: Settings{DetectLocalMode: NodeCIDR},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	becomes := func(zone, cidr, port string) {
		t.Helper()
		eventually(t, "the Node's zone, pod CIDR and address "+port, func() bool {
			kernel.mu.Lock()
			defer kernel.mu.Unlock()
			c := kernel.config
			return c.Zone == zone && slices.Equal(c.Detector.Prefixes, mustPrefixes(cidr)) && slices.Equal(c.NodePorts.Prefixes, mustPrefixes(port))
		})
	}
	becomes("z1", "10.244.1.0/24", "192.0.2.10/32")
	node = node.DeepCopy()
	node.Labels[corev1.LabelTopologyZone] = "z2"
	node.Spec.PodCIDRs = []string{"10.244.7.0/24"}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.99"}}
	if _, err := client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes("z2", "10.244.7.0/24", "192.0.2.99/32")
	if err := client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion", func() bool { return logs.FilterMessageSnippet("the Node was deleted").Len() == 1 })
	second := parse[corev1.Service](t, `{metadata: {namespace: default, name: second}, spec: {clusterIP: 10.96.0.6, ports: [{port: 80}]}}`)
	if _, err := client.CoreV1().Services("default").Create(t.Context(), second, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second Service", func() bool { return len(kernel.programmed()) == 2 })
	becomes("z2", "10.244.7.0/24", "192.0.2.99/32")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	kernel.obeyed(t)
}

func TestANodeThatCannotBeReadIsNotWaitedForForever(t *testing.T) {
	client := fake.NewClientset(parse[corev1.Service](t, goodSpec))
	client.PrependReactor("list", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("forbidden")
	})
	log, logs := quiet()
	source := NewClientSource(client, "n1", log)
	source.nodeWait = 10 * time.Millisecond
	store := NewStore("n1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- source.Run(ctx, store) }()
	<-store.WaitSynced()
	if n := logs.FilterMessageSnippet("the Node can't be read").Len(); n != 1 {
		t.Errorf("said %d times that the Node can't be read", n)
	}
	cancel()
	<-done
}

func TestTrimmedObjectsConvertAlike(t *testing.T) {
	web, ends := parse[corev1.Service](t, goodSpec), parse[discoveryv1.EndpointSlice](t, sliceText)
	web.Annotations = map[string]string{"a": "b"}
	s1, _, _ := ConvertService(web)
	e1, _, _ := ConvertSlice(ends)
	for _, o := range []any{web, ends} {
		if _, err := trim(o); err != nil {
			t.Fatal(err)
		}
	}
	s2, _, _ := ConvertService(web)
	e2, _, _ := ConvertSlice(ends)
	if web.Annotations != nil || !s1.Equal(s2) || !e1.Equal(e2) {
		t.Errorf("got %+v and %+v", s2, e2)
	}
}

// quiet is a logger whose messages can be counted.
func quiet() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return zap.New(core), logs
}

func TestAnAPIServerOutOfReachIsSaidOnceAndNoObstacleForAnEnd(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close() // now connections are refused
	log, logs := quiet()
	source, err := NewAPISource(&rest.Config{Host: "http://" + address}, "n1", log)
	if err != nil {
		t.Fatal(err)
	}
	store := NewStore("n1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- source.Run(ctx, store) }()
	said := func(text string) []observer.LoggedEntry { return logs.FilterMessageSnippet(text).All() }
	eventually(t, "a message", func() bool { return len(said("can't be reached")) > 0 })
	cancel()
	select {
	case <-done:
	case <-time.After(time.Second):
		t.Error("Run still waits for the informers a second after its end")
	}
	if all := said("can't be reached"); len(all) != 1 || all[0].ContextMap()["server"] != "http://"+address {
		t.Errorf("said %v, want one message that names the server", all)
	}
	select {
	case <-store.WaitSynced():
		t.Error("synced without an API server")
	default:
	}
}

func TestAnAPIServerThatComesBackIsSaidToo(t *testing.T) {
	log, logs := quiet()
	answer := errors.New("refused")
	r := &reachLog{log: log, next: transport(func(*http.Request) (*http.Response, error) { return nil, answer })}
	for _, answer = range []error{nil, errors.New("refused"), errors.New("refused"), context.Canceled, nil, nil} {
		if _, err := r.RoundTrip(nil); err != answer {
			t.Fatalf("got %v, want %v", err, answer)
		}
	}
	var said []string
	for _, e := range logs.All() {
		said = append(said, e.Message)
	}
	expect(t, "said", said, []string{
		"the API server can't be reached; it is tried again, and meanwhile what is programmed stays",
		"the API server answers again",
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
