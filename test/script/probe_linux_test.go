package script

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/world"
)

// probe is a question and what is expected of it:
//
//	probe FROM[@SOURCE] TO:PORT/PROTOCOL answered by PLACE:PORT... [seen as PLACE|ADDRESS]
//	probe FROM[@SOURCE] TO:PORT/PROTOCOL refused|silent|unreachable|unserved
//
// SOURCE, TO and PLACE are addresses or names of places. Whoever is named must have answered some connection,
// and nobody else any. Unserved is that no Service has the address: nothing is translated or decided.
type probe struct {
	step
	from   *world.Place
	source netip.Addr
	world.Question
	expectation
}

type expectation struct {
	verdict   string
	endpoints []netip.AddrPort
	seen      netip.Addr
}

func (r *run) parseProbe(s step) (*probe, error) {
	p := &probe{step: s}
	from, source, given := strings.Cut(s.word(1), "@")
	if p.from = r.world.Place(from); p.from == nil {
		return nil, fmt.Errorf("no place %q", from)
	}
	var err error
	if given {
		if p.source, err = r.addr(source); err != nil {
			return nil, err
		}
		p.Source = netip.AddrPortFrom(p.source, 0)
	}
	if p.To, p.Protocol, err = r.parseTo(s.word(2)); err != nil {
		return nil, err
	}
	if len(s.words) < 4 {
		return nil, errors.New("nothing is expected")
	}
	p.expectation, err = r.parseExpectation(s.words[3:])
	return p, err
}

func (r *run) parseExpectation(words []string) (e expectation, err error) {
	e.verdict = words[0]
	switch e.verdict {
	case "refused", "silent", "unreachable", "unserved":
		if len(words) > 1 {
			return e, fmt.Errorf("%q after %s", words[1], e.verdict)
		}
		return e, nil
	case "answered":
	default:
		return e, fmt.Errorf("can't expect %q", e.verdict)
	}
	words = words[1:]
	if len(words) > 0 && words[0] == "by" {
		words = words[1:]
		for len(words) > 0 && words[0] != "seen" {
			to, err := r.addrPort(words[0])
			if err != nil {
				return e, err
			}
			e.endpoints, words = append(e.endpoints, to), words[1:]
		}
	}
	if len(words) == 3 && words[0] == "seen" && words[1] == "as" {
		e.seen, err = r.addr(words[2])
		words = nil
	}
	if err == nil && (len(words) > 0 || len(e.endpoints) == 0) {
		err = errors.New("usage: answered by PLACE:PORT... [seen as PLACE|ADDRESS]")
	}
	return e, err
}

// addr reads an address, or a place's: "gateway" is the node's towards its pods.
func (r *run) addr(text string) (netip.Addr, error) {
	switch text {
	case "gateway":
		for _, a := range r.world.Gateways {
			if model.FamilyOf(a) == r.family {
				return a, nil
			}
		}
	case "localhost":
		if r.family == model.IPv6 {
			return netip.IPv6Loopback(), nil
		}
		return netip.MustParseAddr("127.0.0.1"), nil
	}
	if p := r.world.Place(text); p != nil && p.Addr(r.family).IsValid() {
		return p.Addr(r.family), nil
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return a, fmt.Errorf("%q is no place and no address", text)
	}
	return a, nil
}

func (r *run) addrPort(text string) (netip.AddrPort, error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return netip.AddrPort{}, fmt.Errorf("%q has no port", text)
	}
	a, err := r.addr(text[:i])
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(text[i+1:], 10, 16)
	return netip.AddrPortFrom(a, uint16(port)), err
}

func (r *run) parseTo(text string) (netip.AddrPort, model.Protocol, error) {
	to, name, ok := strings.Cut(text, "/")
	if !ok {
		return netip.AddrPort{}, 0, fmt.Errorf("%q has no protocol", text)
	}
	protocol, err := model.ParseProtocol(strings.ToUpper(name))
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	at, err := r.addrPort(to)
	return at, protocol, err
}

func parsePort(text string) (uint16, model.Protocol, error) {
	number, name, _ := strings.Cut(text, "/")
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	protocol, err := model.ParseProtocol(strings.ToUpper(name))
	return uint16(port), protocol, err
}

// probes makes probes at once.
func (r *run) probes(batch []step) {
	r.t.Helper()
	held := r.heldRules()
	var wg sync.WaitGroup
	for _, s := range batch {
		p, err := r.parseProbe(s)
		if err != nil {
			r.fatal(s, err)
		}
		wg.Go(func() {
			if err := errors.Join(r.checkTraces(p, held), r.check(p)); err != nil {
				r.t.Errorf("%s:%d: %s\n\t%v", r.script.name, s.line, s.text, err)
			}
		})
	}
	wg.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
}

// check asks until everybody who is expected has answered.
func (r *run) check(p *probe) error {
	// Of n endpoints one is missed with the probability n·(1-1/n)^tries, for 5 about 1e-9.
	const triesEach = 100
	missing := slices.Clone(p.endpoints)
	for range max(1, triesEach*len(p.endpoints)) {
		got, err := p.from.Ask(p.Question)
		if err != nil {
			return err
		}
		if err := p.judge(got); err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(e netip.AddrPort) bool { return e == got.Endpoint })
		if len(missing) == 0 {
			break
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("never answered by %v", missing)
	}
	return nil
}

// judge returns why a result is not as expected, or nil.
func (e *expectation) judge(got world.Result) error {
	switch {
	case e.verdict == "unserved":
		if got.Verdict == world.Answered {
			return fmt.Errorf("got %v", got)
		}
		return nil
	case got.Verdict.String() != e.verdict:
		return fmt.Errorf("got %v", got)
	case got.Verdict != world.Answered:
		return nil
	case !slices.Contains(e.endpoints, got.Endpoint):
		return fmt.Errorf("got %v", got)
	case got.Lost > 0:
		return fmt.Errorf("got %v", got)
	case e.seen.IsValid() && got.Source.Addr() != e.seen:
		return fmt.Errorf("got %v", got)
	}
	return nil
}

// checkTraces compares what is expected with what the plan says of the packet, and that with what the rules say
// that the kernel holds.
func (r *run) checkTraces(p *probe, held map[model.Family]ruleset) error {
	f := model.FamilyOf(p.To.Addr())
	packet := r.world.Packet(p.from, p.Protocol, p.source, p.To)
	planned := r.plan(f).Trace(packet)
	var differ error
	if ruled := held[f].Trace(packet); !ruled.Equal(planned) {
		differ = fmt.Errorf("the plan says: %v; the kernel's rules say: %v, by\n\t%s", planned, ruled, strings.Join(ruled.Rules, "\n\t"))
	}
	return errors.Join(p.agrees(planned), differ)
}

func (e *expectation) agrees(o plan.Outcome) error {
	verdicts := map[string][]plan.Verdict{
		"answered": {plan.Translate, plan.Pass}, "refused": {plan.Refuse, plan.Pass}, "silent": {plan.Discard},
		"unreachable": {plan.Pass}, "unserved": {plan.Pass},
	}
	if !slices.Contains(verdicts[e.verdict], o.Verdict) {
		return fmt.Errorf("the plan says: %v", o)
	}
	for _, t := range o.Targets {
		if o.Affinity == 0 && !slices.Contains(e.endpoints, t.Endpoint) {
			return fmt.Errorf("the plan says: %v", o)
		}
	}
	return nil
}

// cmdStick makes some connections, all of which must be answered by the same place, and gives it a name for
// later lines: stick NAME FROM TO:PORT/PROTOCOL
func (r *run) cmdStick(s step) error {
	from := r.world.Place(s.word(2))
	if from == nil {
		return fmt.Errorf("no place %q", s.word(2))
	}
	to, protocol, err := r.parseTo(s.word(3))
	if err != nil {
		return err
	}
	var first world.Result
	for i := range 20 {
		got, err := from.Ask(world.Question{Protocol: protocol, To: to})
		switch {
		case err != nil:
			return err
		case got.Verdict != world.Answered:
			return fmt.Errorf("got %v", got)
		case i == 0:
			first = got
		case got.Endpoint != first.Endpoint:
			return fmt.Errorf("first answered by %s, then by %s", first.Endpoint, got.Endpoint)
		}
	}
	for _, p := range r.world.Places() {
		if slices.Contains(p.Addrs, first.Endpoint.Addr()) {
			r.chosen[s.word(1)] = p.Name
			return nil
		}
	}
	return fmt.Errorf("nobody is at %s", first.Endpoint)
}

// cmdStray asks, with pauses longer than an affinity lasts, until the client gets another endpoint than at first:
// stray FROM TO:PORT/PROTOCOL PAUSE
func (r *run) cmdStray(s step) error {
	from := r.world.Place(s.word(1))
	if from == nil {
		return fmt.Errorf("no place %q", s.word(1))
	}
	to, protocol, err := r.parseTo(s.word(2))
	if err != nil {
		return err
	}
	pause, err := time.ParseDuration(s.word(3))
	if err != nil {
		return err
	}
	var first netip.AddrPort
	var last time.Time
	return r.poll(patience, func() error {
		// Each connection refreshes the affinity, so that asking sooner would keep it.
		if time.Since(last) < pause {
			return errors.New("the client stays with its endpoint")
		}
		got, err := from.Ask(world.Question{Protocol: protocol, To: to})
		last = time.Now()
		if err != nil {
			return err
		}
		if !first.IsValid() {
			first = got.Endpoint
		}
		if got.Endpoint == first {
			return fmt.Errorf("got %v again", got)
		}
		return nil
	})
}
