package hostile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"svcproxy/model"
	"svcproxy/test/world"
)

// cluster is a world with the pods behind the healthy Services and one that uses them.
type cluster struct {
	*world.World
	servers []*world.Place
	client  *world.Place
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	w := world.New(t, world.Config{Pods: servers + 1, Ports: map[model.Protocol][]uint16{model.TCP: {serverPort}}})
	return &cluster{w, w.Pods[:servers], w.Pods[servers]}
}

// askHealthy fails the test unless every healthy Service answers.
func (w *cluster) askHealthy(t *testing.T) {
	t.Helper()
	for i := range healthyServices {
		for _, text := range []string{healthyClusterIP(i), healthyClusterIPv6(i)} {
			ip := netip.MustParseAddr(text)
			if !slices.Contains(world.Families(), model.FamilyOf(ip)) {
				continue
			}
			if err := w.ask(ip); err != nil {
				t.Errorf("healthy Service %s at %s: %v", healthyName(i), ip, err)
			}
		}
	}
}

// ask returns an error unless one of the servers answers at a healthy ClusterIP.
func (w *cluster) ask(ip netip.Addr) error {
	r, err := w.client.Ask(world.Question{Protocol: model.TCP, To: netip.AddrPortFrom(ip, healthyPort)})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(w.servers, func(p *world.Place) bool { return slices.Contains(p.Addrs, r.Endpoint.Addr()) }) {
		return fmt.Errorf("got %v", r)
	}
	return nil
}
