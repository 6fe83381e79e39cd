package nftables

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"svcproxy/model"
	"svcproxy/plan"
)

func TestViewShowsNamesFrontendsAndShares(t *testing.T) {
	name := model.ServicePortName{Service: model.ServiceName{Namespace: "kube-system", Name: "kube-dns"}, Port: "dns-tcp", Protocol: model.TCP}
	metrics := name
	metrics.Port = "metrics"
	vip := func(port uint16) plan.FrontendKey {
		return plan.FrontendKey{Addr: netip.MustParseAddr("10.96.0.10"), Protocol: model.TCP, Port: port}
	}
	rejected := plan.Route{Action: plan.Reject}
	p := planOf(plan.Config{Family: model.IPv4}, &plan.Service{Name: name.Service, Ports: []plan.ServicePort{
		{Name: name, Frontends: []plan.Frontend{{FrontendKey: vip(53)}}, Endpoints: []plan.Endpoint{
			{Addr: netip.MustParseAddr("10.244.0.3"), Port: 53}, {Addr: netip.MustParseAddr("10.244.0.4"), Port: 53}}},
		{Name: metrics, Frontends: []plan.Frontend{{FrontendKey: vip(9153), Pods: rejected, Node: rejected, Outside: rejected}}},
	}})
	got, err := json.Marshal(render1(t, p).View())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"backend":"nftables","services":[` +
		`{"name":"kube-system/kube-dns:dns-tcp","protocol":"TCP","chain":"KUBE-SVC-ERIFXISQEP7F7OF4",` +
		`"frontends":[{"type":"ClusterIP","address":"10.96.0.10","port":53}],` +
		`"endpoints":[{"chain":"KUBE-SEP-ZXMNUKOKXUTL2MK2","address":"10.244.0.3","port":53,"probability":0.5},` +
		`{"chain":"KUBE-SEP-SF3LG62VAE5ALYDV","address":"10.244.0.4","port":53,"probability":0.5}]},` +
		`{"name":"kube-system/kube-dns:metrics","protocol":"TCP","chain":"KUBE-SVC-JD5MR3NA4I4DYORP",` +
		`"frontends":[{"type":"ClusterIP","address":"10.96.0.10","port":9153,"action":"reject"}],"endpoints":[]}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestCommentsFitAndKeepTheChainsName(t *testing.T) {
	for _, n := range []model.ServicePortName{
		{Service: model.ServiceName{Namespace: "a", Name: "b"}, Protocol: model.UDP},
		{Service: model.ServiceName{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("s", 63)}, Port: strings.Repeat("p", 15), Protocol: model.TCP},
		{Service: model.ServiceName{Namespace: "a", Name: "b"}, Port: "\"~\\\n\x00é", Protocol: model.SCTP},
	} {
		c := comment(n, plan.LoadBalancer)
		if len(c) > maxComment || strings.ContainsAny(c, "\"\\\n\x00") {
			t.Errorf("comment %q", c)
		}
		title, kind := splitComment(c)
		if kind != plan.LoadBalancer {
			t.Errorf("comment %q: kind %s", c, kind)
		}
		if _, chain := parseName(title, n.Protocol); chain != model.ServiceChain(n) {
			t.Errorf("comment %q: chain %s, want %s", c, chain, model.ServiceChain(n))
		}
	}
}

func TestViewShowsEveryFrontendWithItsKindOnce(t *testing.T) {
	for _, f := range model.Families {
		b := builder{f}
		s := &model.Service{Name: serviceName(1), ClusterIPs: []netip.Addr{b.vip(1)}, ExternalIPs: []netip.Addr{b.outer(1)},
			LoadBalancerIPs: []netip.Addr{b.outer(2)}, ExternalLocal: true,
			Ports: []model.ServicePort{{Name: strings.Repeat("p", 63), Protocol: model.TCP, Port: 80, NodePort: 30080}}}
		s.Name.Name = strings.Repeat("s", 63)
		sl := &model.Slice{Service: s.Name, Family: f, Ports: []model.SlicePort{{Name: s.Ports[0].Name, Protocol: model.TCP, Port: 8080}},
			Endpoints: []model.Endpoint{{Addr: b.endpoint(1).Addr, Ready: true, Serving: true, NodeName: "there"},
				{Addr: b.endpoint(2).Addr, Ready: true, Serving: true, NodeName: "here"}}}
		p := plan.Build(b.config(), []plan.Input{{Name: s.Name, Service: s, Slices: []*model.Slice{sl}}})
		v := render1(t, p).View()
		if len(v.Services) != 1 {
			t.Fatalf("%s: %d Services: %+v", f, len(v.Services), v.Services)
		}
		got := map[model.FrontendView]bool{}
		for _, fe := range v.Services[0].Frontends {
			got[fe] = true
		}
		for _, want := range []model.FrontendView{{Type: "ClusterIP", Address: b.vip(1), Port: 80}, {Type: "ExternalIP", Address: b.outer(1), Port: 80},
			{Type: "LoadBalancer", Address: b.outer(2), Port: 80}, {Type: "NodePort", Port: 30080}} {
			if !got[want] {
				t.Errorf("%s: no %+v in %+v", f, want, v.Services[0].Frontends)
			}
		}
		if len(got) != 4 || len(v.Services[0].Frontends) != 4 || len(v.Services[0].Endpoints) != 2 || v.Services[0].Endpoints[0].Probability != 0.5 {
			t.Errorf("%s: %+v", f, v.Services[0])
		}
	}
}
