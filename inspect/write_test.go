package inspect

import (
	"bytes"
	"errors"
	"flag"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"svcproxy/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

func clusterIP(address string, port uint16) model.FrontendView {
	return model.FrontendView{Type: "ClusterIP", Address: netip.MustParseAddr(address), Port: port}
}

func endpoint(chain, address string, port uint16, p float64) model.EndpointView {
	return model.EndpointView{Chain: chain, Address: netip.MustParseAddr(address), Port: port, Probability: p}
}

// views are what the golden files show, each out of its order of writing.
func views() map[string]model.View {
	dns := model.ServiceView{
		Name: "kube-system/kube-dns:dns-tcp", Protocol: "TCP", Chain: "KUBE-SVC-ERIFXISQEP7F7OF4",
		Frontends: []model.FrontendView{clusterIP("10.96.0.10", 53)},
		Endpoints: []model.EndpointView{
			endpoint("KUBE-SEP-SF3LG62VAE5ALYDV", "10.244.0.4", 53, 0.5), endpoint("KUBE-SEP-ZXMNUKOKXUTL2MK2", "10.244.0.3", 53, 0.5),
		},
	}
	web := model.ServiceView{
		Name: "default/web:http", Protocol: "TCP", Chain: "KUBE-SVC-BAAAAAAAAAAAAAAA",
		Frontends: []model.FrontendView{clusterIP("10.96.0.50", 80)},
		Endpoints: []model.EndpointView{
			endpoint("KUBE-SEP-CAAAAAAAAAAAAAAA", "10.244.0.12", 8080, 1./3), endpoint("KUBE-SEP-DAAAAAAAAAAAAAAA", "10.244.0.11", 8080, 1./3),
			endpoint("", "10.244.0.9", 8080, 1./3),
		},
	}
	web6 := model.ServiceView{
		Name: web.Name, Protocol: web.Protocol, Chain: web.Chain,
		Frontends: []model.FrontendView{clusterIP("fd00:10:96::50", 80)},
		Endpoints: []model.EndpointView{endpoint("KUBE-SEP-FAAAAAAAAAAAAAAA", "fd00:10:244::9", 8080, 1)},
	}
	rejected := clusterIP("10.96.0.60", 443)
	rejected.Action = "reject"
	down := model.ServiceView{Name: "default/down", Protocol: "UDP", Chain: "KUBE-SVC-EAAAAAAAAAAAAAAA", Frontends: []model.FrontendView{rejected}}
	external := func(kind, address string, port uint16) model.FrontendView {
		return model.FrontendView{Type: kind, Address: netip.MustParseAddr(address), Port: port}
	}
	everywhere, dropped := model.FrontendView{Type: "NodePort", Port: 30080}, external("LoadBalancer", "192.0.2.2", 80)
	dropped.Action = "drop"
	outside := model.ServiceView{
		Name: "default/shop:http", Protocol: "TCP", Chain: "KUBE-SVC-GAAAAAAAAAAAAAAA",
		Frontends: []model.FrontendView{
			everywhere, clusterIP("10.96.0.70", 80), external("LoadBalancer", "192.0.2.1", 80), dropped, external("ExternalIP", "203.0.113.7", 80),
		},
		Endpoints: []model.EndpointView{endpoint("KUBE-SEP-HAAAAAAAAAAAAAAA", "10.244.0.21", 8080, 1)},
	}
	return map[string]model.View{
		"external": {Backend: "nftables", Services: []model.ServiceView{outside}},
		"cluster":  {Backend: "iptables", Services: []model.ServiceView{web6, dns, web, down}},
		"empty":    {Backend: "nftables"},
		"hostile":  hostile(),
	}
}

// nasty is a name that tries to break every format and the terminal.
const nasty = "ev\x1b[31mil/<svc a=\"b\">&'\\n\"]};\u202e\u009b2J\x7f\x00\n- x: {y}: |\t\xff\U000e0001日本"

func hostile() model.View {
	f := clusterIP("10.96.0.1", 1)
	f.Type, f.Action = nasty, nasty
	f.Address = netip.MustParseAddr("fe80::1%" + "\x1b]0;x\a")
	return model.View{Backend: nasty, Services: []model.ServiceView{{
		Name: nasty, Protocol: nasty, Chain: nasty, Frontends: []model.FrontendView{f, {}},
		Endpoints: []model.EndpointView{endpoint(nasty, "10.244.0.1", 1, 0.00001), {}},
	}}}
}

func write(t *testing.T, v model.View, format string, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, v, format, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGolden(t *testing.T) {
	for name, v := range views() {
		for _, format := range Formats() {
			golden(t, name+"."+format, write(t, v, format, Options{}))
		}
		golden(t, name+".color.tree", write(t, v, "tree", Options{Color: true}))
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestOrderOfTheViewDoesNotShow(t *testing.T) {
	v := views()["cluster"]
	turned := sorted(v)
	slices.Reverse(turned.Services)
	for _, s := range turned.Services {
		slices.Reverse(s.Frontends)
		slices.Reverse(s.Endpoints)
	}
	for _, format := range Formats() {
		if diff := cmp.Diff(string(write(t, v, format, Options{})), string(write(t, turned, format, Options{}))); diff != "" {
			t.Errorf("%s:\n%s", format, diff)
		}
	}
	if diff := cmp.Diff(views()["cluster"].Services, v.Services, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("writing changed the caller's view:\n%s", diff)
	}
}

func TestFilter(t *testing.T) {
	v := views()["cluster"]
	v.Services = append(v.Services, model.ServiceView{Name: "kube-system/kube-dns:dns"}, model.ServiceView{Name: "kube-system/kube-dns2:dns"})
	for service, want := range map[string][]string{
		"kube-system/kube-dns":         {"kube-system/kube-dns:dns-tcp", "kube-system/kube-dns:dns"},
		"kube-system/kube-dns:dns-tcp": {"kube-system/kube-dns:dns-tcp"},
		"default/down":                 {"default/down"},
		"default/down:":                nil,
		"kube-system":                  nil,
		"":                             nil,
	} {
		got := Filter(v, service)
		var names []string
		for _, s := range got.Services {
			names = append(names, s.Name)
		}
		if diff := cmp.Diff(want, names); diff != "" || got.Backend != "iptables" {
			t.Errorf("%q of %s (-want +got):\n%s", service, got.Backend, diff)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestErrors(t *testing.T) {
	v := views()["cluster"]
	var b bytes.Buffer
	if err := Write(&b, v, "text", Options{}); err == nil {
		t.Error("no error for a format that is none of the Formats")
	}
	if err := Write(brokenPipe{}, v, "tree", Options{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the writer's error came back as %v", err)
	}
	v.Services[0].Endpoints[0].Probability = math.NaN()
	if err := Write(&b, v, "json", Options{}); err == nil || b.Len() > 0 {
		t.Errorf("a share that JSON has no number for: error %v, %d bytes written", err, b.Len())
	}
}
