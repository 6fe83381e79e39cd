package peer

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"svcproxy/model"
	"svcproxy/test/nstest"
)

// modes are the proxy modes that are compared.
var modes = []string{"iptables", "nftables"}

// A run is a set of flags that both programs have, to compare them with.
type run struct{ name, flags string }

var runs = []run{
	{"cluster-cidr", "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48 --nodeport-addresses=0.0.0.0/0,::/0"},
	{"no-detector", "--nodeport-addresses=primary"},
	{"masquerade-all", "--masquerade-all --nodeport-addresses=172.18.0.0/16,127.0.0.0/8,fc00:f853:ccd:e793::/64 --iptables-localhost-nodeports=false"},
}

// The same packets get the same answers, refusals and source addresses from svcproxy and from kube-proxy, save
// for the differences that are listed. In the short size what it takes is left to 'make test-peer'.
func TestSamePackets(t *testing.T) {
	t.Parallel()
	if nstest.Sized(0, 1) == 0 {
		return
	}
	c := newCluster(t)
	for i, s := range subjects {
		c.apply(t, s.service(i+1), s.slices())
	}
	var seen ledger
	for _, r := range runs {
		t.Run(r.name, func(t *testing.T) {
			for _, p := range c.pairs(t, r) {
				t.Run(p.mode, func(t *testing.T) { p.compare(t, &seen) })
			}
		})
	}
	if !t.Failed() {
		seen.checkAllSeen(t)
	}
}

// A pair are two nodes alike, but for their proxy.
type pair struct {
	mode         string
	theirs, ours *node
}

// pairs starts the proxies of a run. They have programmed everything when it returns.
func (c *cluster) pairs(t *testing.T, r run) (all []pair) {
	t.Helper()
	var nodes []*node
	for _, mode := range modes {
		p := pair{mode, c.newNode(t, kubeProxy+" "+mode), c.newNode(t, svcproxy+" "+mode)}
		c.start(t, p.theirs, kubeProxy, mode, flagsOf(r.flags)...)
		c.start(t, p.ours, svcproxy, mode, flagsOf(r.flags)...)
		all, nodes = append(all, p), append(nodes, p.theirs, p.ours)
	}
	c.settle(t, nodes...)
	return all
}

func (p pair) compare(t *testing.T, seen *ledger) {
	families := model.Families[:nstest.Sized(1, 2)]
	for _, f := range families {
		p.compareAffinity(t, f, seen)
		p.compareHealth(t, f)
	}
	var mu sync.Mutex
	var unlisted []string
	count := 0
	for _, f := range families {
		each(t, probes(f), func(q probe) {
			theirs, ours, err := observe(q, p.theirs, p.ours)
			mu.Lock()
			defer mu.Unlock()
			count++
			switch {
			case err != nil:
				t.Error(err)
			case !theirs.equal(ours) && !seen.note(p.mode, q, theirs, ours):
				unlisted = append(unlisted, fmt.Sprintf("%s, %s: kube-proxy: %s; svcproxy: %s", p.mode, q, theirs, ours))
			}
		})
	}
	slices.Sort(unlisted)
	for _, d := range unlisted {
		t.Error(d)
	}
	t.Logf("%d probes", count)
}

func (p pair) compareAffinity(t *testing.T, f model.Family, seen *ledger) {
	t.Helper()
	for i, s := range subjects {
		if !s.sticky() {
			continue
		}
		for _, protocol := range s.protocols() {
			for _, from := range stickyAskers {
				theirs, err := p.theirs.stick(i+1, from, protocol, f)
				if err != nil {
					t.Fatal(err)
				}
				ours, err := p.ours.stick(i+1, from, protocol, f)
				if err != nil {
					t.Fatal(err)
				}
				q := probe{subject: s.name, kind: sticky, from: from, protocol: protocol}
				if !theirs.equal(ours) && !seen.note(p.mode, q, theirs, ours) {
					t.Errorf("%s, %s: kube-proxy: %s; svcproxy: %s", p.mode, q, theirs, ours)
				}
			}
		}
	}
}
