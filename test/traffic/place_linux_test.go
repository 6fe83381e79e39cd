package traffic

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/sandbox"
)

// seed makes the order of source ports the same in every run.
const seed = 20240

// place is where clients are: a pod, the node or a host outside.
type place struct {
	ns    *sandbox.Netns
	addrs []netip.Addr
	ports *sourcePorts
}

func newPlace(ns *sandbox.Netns, addrs []netip.Addr) place {
	return place{ns, addrs, &sourcePorts{order: rand.New(rand.NewPCG(seed, 0)).Perm(65536 - firstSourcePort)}}
}

// sourcePorts hands out source ports. Each is used once, since the second connection from one would belong
// to the tracked flow of the first and be balanced no more.
type sourcePorts struct {
	mu    sync.Mutex
	order []int
}

// firstSourcePort is above all ports of servers.
const firstSourcePort = 10_000

func (s *sourcePorts) next() (uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) == 0 {
		return 0, errors.New("no source port left that was not in use before")
	}
	port := firstSourcePort + s.order[0]
	s.order = s.order[1:]
	return uint16(port), nil
}

const (
	// patience is how long a client waits for what must come.
	patience = 5 * time.Second
	// briefly is how long it waits for what must not come.
	briefly = 200 * time.Millisecond
)

// dial opens a connection from a source port of its own. SCTP and UDP send nothing yet.
func (p place) dial(proto model.Protocol, to netip.AddrPort, wait time.Duration) (*conn, error) {
	var c *conn
	err := p.ns.Do(func() (err error) {
		c, err = p.dialHere(proto, to, wait)
		return err
	})
	return c, err
}

// dialHere is dial for a thread that is already in the place's namespace.
func (p place) dialHere(proto model.Protocol, to netip.AddrPort, wait time.Duration) (*conn, error) {
	port, err := p.ports.next()
	if err != nil {
		return nil, err
	}
	return open(proto, port, to, wait)
}

// askOnce makes one connection and returns the answer.
func (p place) askOnce(proto model.Protocol, to netip.AddrPort, wait time.Duration) (a answer, err error) {
	err = p.ns.Do(func() error {
		a, err = p.askHere(proto, to, wait)
		return err
	})
	return a, err
}

func (p place) askHere(proto model.Protocol, to netip.AddrPort, wait time.Duration) (answer, error) {
	c, err := p.dialHere(proto, to, wait)
	if err != nil {
		return answer{}, err
	}
	defer c.close()
	return c.ask()
}

// mustAsk makes one connection, which must be answered.
func (p place) mustAsk(t *testing.T, proto model.Protocol, to netip.AddrPort) answer {
	t.Helper()
	a, err := p.askOnce(proto, to, patience)
	if err != nil {
		t.Errorf("%s to %s: %v", proto, to, err)
	}
	return a
}

// tally counts who answered connections, and what was wrong with others.
type tally struct {
	mu       sync.Mutex
	answers  map[netip.AddrPort]int
	failed   int
	examples []error
}

func (y *tally) note(a answer, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if err == nil {
		y.answers[a.endpoint]++
		return
	}
	if y.failed++; len(y.examples) < 5 {
		y.examples = append(y.examples, err)
	}
}

func newTally() *tally { return &tally{answers: map[netip.AddrPort]int{}} }

// many makes n connections, some at a time, and notes their answers.
func (p place) many(n int, proto model.Protocol, to netip.AddrPort, y *tally) {
	const workers = 4
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			err := p.ns.Do(func() error {
				for i := w; i < n; i += workers {
					y.note(p.askHere(proto, to, patience))
				}
				return nil
			})
			if err != nil {
				y.note(answer{}, err)
			}
		})
	}
	wg.Wait()
}
