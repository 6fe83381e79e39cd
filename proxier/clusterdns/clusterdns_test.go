package clusterdns

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"pgregory.net/rapid"

	"svcproxy/dns"
	"svcproxy/model"
	"svcproxy/test/nstest"
)

var config = dns.Config{Domain: "cluster.local", Pods: dns.PodsInsecure}

func service(namespace, name, clusterIP string, edits ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP, Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}},
	}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

func slice(namespace, service, name string, ready map[string]bool) *discoveryv1.EndpointSlice {
	port, portName := int32(8080), "http"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}
	for addr, is := range ready {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &is}})
	}
	return s
}

// answer is what a zone says, as one line.
func answer(z *dns.Zone, name string, qtype uint16) string {
	a := z.Answer(mdns.Question{Name: name, Qtype: qtype, Qclass: mdns.ClassINET})
	var texts []string
	for _, rr := range a.Answer {
		texts = append(texts, strings.Join(strings.Fields(rr.String())[4:], " "))
	}
	return strings.TrimSpace(mdns.RcodeToString[a.Rcode] + " " + strings.Join(texts, ","))
}

func TestConvert(t *testing.T) {
	got, err := Convert(service("default", "web", "10.96.0.1", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.1", "fd00::1"} }), nil)
	if err != nil || len(got.ClusterIPs) != 2 || len(got.Ports) != 1 || got.Ports[0].Port != 80 {
		t.Errorf("dual stack: %+v, %v", got, err)
	}
	got, err = Convert(service("default", "db", "None"), []*discoveryv1.EndpointSlice{slice("default", "db", "db-1", map[string]bool{"10.244.0.5": true, "10.244.0.6": false})})
	if err != nil || len(got.ClusterIPs) != 0 || len(got.Endpoints) != 1 || got.Endpoints[0].Addr != netip.MustParseAddr("10.244.0.5") || got.Endpoints[0].Ports[0].Port != 8080 {
		t.Errorf("headless: %+v, %v", got, err)
	}
	got, err = Convert(service("default", "out", "", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "www.example"
	}), nil)
	if err != nil || got.ExternalName != "www.example" {
		t.Errorf("ExternalName: %+v, %v", got, err)
	}
}

func TestConvertNamesWhatIsWrong(t *testing.T) {
	for want, edit := range map[string]func(*corev1.Service){
		"Service default/web: spec.clusterIPs[1]":  func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.1", "web"} },
		"Service default/web: spec.clusterIPs[0]":  func(s *corev1.Service) { s.Spec.ClusterIP = "" },
		"Service default/web: spec.ports[0]":       func(s *corev1.Service) { s.Spec.Ports[0].Port = 70000 },
		"Service default/web: spec.externalName":   func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
		"Service default/web: spec.ports[0]: no p": func(s *corev1.Service) { s.Spec.Ports[0].Protocol = "ICMP" },
	} {
		if _, err := Convert(service("default", "web", "10.96.0.1", edit), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	bad := slice("default", "web", "web-1", map[string]bool{"nowhere": true})
	if _, err := Convert(service("default", "web", "None"), []*discoveryv1.EndpointSlice{bad}); err == nil || !strings.Contains(err.Error(), "EndpointSlice default/web-1: endpoints[0].addresses") {
		t.Errorf("got %v", err)
	}
}

// Whatever the order of changes, the zone is the one that is made of the last state at once.
func TestFollowingIsLikeMakingAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, err := NewFollower(config, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		last := NewChanges()
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			c := NewChanges()
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
				switch rapid.IntRange(0, 3).Draw(t, "what") {
				case 0:
					ip := rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "None", "bad"}).Draw(t, "ip")
					c.Services[model.ServiceName{Namespace: "default", Name: name}] = service("default", name, ip)
				case 1:
					c.Services[model.ServiceName{Namespace: "default", Name: name}] = nil
				case 2:
					of := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "of")
					c.Slices[model.SliceName{Namespace: "default", Name: name}] = slice("default", of, name, map[string]bool{fmt.Sprintf("10.244.0.%d", step): true})
				case 3:
					c.Slices[model.SliceName{Namespace: "default", Name: name}] = nil
				}
			}
			f.Apply(c)
			for name, s := range c.Services {
				last.Services[name] = s
			}
			for name, s := range c.Slices {
				last.Slices[name] = s
			}
		}
		anew, err := NewFollower(config, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		want := anew.Apply(last)
		for _, name := range []string{"a", "b", "c"} {
			full := name + ".default.svc.cluster.local."
			for _, q := range []string{full, "_http._tcp." + full} {
				for _, qtype := range []uint16{mdns.TypeA, mdns.TypeSRV} {
					if got, want := answer(f.Zone(), q, qtype), answer(want, q, qtype); got != want {
						t.Fatalf("%s %s: %s, made anew: %s", q, mdns.TypeToString[qtype], got, want)
					}
				}
			}
		}
	})
}

const manifest = `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: %s
  ports: [{name: http, port: 80}]
`

// follow runs a source until the test ends, and returns how to see its latest zone.
func follow(t *testing.T, source Source) func() *dns.Zone {
	t.Helper()
	f, err := NewFollower(config, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	zones := make(chan *dns.Zone, 100)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, func(c Changes) { zones <- f.Apply(c) }) }()
	t.Cleanup(func() { stop(); <-ended })
	var last *dns.Zone
	return func() *dns.Zone {
		for {
			select {
			case last = <-zones:
			default:
				return last
			}
		}
	}
}

// says waits until the zone answers so.
func says(t *testing.T, zone func() *dns.Zone, name, want string) {
	t.Helper()
	nstest.Eventually(t, 10*time.Second, func() error {
		z := zone()
		if z == nil {
			return fmt.Errorf("no zone yet")
		}
		if got := answer(z, name, mdns.TypeA); got != want {
			return fmt.Errorf("%s: %s, want %s", name, got, want)
		}
		return nil
	})
}

const web = "web.default.svc.cluster.local."

// A ConfigMap's files are links into a folder that is exchanged as a whole.
func TestManifestsFollowAConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, content string) {
		t.Helper()
		err := os.Mkdir(filepath.Join(dir, version), 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, version, "objects.yaml"), []byte(content), 0o644)
		}
		if err == nil {
			err = os.Symlink(version, filepath.Join(dir, "..data_tmp"))
		}
		if err == nil {
			err = os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	publish("..1", fmt.Sprintf(manifest, "10.96.0.1"))
	if err := os.Symlink("..data/objects.yaml", filepath.Join(dir, "objects.yaml")); err != nil {
		t.Fatal(err)
	}
	zone := follow(t, NewManifests([]string{dir}, zaptest.NewLogger(t)))
	says(t, zone, web, "NOERROR 10.96.0.1")
	publish("..2", fmt.Sprintf(manifest, "10.96.0.2"))
	says(t, zone, web, "NOERROR 10.96.0.2")
	publish("..3", "apiVersion: v1\nkind: Service\nmetadata: {name: [\n")
	publish("..4", fmt.Sprintf(manifest, "10.96.0.4")+"---\n"+strings.Replace(fmt.Sprintf(manifest, "10.96.0.5"), "web", "shop", 1))
	says(t, zone, "shop.default.svc.cluster.local.", "NOERROR 10.96.0.5")
	says(t, zone, web, "NOERROR 10.96.0.4")
}

func TestABrokenManifestIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bad.yaml")
	for content, want := range map[string]string{
		"apiVersion: v1\nkind: Service\nmetadata: {}\n":                          "document 1: Service: metadata.name: missing",
		"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: 3}\n": "document 1: Service",
		"{": "document 1",
	} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadManifests([]string{file}); err == nil || !strings.Contains(err.Error(), "bad.yaml, "+want) {
			t.Errorf("%q: got %v, want %s", content, err, want)
		}
	}
}

func TestAnAPIServersObjectsAreFollowed(t *testing.T) {
	client := fake.NewClientset(service("default", "web", "10.96.0.1"), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "void"}})
	zone := follow(t, &API{client: client, log: zaptest.NewLogger(t)})
	says(t, zone, web, "NOERROR 10.96.0.1")
	says(t, zone, "void.svc.cluster.local.", "NOERROR") // it exists, and has nothing
	says(t, zone, "none.svc.cluster.local.", "NXDOMAIN")
	ctx := t.Context()
	if _, err := client.CoreV1().Services("default").Create(ctx, service("default", "db", "None"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice("default", "db", "db-1", map[string]bool{"10.244.0.5": true}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	says(t, zone, "db.default.svc.cluster.local.", "NOERROR 10.244.0.5")
	if err := client.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	says(t, zone, web, "NXDOMAIN")
}

// BenchmarkEndpointOf10000Services shows what one endpoint costs beside making all anew.
func BenchmarkEndpointOf10000Services(b *testing.B) {
	all := NewChanges()
	for i := range 10_000 {
		name := fmt.Sprintf("web-%d", i)
		all.Services[model.ServiceName{Namespace: "default", Name: name}] = service("default", name, "None")
		all.Slices[model.SliceName{Namespace: "default", Name: name}] = slice("default", name, name, map[string]bool{fmt.Sprintf("10.%d.%d.1", i/250, i%250): true})
	}
	f, err := NewFollower(config, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	begun := time.Now()
	f.Apply(all)
	whole := time.Since(begun)
	one := NewChanges()
	n := 0
	for b.Loop() {
		n++
		one.Slices[model.SliceName{Namespace: "default", Name: "web-7"}] = slice("default", "web-7", "web-7", map[string]bool{fmt.Sprintf("10.99.%d.%d", n/250%250, n%250): true})
		f.Apply(one)
	}
	b.ReportMetric(float64(whole)/(float64(b.Elapsed())/float64(b.N)), "times-as-fast-as-anew")
}
