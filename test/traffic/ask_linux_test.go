package traffic

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"svcproxy/model"
	"svcproxy/test/world"
)

func question(proto model.Protocol, to netip.AddrPort) world.Question {
	return world.Question{Protocol: proto, To: to}
}

// ask makes one connection, which must be answered.
func ask(from *world.Place, proto model.Protocol, to netip.AddrPort) (world.Answer, error) {
	r, err := from.Ask(question(proto, to))
	return r.Answer, unanswered(r, err)
}

// unanswered returns why a connection does not count as answered, or nil. One that came about only because TCP
// repeats what is lost does not.
func unanswered(r world.Result, err error) error {
	switch {
	case err != nil:
		return err
	case r.Verdict != world.Answered || r.Lost > 0:
		return fmt.Errorf("from port %d: %v", r.From, r)
	}
	return nil
}

// mustAsk makes one connection, which must be answered.
func mustAsk(t *testing.T, from *world.Place, proto model.Protocol, to netip.AddrPort) world.Answer {
	t.Helper()
	a, err := ask(from, proto, to)
	if err != nil {
		t.Errorf("%s asks %s over %s: %v", from, to, proto, err)
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
func (y *tally) note(r world.Result, err error) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	if err = unanswered(r, err); err == nil {
		y.answers[r.Endpoint]++
	} else if y.failed++; len(y.examples) < 5 {
		y.examples = append(y.examples, err)
	}
	return y.failed < enoughFailures
}

func newTally() *tally { return &tally{answers: map[netip.AddrPort]int{}} }

// many makes n connections, some at a time, and notes their answers. It ends early after many failures.
func many(from *world.Place, n int, proto model.Protocol, to netip.AddrPort, y *tally) {
	from.AskMany(n, question(proto, to), y.note)
}
