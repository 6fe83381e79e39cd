package iptables

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"svcproxy/model"
)

func TestViewOfKubeDNS(t *testing.T) {
	view := render(t, planOf(model.IPv4, kubeDNS(model.IPv4))).View()
	got, err := json.Marshal(view.Services[1])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"kube-system/kube-dns:dns-tcp","protocol":"TCP","chain":"KUBE-SVC-ERIFXISQEP7F7OF4",` +
		`"frontends":[{"type":"ClusterIP","address":"10.96.0.10","port":53}],` +
		`"endpoints":[{"chain":"KUBE-SEP-ZXMNUKOKXUTL2MK2","address":"10.244.0.3","port":53,"probability":0.5},` +
		`{"chain":"KUBE-SEP-SF3LG62VAE5ALYDV","address":"10.244.0.4","port":53,"probability":0.5}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if view.Backend != "iptables" || len(view.Services) != 3 {
		t.Errorf("backend %q, %d Services", view.Backend, len(view.Services))
	}
}

func TestViewOfManyServices(t *testing.T) {
	for _, f := range model.Families {
		p := planOf(f)
		for i := range 700 {
			s := service(f, i, i%8)
			p.Services[s.Name] = s
		}
		view := render(t, p).View()
		if len(view.Services) != len(p.Services) {
			t.Fatalf("%s: %d Services are seen, want %d", f, len(view.Services), len(p.Services))
		}
		for _, s := range view.Services {
			share := 0.0
			for _, e := range s.Endpoints {
				share += e.Probability
				if want := 1 / float64(len(s.Endpoints)); e.Probability < want-1e-8 || e.Probability > want+1e-8 {
					t.Errorf("%s: probability %v, want %v", s.Name, e.Probability, want)
				}
			}
			switch rejected := s.Frontends[0].Action == "reject"; {
			case rejected != (len(s.Endpoints) == 0), len(s.Frontends) != 1, s.Chain == "":
				t.Errorf("%+v", s)
			case !rejected && (share < 0.999999 || share > 1.000001):
				t.Errorf("%s: probabilities add up to %v", s.Name, share)
			}
		}
	}
}

// TestViewOfKubeProxy reads what kube-proxy programs for a Service of type LoadBalancer with Local policy
// and affinity, and for one without endpoints.
func TestViewOfKubeProxy(t *testing.T) {
	text, err := os.ReadFile("testdata/kube-proxy.ipv4")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(model.IPv4, string(text))
	if err != nil {
		t.Fatal(err)
	}
	view := r.View()
	names := []string{"ns4/svc4:p80", "ns5/svc5:p80"}
	if len(view.Services) != len(names) {
		t.Fatalf("%+v", view.Services)
	}
	local, rejected := view.Services[1], view.Services[0]
	if local.Name != names[1] || rejected.Name != names[0] {
		t.Errorf("names %q and %q", rejected.Name, local.Name)
	}
	var kinds []string
	for _, f := range local.Frontends {
		kinds = append(kinds, f.Type)
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, []string{"ClusterIP", "ExternalIP", "LoadBalancer", "NodePort"}) {
		t.Errorf("frontends %v", kinds)
	}
	if len(local.Endpoints) != 2 || local.Endpoints[0].Probability != 0.5 || local.Endpoints[1].Address.String() != "10.180.0.4" {
		t.Errorf("endpoints %+v", local.Endpoints)
	}
	if len(rejected.Endpoints) != 0 || rejected.Frontends[0].Action != "reject" {
		t.Errorf("Service without endpoints: %+v", rejected)
	}
}

func TestRulesThatCannotBeReadAreKeptAsTheyAreWritten(t *testing.T) {
	r, err := Parse(model.IPv4, `*nat
:PREROUTING ACCEPT [0:0]
:CNI-1 - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -s 10.0.0.1/255.0.0.255 -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A CNI-1 -s 10.0.0.1/255.0.0.255 -g KUBE-SVC-A
-A CNI-1 -m comment --comment "two
lines" -j ACCEPT
-A KUBE-SERVICES -d 10.0.0.1/255.0.0.255 -m recent --name "open -j RETURN
-A KUBE-SERVICES -m comment --comment "open
COMMIT
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.NAT.Jumps) != 1 || r.NAT.Jumps[0].Rule.Target != chainServices || !r.NAT.foreign["KUBE-SVC-A"] {
		t.Errorf("%+v", r.NAT)
	}
	rules := r.NAT.Chains[chainServices]
	for i, want := range []string{` -d 10.0.0.1/255.0.0.255 -m recent --name "open -j RETURN`, ` -m comment --comment "open`} {
		if got := string(rules[i].append(nil)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestParseOfHalfATableFails(t *testing.T) {
	text := "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j RETURN\n"
	if _, err := Parse(model.IPv4, text); err == nil || !strings.Contains(err.Error(), "nat") {
		t.Errorf("error is %v", err)
	}
}

func TestParsePassesOthersBy(t *testing.T) {
	r, err := Parse(model.IPv4, `*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j WHATEVER --with "odd
COMMIT
*nat
:PREROUTING ACCEPT [12:34]
:CNI-1 - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-SVC-A - [0:0]
[1:2] -A PREROUTING -p 47 -m set --match-set x src -j CNI-1
[1:2] -A CNI-1 -m conntrack --ctstate NEW -g KUBE-SVC-A
-A KUBE-SVC-A ! -p tcp -m addrtype --dst-type LOCAL -m recent --rcheck --name "a b" -j MARK --set-xmark 0x1/0x3
COMMIT
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.NAT.Chains) != 1 || !r.NAT.foreign["KUBE-SVC-A"] || len(r.NAT.Jumps) != 0 {
		t.Errorf("%+v", r.NAT)
	}
	want := ` -m recent --rcheck --name "a b" --mask 255.255.255.255 --rsource -m addrtype --dst-type LOCAL ! -p tcp -j MARK --set-xmark 0x1/0x3`
	if got := r.NAT.Chains["KUBE-SVC-A"][0]; string(got.append(nil)) != want {
		t.Errorf("got  %s\nwant %s", got.append(nil), want)
	}
}

// TestViewOfEveryClass shows each frontend with what becomes of a connection from outside.
func TestViewOfEveryClass(t *testing.T) {
	for _, f := range model.Families {
		view := render(t, classes(f)).View()
		if len(view.Services) != 3 {
			t.Fatalf("%+v", view)
		}
		for i, action := range []string{"", "drop", "reject"} {
			s := view.Services[i]
			want := []model.FrontendView{
				{Type: "NodePort", Port: uint16(30080 + i), Action: action},
				{Type: "ClusterIP", Address: in(f, fmt.Sprintf("10.96.0.%d", i+1)), Port: 80, Action: map[bool]string{true: action}[action == "reject"]},
				{Type: "ExternalIP", Address: in(f, fmt.Sprintf("198.51.100.1%d", i+1)), Port: 80, Action: action},
				{Type: "LoadBalancer", Address: in(f, fmt.Sprintf("198.51.100.2%d", i+1)), Port: 80, Action: action},
			}
			if !slices.Equal(s.Frontends, want) || (len(s.Endpoints) == 1) != (action != "reject") {
				t.Errorf("%s: %+v\nwant %+v", s.Name, s, want)
			}
		}
	}
}
