package bench

import (
	"testing"

	"svcproxy/test/nstest"
)

// baseChains are the nftables backend's chains that are there with any Services: prerouting, output and
// postrouting, the two that test sources, source-ranges, node-ports and no-endpoints.
const baseChains = 8

// chainClasses are the policy classes that need a chain of their own for the same number of endpoints.
const chainClasses = 1

// Chains and rules of the nftables backend follow the distinct numbers of endpoints, not the Services.
func TestChainsFollowDistinctCounts(t *testing.T) {
	s := size{services: nstest.Sized(200, 1000), endpoints: -1}
	c := newCluster(s)
	r := nft.measure(t, s, 1)
	if most := baseChains + c.distinct()*chainClasses; r.kernel.chains > most {
		t.Errorf("%v, %d distinct numbers: got %d chains, want at most %d", s, c.distinct(), r.kernel.chains, most)
	}
	small, large := nft.measure(t, size{services: 200, endpoints: 3}, 1), nft.measure(t, size{services: nstest.Sized(1000, 10000), endpoints: 3}, 1)
	if small.kernel.chains != large.kernel.chains || small.kernel.rules != large.kernel.rules {
		t.Errorf("more Services alike made more chains or rules: from %+v to %+v", small.kernel, large.kernel)
	}
}

// It is so for Services of every class: node ports, the policy Local, session affinity, source ranges.
func TestChainsDoNotGrowWithServicesOfAnyClass(t *testing.T) {
	small := nft.measure(t, size{services: 210, endpoints: 3, mixed: true}, 1)
	large := nft.measure(t, size{services: nstest.Sized(1050, 10500), endpoints: 3, mixed: true}, 1)
	t.Logf("from %+v to %+v", small.kernel, large.kernel)
	if small.kernel.chains != large.kernel.chains || small.kernel.rules != large.kernel.rules {
		t.Errorf("more Services of all classes made more chains or rules: from %+v to %+v", small.kernel, large.kernel)
	}
}

// What one change writes follows the endpoints of the Service that changed, not the Services.
func TestWritesFollowTheChange(t *testing.T) {
	const endpoints = 10
	for _, p := range []struct {
		peer
		// most rules or elements written for a Service of that many endpoints.
		most int
	}{
		// The endpoints, and one each of the hairpin set for the old and the new one.
		{nft, endpoints + 2},
		// The Service's chain, and the chain of each endpoint old and new.
		{iptLegacy, 2*(endpoints+1) + 4},
	} {
		t.Run(p.name, func(t *testing.T) {
			r := p.measure(t, size{services: nstest.Sized(100, 2000), endpoints: endpoints}, nstest.Sized(5, 20))
			if got := quantile(r.replaced, 1, writes); got > p.most {
				t.Errorf("an endpoint replaced: %d rules or elements written, want at most %d", got, p.most)
			}
			if got := quantile(r.replaced, 0, writes); got < 1 {
				t.Errorf("an endpoint replaced: %d rules or elements written", got)
			}
		})
	}
}
