package traffic

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"svcproxy/model"
)

func TestConnectionsAreSharedEqually(t *testing.T) {
	everyDataPlane(t, func(t *testing.T, w *cluster, d dataPlane, f model.Family) {
		p := newProxy(t, w, d, clusterConfig(f))
		sizes := []int{2, 3, 5, 10}
		for i, n := range sizes {
			p.mustSync(t, service(fmt.Sprintf("over-%d", n), clusterIP(f, i), firstServers(n)...))
		}
		for _, proto := range protocols {
			t.Run(proto.String(), func(t *testing.T) {
				for i, n := range sizes {
					y := newTally()
					many(w.clients[0], shareConnections(), proto, netip.AddrPortFrom(clusterIP(f, i), servicePorts[proto]), y)
					checkShares(t, y, f, proto, n)
				}
			})
		}
	})
}

func firstServers(n int) (list []int) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

// checkShares fails unless all connections were answered, by the first n servers, in equal shares.
func checkShares(t *testing.T, y *tally, f model.Family, proto model.Protocol, n int) {
	t.Helper()
	if y.failed > 0 {
		t.Fatalf("over %d endpoints: %d connections failed: %v", n, y.failed, y.examples)
	}
	counts := make([]int, n)
	for at, count := range y.answers {
		i := slices.IndexFunc(firstServers(n), func(i int) bool {
			return at == netip.AddrPortFrom(serverAddr(f, i), serverPorts[proto])
		})
		if i < 0 {
			t.Fatalf("%d connections were answered by %s, which is no endpoint", count, at)
		}
		counts[i] = count
	}
	p := equalSharesP(counts)
	t.Logf("over %d endpoints: p = %.4f for %v", n, p, counts)
	if p < leastP {
		t.Errorf("over %d endpoints: shares are unequal: p = %v for %v", n, p, counts)
	}
}
