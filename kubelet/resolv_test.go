package kubelet

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestResolvConf(t *testing.T) {
	two := "2"
	d := DNS{
		Servers: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Domain: "cluster.local",
		NodeServers: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, NodeSearches: []string{"example.org"},
	}
	const clusterSearch = "search default.svc.cluster.local svc.cluster.local cluster.local example.org"
	for name, c := range map[string]struct {
		dns    DNS
		policy v1.DNSPolicy
		config *v1.PodDNSConfig
		want   string
		warned bool
	}{
		"default":      {d, "", nil, clusterSearch + "\nnameserver 10.96.0.10\noptions ndots:5\n", false},
		"the node's":   {d, v1.DNSDefault, nil, "search example.org\nnameserver 192.0.2.1\n", false},
		"none":         {d, v1.DNSNone, &v1.PodDNSConfig{Nameservers: []string{"192.0.2.7"}}, "nameserver 192.0.2.7\n", false},
		"no cluster's": {DNS{Domain: "c"}, v1.DNSClusterFirst, nil, "", true},
		"merged": {d, v1.DNSClusterFirst, &v1.PodDNSConfig{
			Nameservers: []string{"192.0.2.7", "10.96.0.10"}, Searches: []string{"mine", "cluster.local"},
			Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}},
		}, clusterSearch + " mine\nnameserver 10.96.0.10\nnameserver 192.0.2.7\noptions ndots:2 edns0\n", false},
		"too many servers": {d, v1.DNSNone, &v1.PodDNSConfig{Nameservers: strings.Fields("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4")},
			"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n", true},
	} {
		pod := aPod(func(p *v1.Pod) { p.Spec.DNSPolicy, p.Spec.DNSConfig = c.policy, c.config })
		got, warnings := c.dns.resolvConf(pod)
		if got != c.want || len(warnings) > 0 != c.warned {
			t.Errorf("%s: %q, want %q; warnings %q", name, got, c.want, warnings)
		}
	}
}

func TestSearchLinesAreBounded(t *testing.T) {
	var many, long []string
	for i := range 40 {
		many = append(many, fmt.Sprint("s", i))
		long = append(long, strings.Repeat("x", 99)+fmt.Sprint(i+10))
	}
	if got := fitSearches(many); len(got) != maxSearches {
		t.Errorf("%d searches", len(got))
	}
	if got := strings.Join(fitSearches(long), " "); len(got) > maxSearchLength || len(got)+102 <= maxSearchLength {
		t.Errorf("%d characters", len(got))
	}
}

func TestHostnames(t *testing.T) {
	yes := true
	pod := aPod(func(p *v1.Pod) {
		p.Name = strings.Repeat("a", 62) + "-b"
		p.Spec.Subdomain = "sub"
		p.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"x", "y"}}}
	})
	short := strings.Repeat("a", 62)
	if got := hostname(pod); got != short {
		t.Errorf("hostname %s", got)
	}
	pod.Spec.Hostname = "h"
	if got := kernelHostname(pod, "c.l"); got != "h" {
		t.Errorf("hostname %s", got)
	}
	pod.Spec.SetHostnameAsFQDN = &yes
	if got := kernelHostname(pod, "c.l"); got != "h.sub.default.svc.c.l" {
		t.Errorf("hostname %s", got)
	}
	hosts := etcHosts(pod, []string{"10.244.0.2", "fd00::2"}, "c.l")
	for _, want := range []string{"127.0.0.1\tlocalhost\n", "10.244.0.2\th.sub.default.svc.c.l\th\nfd00::2\th.sub.default.svc.c.l\th\n", "192.0.2.9\tx\ty\n"} {
		if !strings.Contains(hosts, want) {
			t.Errorf("no %q in\n%s", want, hosts)
		}
	}
}
