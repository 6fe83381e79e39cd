package traffic

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/test/nstest"
)

// flips are the endpoint lists of a Service that loses one endpoint of four after another, and always gets
// it back.
var flips = [][]int{{0, 1, 2, 3}, {1, 2, 3}, {0, 1, 2, 3}, {0, 2, 3}, {0, 1, 2, 3}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 2}}

// leastFlips is every list twice: fewer would prove nothing.
var leastFlips = int64(2 * len(flips))

// TestNoConnectionFailsWhileEndpointsFlip makes connections while a Service changes as fast as it can be
// synced. None may fail or be lost, and none may reach another Service's endpoints. UDP repeats nothing, so
// that nothing lost escapes.
func TestNoConnectionFailsWhileEndpointsFlip(t *testing.T) {
	for _, d := range dataPlanes {
		t.Run(d.name, func(t *testing.T) { everyFamily(t, d, connectWhileFlipping) })
	}
}

func connectWhileFlipping(t *testing.T, w *cluster, d dataPlane, f model.Family) {
	udp := nstest.Sized(500, 20_000)
	if f == model.IPv6 {
		udp = nstest.Sized(500, 4000) // the same code of the kernel, but for the addresses
	}
	tcp := 4 * udp
	p, vip := newProxy(t, w, d, clusterConfig(f)), clusterIP(f, 0)
	p.mustSync(t, service("flipping", vip, flips[0]...), service("steady", clusterIP(f, 1), 4, 5, 6, 7, 8, 9))

	flipping := p.flip(t, vip)
	begin, made := time.Now(), 0
	y := newTally()
	for made == 0 || flipping.count.Load() < leastFlips {
		var wg sync.WaitGroup
		for _, from := range w.clients {
			wg.Go(func() { many(from, tcp/len(w.clients), model.TCP, frontend(vip, model.TCP), y) })
		}
		wg.Go(func() { many(w.clients[0], udp, model.UDP, frontend(vip, model.UDP), y) })
		wg.Wait()
		if made += tcp + udp; t.Failed() || y.failed > 0 {
			break
		}
	}
	took := time.Since(begin)
	flipping.stop()

	done := flipping.count.Load()
	t.Logf("%d connections in %v, %.0f a second; %d flips, %.0f a second", made, took.Round(time.Millisecond),
		float64(made)/took.Seconds(), done, float64(done)/took.Seconds())
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

// flipper changes a Service again and again until it is stopped.
type flipper struct {
	count atomic.Int64
	stop  func()
}

// flip starts to sync the Service with other endpoints, as fast as it goes.
func (p *proxy) flip(t *testing.T, vip netip.Addr) *flipper {
	f, quit, done := &flipper{}, make(chan struct{}), make(chan struct{})
	f.stop = sync.OnceFunc(func() { close(quit); <-done })
	t.Cleanup(f.stop)
	go func() {
		defer close(done)
		for i := 1; ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			if err := p.sync(t.Context(), service("flipping", vip, flips[i%len(flips)]...)); err != nil {
				t.Errorf("flip %d: %v", i, err)
				return
			}
			f.count.Add(1)
		}
	}()
	return f
}
