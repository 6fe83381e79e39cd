package churn

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/world"
)

const (
	// pace is the least time between two requests of one client.
	pace = 6 * time.Millisecond
	// patience is how long an answer may take that must come.
	patience = 20 * time.Second
	// impatience is how long it takes to give up a request whose answer may have been lost rightly.
	impatience = time.Second
	// firstPort is above all ports of servers and frontends. Every port is used for one connection of a
	// place, family and protocol, so that none belongs to a tracked flow of an earlier one.
	firstPort = 33_000
	// keptAsks is how many requests a kept TCP connection has before another one is made.
	keptAsks = 100
)

// client makes one kind of requests, of one protocol and family, from one place.
type client struct {
	load     *load
	place    *world.Place
	kind     kind
	protocol model.Protocol
	targets  []ask
	ports    *atomic.Uint32

	// busy is when the request in work began, in nanoseconds after the epoch of the load; 0 while there is none.
	busy atomic.Int64
	// round is when the last turn over all targets began in which each was answered.
	round   atomic.Int64
	records []record
}

// load is what all clients do.
type load struct {
	checker *checker
	epoch   time.Time
	clients []*client
	all     sync.WaitGroup
	stop    context.CancelFunc
	// broken is set when a client waited in vain: nothing is gained by going on.
	broken atomic.Bool
}

// always tells whether a request should have been answered, whenever between two moments it was decided.
func (c *client) always(a ask, from, to time.Time) bool {
	for _, e := range c.load.checker.histories[model.FamilyOf(a.to.Addr())].window(from, to, 0) {
		if e.plan.Trace(c.load.checker.packet(a)).Verdict != plan.Translate {
			return false
		}
	}
	return true
}

// begin notes that a request begins. Whoever reads busy before it is known when, knows that it may be long ago.
func (c *client) begin() time.Time {
	c.busy.Store(1)
	now := time.Now()
	c.busy.Store(int64(now.Sub(c.load.epoch)))
	return now
}

// giveUp returns what ends the wait for an answer: that there need be none, or that it takes forever.
func (c *client) giveUp(a ask, begun time.Time) func() bool {
	return func() bool {
		now := time.Now()
		if !c.always(a, begun, now) {
			return true
		}
		if now.Sub(begun) > impatience && c.load.checker.excused(record{ask: a, begun: begun, ended: now}) {
			return true
		}
		if now.Sub(begun) > patience {
			c.load.broken.Store(true)
			return true
		}
		return false
	}
}

// run makes requests until ctx ends.
func (c *client) run(ctx context.Context) error {
	turn := c.fresh
	switch c.kind {
	case keptUDP:
		turn = c.keepUDP()
	case keptTCP:
		turn = c.keepTCP()
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for begun, answered := time.Now(), true; ; {
		for _, a := range c.targets {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			ok, err := turn(a)
			c.busy.Store(0)
			if err != nil {
				return fmt.Errorf("%v: %w", a, err)
			}
			answered = answered && ok
		}
		if answered {
			c.round.Store(int64(begun.Sub(c.load.epoch)))
		}
		begun, answered = time.Now(), true
	}
}

func (c *client) port() uint16 { return uint16(firstPort + c.ports.Add(1)%(1<<16-firstPort)) }

// connect opens a socket from a new port. The error is also in the record.
func (c *client) connect(r *record) *socket {
	s, err := open(c.protocol, c.port(), r.to)
	if err == nil && s.tcp {
		if err = s.await(writable, c.giveUp(r.ask, r.begun)); err == nil {
			r.repeats = s.repeats()
		} else {
			s.close()
			s = nil
		}
	}
	r.err = err
	return s
}

func (c *client) fresh(a ask) (bool, error) {
	r := record{kind: fresh, ask: a, begun: c.begin()}
	if s := c.connect(&r); s != nil {
		r.endpoint, r.source, r.err = s.exchange(c.giveUp(a, r.begun))
		s.close()
	}
	r.ended = time.Now()
	c.records = append(c.records, r)
	return r.err == nil, nil
}

// keepUDP returns a turn that asks from the same port each time. As a resolver does, it asks again when there
// is no answer: the one that is under way when a flow is removed has nobody who translates it back.
func (c *client) keepUDP() func(ask) (bool, error) {
	sockets, since := map[ask]*socket{}, map[ask]time.Time{}
	return func(a ask) (bool, error) {
		s := sockets[a]
		if s == nil {
			var err error
			if s, err = open(model.UDP, c.port(), a.to); err != nil {
				return false, nil // there is no way to the address at this moment
			}
			sockets[a] = s
		}
		r := record{kind: keptUDP, ask: a, begun: c.begin()}
		tries := 0
		r.endpoint, r.source, r.err = s.exchange(func() bool { tries++; return tries > 2 })
		r.ended = time.Now()
		if r.err == nil {
			delete(since, a)
			c.records = append(c.records, r)
			return true, nil
		}
		first, waiting := since[a]
		switch {
		case !c.always(a, r.begun, r.ended):
			delete(since, a)
		case !waiting:
			since[a] = r.begun
		case r.ended.Sub(first) > patience:
			c.load.broken.Store(true)
			c.records = append(c.records, r)
		}
		return false, nil
	}
}

// kept is a TCP connection that stays.
type kept struct {
	*socket
	opened time.Time
	peer   netip.AddrPort
	asks   int
}

// keepTCP returns a turn that asks over a connection as long as it lives.
func (c *client) keepTCP() func(ask) (bool, error) {
	conns := map[ask]*kept{}
	return func(a ask) (bool, error) {
		k := conns[a]
		r := record{kind: keptTCP, ask: a, begun: c.begin()}
		if k == nil {
			r.kind = fresh
			s := c.connect(&r)
			if s == nil {
				r.ended = time.Now()
				c.records = append(c.records, r)
				return false, nil
			}
			k = &kept{socket: s, opened: r.begun}
		}
		limit := time.Now().Add(patience)
		give := func() bool { return time.Now().After(limit) }
		if r.kind == fresh {
			give = c.giveUp(a, r.begun)
		}
		r.endpoint, r.source, r.err = k.exchange(give)
		if r.kind == fresh {
			k.peer = r.endpoint
		}
		r.ended, r.opened, r.peer = time.Now(), k.opened, k.peer
		c.records = append(c.records, r)
		if k.asks++; r.err != nil || k.asks == keptAsks {
			k.close()
			delete(conns, a)
		} else {
			conns[a] = k
		}
		return r.err == nil, nil
	}
}

// start starts clients of every kind.
func (l *load) start(places []*world.Place, families []model.Family, targets map[model.Protocol][]netip.AddrPort, affine func(netip.AddrPort) bool) {
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = sync.OnceFunc(func() { cancel(); l.all.Wait() })
	for _, p := range places {
		for _, f := range families {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				ports := &atomic.Uint32{}
				long := map[model.Protocol]kind{model.TCP: keptTCP, model.UDP: keptUDP}[protocol]
				for _, k := range []kind{fresh, long} {
					c := &client{load: l, place: p, kind: k, protocol: protocol, ports: ports}
					for _, to := range targets[protocol] {
						// To keep requests under session affinity one after another, one client makes them all.
						if model.FamilyOf(to.Addr()) == f && (k == fresh || !affine(to)) {
							c.targets = append(c.targets, ask{p.Name, protocol, to})
						}
					}
					l.clients = append(l.clients, c)
				}
			}
		}
	}
	for _, c := range l.clients {
		l.all.Go(func() {
			if err := c.place.Do(func() error { return c.run(ctx) }); err != nil {
				c.records = append(c.records, record{err: err, begun: time.Now(), ended: time.Now()})
				l.broken.Store(true)
			}
		})
	}
}

// drained returns an error while a request is in work that began before a moment.
func (l *load) drained(at time.Time) error {
	for _, c := range l.clients {
		if busy := c.busy.Load(); busy != 0 && busy <= int64(at.Sub(l.epoch)) {
			return fmt.Errorf("a request of %s over %s, begun %v ago, is in work", c.place, c.protocol, time.Since(l.epoch)-time.Duration(busy))
		}
	}
	return nil
}

// answered returns an error until every client that keeps something had an answer from each target, begun after a
// moment.
func (l *load) answered(after time.Time) error {
	i := slices.IndexFunc(l.clients, func(c *client) bool { return c.round.Load() <= int64(after.Sub(l.epoch)) })
	if i < 0 {
		return nil
	}
	c := l.clients[i]
	return fmt.Errorf("a client of %s over %s, kind %d, has no answer from each of its targets", c.place, c.protocol, c.kind)
}
