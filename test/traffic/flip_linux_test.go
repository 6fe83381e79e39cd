package traffic

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/test/nstest"
)

// flips are the endpoint lists of a Service that loses one endpoint of four after another, and always gets
// it back.
var flips = [][]int{{0, 1, 2, 3}, {1, 2, 3}, {0, 1, 2, 3}, {0, 2, 3}, {0, 1, 2, 3}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 2}}

// TestNoConnectionFailsWhileEndpointsFlip makes connections while a Service changes as fast as it can be
// synced. None may fail or be lost, and none may reach another Service's endpoints. UDP repeats nothing, so
// that nothing lost escapes.
func TestNoConnectionFailsWhileEndpointsFlip(t *testing.T) {
	for _, d := range dataPlanes {
		t.Run(d.name, func(t *testing.T) { everyFamily(t, d, connectWhileFlipping) })
	}
}

func connectWhileFlipping(t *testing.T, w *world, d dataPlane, f model.Family) {
	tcp := nstest.Sized(2000, 100_000)
	udp := tcp / 5
	p, vip := newProxy(t, w, d, clusterConfig(f)), clusterIP(f, 0)
	p.mustSync(t, service("flipping", vip, flips[0]...), service("steady", clusterIP(f, 1), 4, 5, 6, 7, 8, 9))

	stop := p.flip(t, vip)
	begin := time.Now()
	y := newTally()
	var wg sync.WaitGroup
	for _, from := range w.clients {
		wg.Go(func() { from.many(tcp/len(w.clients), model.TCP, frontend(vip, model.TCP), y) })
	}
	wg.Go(func() { w.clients[0].many(udp, model.UDP, frontend(vip, model.UDP), y) })
	wg.Wait()
	took, done := time.Since(begin), stop()

	t.Logf("%d connections in %v, %.0f a second; %d flips, %.0f a second", tcp+udp, took.Round(time.Millisecond),
		float64(tcp+udp)/took.Seconds(), done, float64(done)/took.Seconds())
	if done < 2*len(flips) {
		t.Errorf("only %d flips, too few to prove anything", done)
	}
	if y.failed > 0 {
		t.Errorf("%d connections failed: %v", y.failed, y.examples)
	}
	for at, n := range y.answers {
		if !slices.ContainsFunc(flips[0], func(i int) bool { return serverAddr(f, i) == at.Addr() }) {
			t.Errorf("%d connections were answered by %s, which was never in the list", n, at)
		}
	}
	for _, i := range flips[0] {
		for _, proto := range []model.Protocol{model.TCP, model.UDP} {
			if at := netip.AddrPortFrom(serverAddr(f, i), serverPorts[proto]); y.answers[at] == 0 {
				t.Errorf("no connection was answered by %s", at)
			}
		}
	}
}

// flip syncs the Service with other endpoints again and again until stop is called, which tells how often.
func (p *proxy) flip(t *testing.T, vip netip.Addr) (stop func() int) {
	quit, count := make(chan struct{}), make(chan int)
	go func() {
		for i := 1; ; i++ {
			select {
			case <-quit:
				count <- i - 1
				return
			default:
			}
			if err := p.sync(t.Context(), service("flipping", vip, flips[i%len(flips)]...)); err != nil {
				t.Errorf("flip %d: %v", i, err)
				<-quit
				count <- i
				return
			}
		}
	}()
	return func() int {
		close(quit)
		return <-count
	}
}
