package hostile

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
	"svcproxy/proxier"
)

// FuzzManifest takes any file as far as the rules that it leads to.
func FuzzManifest(f *testing.F) {
	for _, text := range oddities {
		f.Add([]byte(text))
	}
	for _, o := range healthy() {
		text, err := document(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	g := newGenerator(1)
	for range 50 {
		f.Add(g.rawDocument())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "x.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		objects, _ := proxier.LoadManifests([]string{path})
		checkRules(t, objects)
	})
}

// FuzzObjects takes a Service and a slice of any content as far as the rules that they lead to.
func FuzzObjects(f *testing.F) {
	f.Add("kube-system", "kube-dns", "dns", "UDP", int32(53), "10.96.0.10", "fd00:10:96::a", "10.244.0.3", int32(53), "IPv4")
	for i, w := range words {
		f.Add(w, "web", "http", "TCP", int32(80), "10.96.0.10", "", "10.244.0.3", int32(8080), "IPv4")
		f.Add("default", w, "http", "TCP", int32(80), "10.96.0.10", "", "10.244.0.3", int32(8080), "IPv4")
		f.Add("default", "web", w, "TCP", int32(80), "10.96.0.10", "", "10.244.0.3", int32(8080), "IPv4")
		a := addresses[i%len(addresses)]
		f.Add("default", "web", "", protocols[i%len(protocols)], ports[i%len(ports)], a, "fd00:10:96::a", a, int32(80), w)
		f.Add("default", "web", "", "SCTP", int32(80), "fd00:10:96::a", a, a, ports[i%len(ports)], "IPv6")
	}
	f.Fuzz(func(t *testing.T, namespace, name, portName, protocol string, port int32, ip, second, endpoint string, endpointPort int32, kind string) {
		source := newFeed()
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{
				{Name: portName, Protocol: corev1.Protocol(protocol), Port: port, TargetPort: intstr.FromString(portName)}}},
		}
		if second != "" {
			service.Spec.ClusterIPs = append(service.Spec.ClusterIPs, second)
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressType(kind),
			Ports:       []discoveryv1.EndpointPort{{Name: &portName, Protocol: (*corev1.Protocol)(&protocol), Port: &endpointPort}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{endpoint}}, {Addresses: []string{"10.244.0.9"}}, {Addresses: []string{"fd00:10:244::9"}}},
		}
		source.give(proxier.NewStore(""), service, slice)
		checkRules(t, source.taken)
	})
}

// FuzzChanges makes any number of generated changes one by one, and wants of all the decisions what a fresh
// start decides.
func FuzzChanges(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, uint8(40))
	}
	f.Fuzz(func(t *testing.T, seed uint64, changes uint8) {
		g, source, store := newGenerator(seed), newFeed(), proxier.NewStore("")
		g.few = true
		trackers, planners := map[model.Family]*proxier.Tracker{}, map[model.Family]*plan.Planner{}
		for _, f := range model.Families {
			trackers[f], planners[f] = store.Tracker(f), plan.NewPlanner(settings.Config(f, model.Node{}, nil))
		}
		for range changes {
			if g.random.IntN(10) == 0 {
				g.n = g.random.IntN(g.n + 1) // names that are taken come again
			}
			source.give(store, g.service(), g.slice())
			for f, p := range planners {
				p.Update(trackers[f].Take().Inputs)
			}
		}
		for f, p := range planners {
			got, want := p.Plan(), source.taken.Plan(f, settings, "")
			if len(got.Services) != len(want.Services) {
				t.Fatalf("%s: %d Services were planned, want %d", f, len(got.Services), len(want.Services))
			}
			for name, s := range want.Services {
				if g := got.Services[name]; g == nil || !g.Equal(s) {
					t.Errorf("%s: %s was planned as %+v, want %+v", f, name, g, s)
				}
			}
		}
		checkRules(t, source.taken)
	})
}

// checkRules renders objects for both families and backends, and reads the text back where that can be done
// without a kernel.
func checkRules(t *testing.T, o *proxier.Objects) {
	t.Helper()
	for _, f := range model.Families {
		p := o.Plan(f, settings, "")
		nft, err := nftables.Render(p)
		if err != nil {
			t.Fatalf("nftables, %s: %v", f, err)
		}
		checkNFTText(t, nft.Text())
		ipt, err := iptables.Render(p)
		if err != nil {
			t.Fatalf("iptables, %s: %v", f, err)
		}
		read, err := iptables.Parse(f, ipt.Text())
		if err != nil {
			t.Fatalf("iptables, %s: read back: %v\n%s", f, err, ipt.Text())
		}
		if !read.Equal(ipt) {
			t.Fatalf("iptables, %s: read back otherwise than rendered:\n%s\nwant\n%s", f, read.Text(), ipt.Text())
		}
		checkViews(t, nft.View(), ipt.View())
	}
}

// comments, the renderer's own remarks and rest are what nft's text may consist of.
var (
	comments = regexp.MustCompile(`(?m) comment "[ -!#-\[\]-~]{1,128}"`)
	remarks  = regexp.MustCompile(`(?m)^\t+# [a-z0-9 .:;,@&-]*$`)
	rest     = regexp.MustCompile(`^[a-z0-9 \t\n.:;,@{}/+!=<>_|&-]*$`)
)

// checkNFTText fails the test if some name could end its comment, or the line.
func checkNFTText(t *testing.T, text string) {
	t.Helper()
	if left := remarks.ReplaceAllString(comments.ReplaceAllString(text, ""), ""); !rest.MatchString(left) {
		t.Fatalf("nftables: the text has what it must not have:\n%s", text)
	}
}

// checkViews fails the test unless both backends balance the same Services over the same endpoints.
func checkViews(t *testing.T, nft, ipt model.View) {
	t.Helper()
	endpoints := func(v model.View) map[string]int {
		found := map[string]int{}
		for _, s := range v.Services {
			if len(s.Endpoints) > 0 {
				found[s.Chain] = len(s.Endpoints)
			}
		}
		return found
	}
	n, i := endpoints(nft), endpoints(ipt)
	if len(n) != len(i) {
		t.Errorf("nftables balances %d Services, iptables %d", len(n), len(i))
	}
	for chain, count := range n {
		if i[chain] != count {
			t.Errorf("%s: nftables has %d endpoints, iptables %d", chain, count, i[chain])
		}
	}
}
