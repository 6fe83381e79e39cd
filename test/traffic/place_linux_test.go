package traffic

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/sandbox"
)

// place is where clients are: a pod, the node or a host outside.
type place struct {
	ns    *sandbox.Netns
	addrs []netip.Addr
	ports *sourcePorts
}

func newPlace(ns *sandbox.Netns, addrs []netip.Addr) place {
	return place{ns, addrs, &sourcePorts{left: map[flowSpace][]int{}}}
}

// sourcePorts hands out source ports. Each is used once for a protocol and family, since the second
// connection from one could belong to the tracked flow of the first and be balanced no more.
type sourcePorts struct {
	mu   sync.Mutex
	left map[flowSpace][]int
}

type flowSpace struct {
	proto  model.Protocol
	family model.Family
}

// firstSourcePort is above all ports of servers.
const firstSourcePort = 10_000

func (s *sourcePorts) next(proto model.Protocol, f model.Family) (uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	space := flowSpace{proto, f}
	left, begun := s.left[space]
	if !begun {
		left = rand.New(rand.NewPCG(seed, uint64(proto))).Perm(65536 - firstSourcePort)
	}
	if len(left) == 0 {
		return 0, errors.New("no source port left that was not in use before")
	}
	s.left[space] = left[1:]
	return uint16(firstSourcePort + left[0]), nil
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
	port, err := p.ports.next(proto, model.FamilyOf(to.Addr()))
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
	if n, err := c.repeats(); err != nil || n > 0 {
		return answer{}, fmt.Errorf("%d SYN from port %d to %s lost, %w", n, c.from, to, cmp.Or(err, errLost))
	}
	return c.ask()
}

// errLost says that a connection came about only because TCP repeats what is lost.
var errLost = errors.New("and repeated")

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

// enoughFailures is how many of them nobody need wait for, as each may take its full time.
const enoughFailures = 20

// note counts a connection and tells whether more are worth making.
func (y *tally) note(a answer, err error) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	if err == nil {
		y.answers[a.endpoint]++
	} else if y.failed++; len(y.examples) < 5 {
		y.examples = append(y.examples, err)
	}
	return y.failed < enoughFailures
}

func newTally() *tally { return &tally{answers: map[netip.AddrPort]int{}} }

// many makes n connections, some at a time, and notes their answers. It ends early after many failures.
func (p place) many(n int, proto model.Protocol, to netip.AddrPort, y *tally) {
	const workers = 4
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			err := p.ns.Do(func() error {
				for i := w; i < n; i += workers {
					if !y.note(p.askHere(proto, to, patience)) {
						break
					}
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
