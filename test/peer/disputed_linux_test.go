package peer

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"svcproxy/model"
)

// Two Services claim an external address, and a third one claims the ClusterIP of the first. With svcproxy the
// older holds the external address and the ClusterIP is nobody else's, as long as they are there; kube-proxy
// leaves it to chance, which is no test's to tell.
func TestDisputedFrontends(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	claims := func(to func(model.Family, int) netip.Addr) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{to(model.IPv4, 1).String(), to(model.IPv6, 1).String()}
		}
	}
	older := subject{name: "zz-older", endpoints: at(here)}
	younger := subject{name: "aa-younger", endpoints: at(elsewhere), change: claims(externalIP)}
	thief := subject{name: "aa-thief", endpoints: at(elsewhere), change: claims(clusterIP)}
	c.apply(t, older.service(1), older.slices())
	second := time.NewTimer(1100 * time.Millisecond) // by which the API server tells ages
	defer second.Stop()
	<-second.C
	c.apply(t, younger.service(2), younger.slices())
	c.apply(t, thief.service(3), thief.slices())

	var nodes []*node
	for _, mode := range modes {
		n := c.newNode(t, svcproxy+" "+mode)
		c.start(t, n, svcproxy, mode, flagsOf(runs[0].flags)...)
		nodes = append(nodes, n)
	}
	c.settle(t, nodes...)
	check := func(what string, to func(model.Family, int) netip.Addr, holder pod) {
		t.Helper()
		for _, n := range nodes {
			for _, f := range model.Families {
				q := probe{subject: what, from: "pod-3", protocol: model.TCP, to: netip.AddrPortFrom(to(f, 1), servicePort)}
				got := observation{}
				if err := n.ask(got, q, 8); err != nil {
					t.Fatal(err)
				}
				if answerer := netip.AddrPortFrom(holder.addr(f), 8080); len(got) != 1 || !got.from(answerer) {
					t.Errorf("%s: %s: %s, want %s alone", n.name, q, got, answerer)
				}
			}
		}
	}
	check("external IP of the older", externalIP, here)
	check("ClusterIP", clusterIP, here)
	c.remove(t, older.name)
	c.settle(t, nodes...)
	check("external IP left by the older", externalIP, elsewhere)
}
