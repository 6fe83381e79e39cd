package nftables

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"svcproxy/model"
	"svcproxy/test/nstest"
)

// kubeProxyRules are those that kube-proxy 1.37.2 makes of a Service with one endpoint, one with two at a
// ClusterIP and an external IP, one with session affinity, and one without endpoints.
const kubeProxyRules = `
table ip kube-proxy {
	set cluster-ips { type ipv4_addr; elements = { 172.30.0.41, 172.30.0.44, 172.30.0.45, 172.30.0.46 }; }
	set affinity-GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80 { type ipv4_addr; flags dynamic,timeout; timeout 10800s; }
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }
	map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
	chain reject-chain { reject; }
	chain mark-for-masquerade { mark set mark or 0x4000; }
	chain service-ULMVA6XW-ns1/svc1/tcp/p80 { meta l4proto tcp dnat to 10.180.0.1:80; }
	chain service-LAUZTJTB-ns4/svc4/tcp/p80 {
		meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 10.180.0.4 . 80 , 1 : 10.180.0.5 . 8080 }
	}
	chain external-LAUZTJTB-ns4/svc4/tcp/p80 {
		mark set mark or 0x4000 comment "masquerade"
		goto service-LAUZTJTB-ns4/svc4/tcp/p80
	}
	chain endpoint-GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80 {
		update @affinity-GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80 { ip saddr }
		meta l4proto tcp dnat to 10.180.0.3:80
	}
	chain service-HVFWP5L3-ns5/svc5/tcp/p80 {
		ip saddr @affinity-GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80 goto endpoint-GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80
		numgen random mod 1 vmap { 0 : goto endpoint-GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80 }
	}
	chain nat-prerouting { type nat hook prerouting priority -100; ip daddr . meta l4proto . th dport vmap @service-ips; }
}
add element ip kube-proxy service-ips { 172.30.0.41 . tcp . 80 : goto service-ULMVA6XW-ns1/svc1/tcp/p80 }
add element ip kube-proxy service-ips { 172.30.0.44 . tcp . 80 : goto service-LAUZTJTB-ns4/svc4/tcp/p80 }
add element ip kube-proxy service-ips { 192.168.99.33 . tcp . 80 : goto external-LAUZTJTB-ns4/svc4/tcp/p80 }
add element ip kube-proxy service-ips { 172.30.0.45 . tcp . 80 : goto service-HVFWP5L3-ns5/svc5/tcp/p80 }
add element ip kube-proxy service-nodeports { tcp . 30044 : goto external-LAUZTJTB-ns4/svc4/tcp/p80 }
add element ip kube-proxy no-endpoint-nodeports { tcp . 30044 comment "ns4/svc4:p80" : drop }
add element ip kube-proxy no-endpoint-services { 192.168.99.33 . tcp . 80 comment "ns4/svc4:p80" : drop }
add element ip kube-proxy no-endpoint-nodeports { tcp . 30046 comment "ns6/svc6:p80" : goto reject-chain }
add element ip kube-proxy no-endpoint-services { 172.30.0.46 . tcp . 80 comment "ns6/svc6:p80" : goto reject-chain }
`

func TestKubeProxysRulesAreRead(t *testing.T) {
	ns := nstest.New(t)
	o := Options{Family: model.IPv4, NetNS: ns.Path()}
	if v, err := ObserveKubeProxy(t.Context(), o); err != nil || len(v.Services) != 0 {
		t.Errorf("without a table: %+v, %v", v, err)
	}
	ns.RunInput(t, kubeProxyRules, "nft", "-f", "-")
	got, err := ObserveKubeProxy(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	name := func(ns, svc string) model.ServicePortName {
		return model.ServicePortName{Service: model.ServiceName{Namespace: ns, Name: svc}, Port: "p80", Protocol: model.TCP}
	}
	service := func(n model.ServicePortName, frontends []model.FrontendView, endpoints ...string) model.ServiceView {
		s := model.ServiceView{Name: n.String(), Protocol: "TCP", Chain: model.ServiceChain(n), Frontends: frontends, Endpoints: []model.EndpointView{}}
		for _, e := range endpoints {
			ap := netip.MustParseAddrPort(e)
			s.Endpoints = append(s.Endpoints, model.EndpointView{Chain: model.EndpointChain(n, e), Address: ap.Addr(), Port: ap.Port(), Probability: 1 / float64(len(endpoints))})
		}
		return s
	}
	at := func(kind, addr, action string) model.FrontendView {
		return model.FrontendView{Type: kind, Address: netip.MustParseAddr(addr), Port: 80, Action: action}
	}
	nodePort := func(port uint16, action string) model.FrontendView {
		return model.FrontendView{Type: "NodePort", Port: port, Action: action}
	}
	want := model.View{Backend: "nftables (kube-proxy)", Services: []model.ServiceView{
		service(name("ns1", "svc1"), []model.FrontendView{at("ClusterIP", "172.30.0.41", "")}, "10.180.0.1:80"),
		service(name("ns4", "svc4"), []model.FrontendView{nodePort(30044, ""), at("ClusterIP", "172.30.0.44", ""), at("External", "192.168.99.33", "")}, "10.180.0.4:80", "10.180.0.5:8080"),
		service(name("ns5", "svc5"), []model.FrontendView{at("ClusterIP", "172.30.0.45", "")}, "10.180.0.3:80"),
		service(name("ns6", "svc6"), []model.FrontendView{nodePort(30046, "reject"), at("ClusterIP", "172.30.0.46", "reject")}),
	}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
