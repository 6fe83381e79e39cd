package world

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/model"
	"svcproxy/sandbox"
)

// Kind tells where a place is.
type Kind uint8

// The kinds of places.
const (
	Node Kind = iota
	Pod
	RemotePod
	Host
)

// Place is where servers and askers are. The namespace's methods (Do, Start, Path, …) act inside. A Place may
// be used by several goroutines at once.
type Place struct {
	*sandbox.Netns
	// Name is "node", "pod-1", "remote-1", "host-1" and so on, or what AddPod got.
	Name string
	Kind Kind
	// Addrs are its addresses, IPv4 first; the node's are those towards outside.
	Addrs []netip.Addr
	// Interface is where its packets enter the node, empty for the node itself.
	Interface string

	canaries map[model.Family]netip.AddrPort
	ports    *sourcePorts
}

// String returns the name.
func (p *Place) String() string { return p.Name }

// Addr returns the address of a family, the zero Addr if there is none.
func (p *Place) Addr(f model.Family) netip.Addr { return ofFamily(f, p.Addrs) }

// ofFamily picks the first address of a family.
func ofFamily(f model.Family, addrs []netip.Addr) netip.Addr {
	for _, a := range addrs {
		if model.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// patience is how long an asker waits for what must come.
const patience = 10 * time.Second

// Ask makes one connection and tells what became of it. Silence takes about a quarter of a second to tell,
// everything else as long as the packets. An error is no verdict: the socket can't be made, an answer can't be
// read, or the path from here to the node's pods carries nothing at all.
func (p *Place) Ask(q Question) (Result, error) {
	var r Result
	err := p.Do(func() (err error) {
		doubt := p.doubt(model.FamilyOf(q.To.Addr()))
		defer doubt.close()
		r, err = p.judge(p.askHere(q, doubt.wait))
		return err
	})
	return r, err
}

func (p *Place) askHere(q Question, w wait) (Result, error) {
	c, err := p.open(q, w)
	if err != nil {
		return Result{}, err
	}
	defer c.Close()
	return c.ask(w)
}

// judge turns errors that are verdicts into such.
func (p *Place) judge(r Result, err error) (Result, error) {
	switch {
	case err == nil:
		return r, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		r.Verdict = Silent
	// A kernel without SCTP refuses it as a protocol.
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EPROTONOSUPPORT):
		r.Verdict = Refused
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		r.Verdict = Unreachable
	default:
		return r, err
	}
	return r, nil
}

// Dial opens a connection that the caller closes. For TCP it must come about within some seconds.
func (p *Place) Dial(q Question) (c *Conn, err error) {
	err = p.Do(func() error {
		c, err = p.open(q, until(patience))
		return err
	})
	return c, err
}

// AskMany makes n connections alike, some at a time, and gives each result to note, from several goroutines,
// until it returns false. As what must come is waited for patiently, silence takes seconds here.
func (p *Place) AskMany(n int, q Question, note func(Result, error) bool) {
	const workers = 4
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			err := p.Do(func() error {
				for i := w; i < n; i += workers {
					if !note(p.judge(p.askHere(q, until(patience)))) {
						break
					}
				}
				return nil
			})
			if err != nil {
				note(Result{}, err)
			}
		})
	}
	wg.Wait()
}

// doubt tells silence from slowness. Nobody can wait for nothing; but a busy machine delays all packets on a
// path alike. So an asker without an answer sends canaries, one after another, to a server behind the node
// whose address no Service has, over the way that its question took. When several of them have come back and
// a fifth of a second has passed, the answer would have been there too. On a busy machine the canaries take
// longer, and so does the verdict.
type doubt struct {
	place  *Place
	family model.Family
	begun  time.Time
	canary *Conn
	back   int
}

const (
	// leastDoubt and leastCanaries make silence.
	leastDoubt    = 200 * time.Millisecond
	leastCanaries = 4
	// canaryPatience is how long one may take; then nothing can be judged here.
	canaryPatience = 3 * time.Second
)

func (p *Place) doubt(f model.Family) *doubt { return &doubt{place: p, family: f, begun: time.Now()} }

func (d *doubt) wait() (time.Duration, error) {
	if time.Since(d.begun) < slice {
		return slice, nil
	}
	if d.canary == nil {
		to, ok := d.place.canaries[d.family]
		if !ok {
			return 0, fmt.Errorf("%s has no canary for %s", d.place, d.family)
		}
		err := d.place.Do(func() (err error) {
			d.canary, err = d.place.open(Question{Protocol: model.UDP, To: to}, until(canaryPatience))
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("the path from %s to the node's pods can't be judged: %w", d.place, err)
		}
	}
	// No %w: what happens to a canary is no verdict about the question.
	if r, err := d.canary.ask(until(canaryPatience)); err != nil {
		return 0, fmt.Errorf("the path from %s to the node's pods carries nothing: %v, %v", d.place, r, err)
	}
	if d.back++; d.back >= leastCanaries && time.Since(d.begun) >= leastDoubt {
		return 0, os.ErrDeadlineExceeded
	}
	return slice, nil
}

func (d *doubt) close() {
	if d.canary != nil {
		d.canary.Close()
	}
}
