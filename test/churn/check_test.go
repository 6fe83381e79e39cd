package churn

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// kind tells how a request was made.
type kind uint8

const (
	// fresh requests have a connection or a source port of their own.
	fresh kind = iota
	// keptUDP requests come from one source port again and again.
	keptUDP
	// keptTCP requests are made over a connection that has had others.
	keptTCP
)

// ask is what a client asks again and again.
type ask struct {
	place    string
	protocol model.Protocol
	to       netip.AddrPort
}

func (a ask) String() string { return fmt.Sprintf("%s to %s %s", a.place, a.to, a.protocol) }

// record is a request and what became of it.
type record struct {
	kind kind
	ask
	begun, ended time.Time
	// endpoint answered, and saw source as the client. It is the zero value without an answer, and then err
	// says why.
	endpoint, source netip.AddrPort
	err              error
	// repeats is how often TCP had to send its SYN again.
	repeats int
	// opened and peer are a kept connection's: when it was opened, and who answered its first request.
	opened time.Time
	peer   netip.AddrPort
}

// checker judges records.
type checker struct {
	histories map[model.Family]*history
	// packet returns the first packet of a connection as the node meets it.
	packet func(ask) plan.Packet
	// masks tells for a place whether its packets show who was masqueraded.
	masks map[string]bool
	// stops are the moments at which a server was stopped.
	stops map[netip.AddrPort][]time.Time

	traced map[traceKey]plan.Outcome
}

type traceKey struct {
	era *era
	ask ask
}

func (c *checker) trace(e *era, a ask) plan.Outcome {
	key := traceKey{e, a}
	o, known := c.traced[key]
	if !known {
		o = e.plan.Trace(c.packet(a))
		c.traced[key] = o
	}
	return o
}

func (c *checker) window(r record, grace int) []*era {
	return c.histories[model.FamilyOf(r.to.Addr())].window(r.begun, r.ended, grace)
}

// judge returns what is wrong with a request, or nil.
func (c *checker) judge(r record) error {
	switch r.kind {
	case keptUDP:
		return c.judgeKeptUDP(r)
	case keptTCP:
		return c.judgeKeptTCP(r)
	}
	eras := c.window(r, 0)
	always := !slices.ContainsFunc(eras, func(e *era) bool { return c.trace(e, r.ask).Verdict != plan.Translate })
	switch {
	case r.err != nil && always && c.excused(r):
		return nil
	case r.err != nil && always:
		return fmt.Errorf("%v: failed, though there were endpoints all the time: %w", r.ask, r.err)
	case r.err != nil:
		return nil
	case r.repeats > 0 && always:
		return fmt.Errorf("%v: %d packets were lost, though there were endpoints all the time", r.ask, r.repeats)
	}
	for _, e := range eras {
		for _, t := range c.trace(e, r.ask).Targets {
			if t.Endpoint != r.endpoint {
				continue
			}
			if !c.masks[r.place] || t.Masquerade == (r.source.Addr() != c.packet(r.ask).Source) {
				return nil
			}
		}
	}
	return fmt.Errorf("%v: answered by %s, which saw %s: not so by any of the %d plans in force", r.ask, r.endpoint, r.source, len(eras))
}

// excused tells whether a UDP request was under way to an endpoint that was removed without having terminated:
// with its flow goes what translates the answer back. The driver lets no request be under way over two syncs.
func (c *checker) excused(r record) bool {
	if r.protocol != model.UDP {
		return false
	}
	eras := c.window(r, 0)
	for i := range min(2, len(eras)-1) {
		left := serving(eras[i+1].plan, c.packet(r.ask))
		for _, t := range eras[i].plan.Trace(c.packet(r.ask)).Targets {
			if !slices.Contains(left, t.Endpoint) {
				return true
			}
		}
	}
	return false
}

// judgeKeptUDP allows the endpoints of one sync before, as the flow goes after the sync, and those that still
// serve while they terminate.
func (c *checker) judgeKeptUDP(r record) error {
	if r.err != nil {
		return fmt.Errorf("%v: the flow found no way back to an endpoint: %w", r.ask, r.err)
	}
	eras := c.window(r, 1)
	for _, e := range eras {
		if slices.Contains(serving(e.plan, c.packet(r.ask)), r.endpoint) {
			return nil
		}
	}
	return fmt.Errorf("%v: the flow still goes to %s, removed more than one sync ago", r.ask, r.endpoint)
}

// judgeKeptTCP lets a connection end with its server alone, whatever becomes of the Service.
func (c *checker) judgeKeptTCP(r record) error {
	if r.err == nil && r.endpoint == r.peer {
		return nil
	}
	if r.err == nil {
		return fmt.Errorf("%v: the connection to %s was answered by %s", r.ask, r.peer, r.endpoint)
	}
	for _, stop := range c.stops[r.peer] {
		if stop.After(r.opened) && stop.Before(r.ended) {
			return nil
		}
	}
	return fmt.Errorf("%v: the connection to %s broke, which was alive: %w", r.ask, r.peer, r.err)
}

// serving returns all endpoints of the Service port that a packet is for that serve, also those that get no
// new connections.
func serving(p *plan.Plan, packet plan.Packet) (all []netip.AddrPort) {
	for _, s := range p.Services {
		for _, port := range s.Ports {
			if !slices.ContainsFunc(port.Frontends, func(f plan.Frontend) bool {
				return f.Protocol == packet.Protocol && f.Port == packet.Dest.Port() &&
					(f.Addr == packet.Dest.Addr() || f.Kind == plan.NodePort && packet.Own(packet.Dest.Addr()))
			}) {
				continue
			}
			for _, e := range slices.Concat(port.Endpoints, port.Local) {
				all = append(all, e.AddrPort())
			}
			for _, x := range port.Excluded {
				if x.Serving {
					all = append(all, x.Endpoint.AddrPort())
				}
			}
		}
	}
	return all
}

// judgeAffinity looks at the requests of one client, one after another, and returns what is wrong: the client
// must stay with its endpoint for as long as that is one.
func (c *checker) judgeAffinity(records []record) (wrong []error) {
	last := map[model.ServicePortName]record{}
	for _, r := range records {
		eras := c.window(r, 0)
		if r.err != nil || len(eras) == 0 {
			continue
		}
		port, ok := affine(eras[0].plan, c.packet(r.ask))
		if !ok {
			continue
		}
		before, known := last[port]
		last[port] = r
		if !known || before.endpoint == r.endpoint || len(c.window(before, 0)) > 1 {
			continue // what is learned while a change is under way may be forgotten with what the change removes
		}
		between := c.histories[model.FamilyOf(r.to.Addr())].window(before.begun, r.ended, 0)
		left := slices.ContainsFunc(between, func(e *era) bool {
			return !slices.ContainsFunc(c.trace(e, r.ask).Targets, func(t plan.Target) bool { return t.Endpoint == before.endpoint })
		})
		if !left {
			wrong = append(wrong, fmt.Errorf("%v: answered by %s, but session affinity is to %s", r.ask, r.endpoint, before.endpoint))
		}
	}
	return wrong
}

// affine returns the Service port that a packet is for, if it has session affinity.
func affine(p *plan.Plan, packet plan.Packet) (model.ServicePortName, bool) {
	for _, s := range p.Services {
		for _, port := range s.Ports {
			if port.Affinity > 0 && port.Name.Protocol == packet.Protocol && p.Trace(packet).Affinity == port.Affinity {
				return port.Name, true
			}
		}
	}
	return model.ServicePortName{}, false
}
