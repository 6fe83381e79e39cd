package hostile

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// seedEnv repeats a run: its value is the seed that the run printed.
const seedEnv = "SVCPROXY_TEST_SEED"

// seed returns a new seed, or the one to repeat, and prints it.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64()
	if text := os.Getenv(seedEnv); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
	}
	t.Logf("repeat with %s=%d", seedEnv, s)
	return s
}

// TestObjects gives thousands of objects as an API server would, which lets through more than it should.
func TestObjects(t *testing.T) {
	for _, c := range []struct {
		dataplane.Plane
		objects int
	}{
		{dataplane.NFTables, nstest.Sized(1500, 10_000)},
		{dataplane.IPTablesLegacy, nstest.Sized(200, 2000)},
		{dataplane.IPTablesNFT, nstest.Sized(100, 500)},
	} {
		t.Run(c.Name, func(t *testing.T) {
			g := newGenerator(seed(t))
			g.few = c.Plane != dataplane.NFTables
			w, source := newCluster(t), newFeed()
			p := startProxy(t, w, c.Plane, source)
			sink := <-source.sink
			source.give(sink, healthy()...)
			sink.Synced()
			p.waitFor(t, source.taken)
			w.askHealthy(t)

			for given := 0; given < c.objects; given += 50 {
				for range 25 {
					source.give(sink, g.service(), g.slice())
				}
				if given%(c.objects/5) < 50 {
					w.askHealthy(t)
				}
			}
			p.waitFor(t, source.taken)
			t.Logf("of %d objects %d were unusable, %d Services and %d slices are served",
				c.objects, source.refused, len(source.taken.Services), len(source.taken.Slices))
			p.check(t, source.taken)
			p.checkHealthy(t)
			p.checkTools(t)

			source.removeHostile(sink)
			p.waitFor(t, source.taken)
			p.check(t, source.taken)
			p.checkHealthy(t)
			p.checkFaultless(t)
		})
	}
}
