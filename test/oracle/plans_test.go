package oracle

import (
	"testing"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/proxier"
)

// Both modes plan alike, and a manifest leads to the plan of the objects that it was printed from.
func TestManifestsReplay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kinds := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		c := drawCluster(t)
		for _, f := range model.Families {
			u := universes[f]
			n, err := c.plan(u, proxier.NFTables)
			if err != nil {
				t.Fatalf("%v\n%s", err, c.manifest())
			}
			i, err := c.plan(u, proxier.IPTables)
			if err != nil {
				t.Fatal(err)
			}
			all := packets(u, n)
			for _, p := range all {
				kinds[n.Trace(p).Verdict.String()]++
			}
			if err := comparePlans(trace(n, all), trace(i, all)); err != nil {
				t.Fatalf("%v\n%s", err, c.manifest())
			}
			l, err := c.saved(dir)
			if err == nil {
				err = samePlan(n, l.plan(u, proxier.NFTables))
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, c.manifest())
			}
		}
	})
	t.Log(kinds)
}
