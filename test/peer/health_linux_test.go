package peer

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"

	"svcproxy/model"
	"svcproxy/test/world"
)

// compareHealth asks the health-check node ports as a load balancer does.
func (p pair) compareHealth(t *testing.T, f model.Family) {
	t.Helper()
	for i, s := range subjects {
		port := s.service(i + 1).Spec.HealthCheckNodePort
		if port == 0 {
			continue
		}
		to := netip.AddrPortFrom(world.NodeAddr(f), uint16(port))
		theirs, ours := p.theirs.health(t, to), p.ours.health(t, to)
		if theirs != ours {
			t.Errorf("%s, health of %s at %s: kube-proxy: %s; svcproxy: %s", p.mode, s.name, to, theirs, ours)
		}
	}
}

// health returns the answer to a load balancer's question.
func (n *node) health(t *testing.T, to netip.AddrPort) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       n.Hosts[0].Netns.Dial,
	}}
	r, err := client.Get("http://" + to.String() + "/healthz")
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s weight %q %s", r.Status, r.Header.Get("X-Load-Balancing-Endpoint-Weight"), body)
}
