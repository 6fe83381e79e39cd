package peer

import (
	"os"
	"strings"
	"sync"
	"testing"
)

// page is where users read about the differences.
const page = "../../docs/differences.md"

// A difference from kube-proxy is one that is meant.
type difference struct {
	// title is its heading in the page, which tells the reason.
	title string
	// holds tells whether it explains why the outcomes of a probe differ. It is nil where packets to Services
	// of a valid cluster don't show it, or another test of this package compares.
	holds func(mode string, p probe, theirs, ours observation) bool
}

var differences = []difference{
	{"The node's own connections to an external address without endpoints", func(mode string, p probe, theirs, ours observation) bool {
		return mode == "iptables" && p.from == "node" && (p.kind == "external" || p.kind == "balancer") &&
			!theirs[refused] && !theirs.answered() && ours.is(refused)
	}},
	{"Source ranges of a Service without endpoints", func(mode string, p probe, theirs, ours observation) bool {
		return mode == "iptables" && p.subject == "ranges-nobody" && p.kind == "balancer" && !theirs.answered() && ours.is(silent)
	}},
	{"Source ranges of an address that is an external IP too", func(mode string, p probe, theirs, ours observation) bool {
		return mode == "iptables" && p.subject == "ranges-external" && p.kind == "external" && theirs.answered() && ours.is(silent)
	}},
	{"Node ports at addresses that are not node port addresses", func(mode string, p probe, theirs, ours observation) bool {
		elsewhere := p.kind == "gateway" || p.kind == "own" || p.kind == "loopback"
		return mode == "iptables" && elsewhere && theirs.is(silent) && ours.is(refused)
	}},
	{"Session affinity under the external traffic policy Local", func(mode string, p probe, theirs, ours observation) bool {
		before, together := strings.CutSuffix(theirs.String(), oneEndpoint)
		return mode == "nftables" && p.subject == "affinity-local" && together && ours.is(before+moreEndpoints)
	}},
	{"A TCP reset instead of an ICMP error", nil},
	{"A frontend that several Services claim", nil},
	{"Endpoints that are no pods' addresses", nil},
	{"Chains for address prefixes", nil},
}

// A ledger counts how often each difference was seen.
type ledger struct {
	mu   sync.Mutex
	seen map[string]int
}

// note looks for a difference that explains the outcomes.
func (l *ledger) note(mode string, p probe, theirs, ours observation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range differences {
		if d.holds != nil && d.holds(mode, p, theirs, ours) {
			if l.seen == nil {
				l.seen = map[string]int{}
			}
			l.seen[d.title]++
			return true
		}
	}
	return false
}

// checkAllSeen finds differences that are none any more.
func (l *ledger) checkAllSeen(t *testing.T) {
	t.Helper()
	for _, d := range differences {
		if d.holds == nil {
			continue
		}
		t.Logf("%s: %d times", d.title, l.seen[d.title])
		if l.seen[d.title] == 0 {
			t.Errorf("%q was not seen: is it still a difference?", d.title)
		}
	}
}

func TestThePageTellsEachDifference(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differences {
		if !strings.Contains(string(text), "\n## "+d.title+"\n") {
			t.Errorf("%s has no section %q", page, d.title)
		}
	}
}
