package chaos

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// seedEnv repeats a run: its value is the seed that the run printed.
const seedEnv = "SVCPROXY_TEST_SEED"

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

// TestKill kills svcproxy in the middle of a sync, again and again while Services change, at least half of
// the times between the kernel's write and its acknowledgement. After each restart the kernel must hold what
// is desired by then, and whoever uses a Service that nobody changes must notice nothing, ever.
func TestKill(t *testing.T) {
	for _, c := range []struct {
		dataplane.Plane
		kills int
		// moment is the longest time until a kill at a random moment.
		moment time.Duration
	}{
		{dataplane.NFTables, nstest.Sized(20, 200), 30 * time.Millisecond},
		{dataplane.IPTablesLegacy, nstest.Sized(6, 40), 300 * time.Millisecond},
		{dataplane.IPTablesNFT, nstest.Sized(4, 20), 300 * time.Millisecond},
	} {
		t.Run(c.Name, func(t *testing.T) {
			s := seed(t)
			w := newWorld(t)
			h := &hunt{t: t, world: w, plane: c.Plane, moment: c.moment,
				random: rand.New(rand.NewPCG(s, 2)), churn: newChurn(s, 40, w.servers)}
			h.run(c.kills)
		})
	}
}

// hunt is a series of kills.
type hunt struct {
	t      *testing.T
	world  *world
	plane  dataplane.Plane
	moment time.Duration
	random *rand.Rand
	churn  *churn

	// kills counts them by their point. restarts counts those that brought the kernel to the desired state,
	// and halfway the kills that left it otherwise.
	kills             map[point]int
	restarts, halfway int
}

func (h *hunt) run(kills int) {
	h.kills = map[point]int{}
	first := h.world.start(h.t, h.plane, fault{})
	h.restart(first)
	first.kill()
	h.world.watch(h.t)
	for i := range kills {
		if h.round(h.fault(i)); h.t.Failed() {
			h.t.Fatalf("failed in round %d", i+1)
		}
	}
	last := h.world.start(h.t, h.plane, fault{})
	h.restart(last)
	last.kill()
	h.t.Logf("killed %v; %d restarts led to the desired state, %d of the kills had left another", h.kills, h.restarts, h.halfway)
	if h.kills[beforeAcknowledgement]*2 < kills {
		h.t.Errorf("only %d of %d kills were before an acknowledgement", h.kills[beforeAcknowledgement], kills)
	}
	if kills >= 20 && h.halfway == 0 {
		h.t.Error("no kill left anything to put right: the test proves nothing")
	}
}

// fault draws a fault: every other one before the acknowledgement, the rest at random moments and before a write.
func (h *hunt) fault(i int) fault {
	f := fault{Point: beforeAcknowledgement, Family: families()[h.random.IntN(len(families()))], Call: 1 + h.random.IntN(4)}
	switch i % 4 {
	case 1:
		f.Point = nowhere
	case 3:
		f.Point = beforeWrite
	}
	return f
}

// round starts a victim, sees that it brings the kernel to the desired state if it lives that long, changes
// Services, and kills it.
func (h *hunt) round(f fault) {
	v := h.world.start(h.t, h.plane, f)
	defer func() {
		log := v.kill()
		if h.kills[f.Point]++; h.t.Failed() {
			h.t.Logf("the victim, killed %v, call %d for %s, said:\n%s", f.Point, f.Call, f.Family, log)
		}
		if h.check() != nil {
			h.halfway++
		}
	}()
	if !h.restart(v) || h.t.Failed() {
		return
	}
	if f.Point == nowhere {
		moment := time.After(time.Duration(h.random.Int64N(int64(h.moment))))
		for range 1 + h.random.IntN(20) {
			v.send(h.t, h.churn.next())
		}
		v.waitUntil(h.t, moment)
		return
	}
	for stopped := false; !stopped; {
		v.send(h.t, h.churn.next())
		stopped = v.wait(h.t)
	}
}

// restart gives a victim the desired state and checks what it makes of the kernel, unless it stops before.
func (h *hunt) restart(v *hunted) (lives bool) {
	h.t.Helper()
	v.send(h.t, h.churn.all())
	if v.wait(h.t) {
		return false
	}
	if err := h.check(); err != nil {
		h.t.Errorf("after a restart: %v", err)
	}
	h.restarts++
	return true
}

// check compares the kernel with the desired state.
func (h *hunt) check() error {
	for _, f := range families() {
		if err := h.plane.Check(h.t.Context(), h.world.node.Path(), h.churn.desired.Plan(f, settings, "")); err != nil {
			return err
		}
	}
	return nil
}
