package peer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"svcproxy/model"
	"svcproxy/test/world"
)

// A probe is a question that is asked on every node alike.
type probe struct {
	subject  string // of which Service, or "nothing" or the like
	kind     string // which of its addresses: cluster, external, balancer, node, …
	from     string // a place's name
	source   netip.Addr
	protocol model.Protocol
	to       netip.AddrPort
}

// String names the probe: differences match it by its words.
func (p probe) String() string {
	from := p.from
	if p.source.IsValid() {
		from += "(" + p.source.String() + ")"
	}
	return fmt.Sprintf("%s %s from %s %s %s", p.subject, p.kind, from, p.protocol, p.to)
}

// askers are the places that ask: a pod that is an endpoint, one that is none, a pod of the other node, a host
// that ranges hold and one that they don't, and the node.
var askers = []string{"pod-1", "pod-3", "remote-2", "host-1", "host-2", "node"}

// probes returns all questions of a family.
func probes(f model.Family) (all []probe) {
	add := func(subject, kind string, p model.Protocol, to netip.Addr, port uint16) {
		for _, from := range askers {
			if !to.IsLoopback() || from == "node" {
				all = append(all, probe{subject, kind, from, netip.Addr{}, p, netip.AddrPortFrom(to, port)})
			}
		}
	}
	for i, s := range subjects {
		n := i + 1
		if s.sticky() {
			continue // see affinity_linux_test.go
		}
		for _, p := range s.protocols() {
			add(s.name, "cluster", p, clusterIP(f, n), servicePort)
			add(s.name, "external", p, externalIP(f, n), servicePort)
			add(s.name, "balancer", p, balancerIP(f, n), servicePort)
			if p == model.SCTP {
				// At others of the node's addresses the kernel may refuse it, in words that the handmade client
				// can't read.
				add(s.name, "node", p, world.NodeAddr(f), nodePort(n))
				continue
			}
			for kind, to := range map[string]netip.Addr{
				"node": world.NodeAddr(f), "gateway": gateway(f), "loopback": loopback(f), "own": own(f),
			} {
				add(s.name, kind, p, to, nodePort(n))
			}
		}
	}
	for _, p := range []model.Protocol{model.TCP, model.UDP} {
		add("ranges-own", "own-balancer", p, own(f), servicePort)
		add("node-external", "node-external", p, world.NodeAddr(f), servicePort)
		add("unknown-port", "cluster", p, clusterIP(f, 1), servicePort+1)
		add("unknown-port", "external", p, externalIP(f, 1), servicePort+1)
		add("unknown-port", "node", p, world.NodeAddr(f), nodePort(254))
		add("nothing", "unallocated", p, clusterIP(f, 254), servicePort)
		all = append(all, sourced(f, p)...)
	}
	slices.SortStableFunc(all, func(a, b probe) int { return cmp.Compare(a.String(), b.String()) })
	return all
}

// sourced are the node's questions from others of its addresses than the kernel chooses.
func sourced(f model.Family, p model.Protocol) (all []probe) {
	for i, s := range subjects {
		if !slices.Contains([]string{"plain", "external-here", "external-elsewhere", "ranges", "ranges-host", "ranges-pods"}, s.name) {
			continue
		}
		for _, source := range []netip.Addr{gateway(f), own(f), balancerIP(f, i+1)} {
			for kind, to := range map[string]netip.AddrPort{
				"cluster": netip.AddrPortFrom(clusterIP(f, i+1), servicePort), "balancer": netip.AddrPortFrom(balancerIP(f, i+1), servicePort),
				"node": netip.AddrPortFrom(world.NodeAddr(f), nodePort(i+1)),
			} {
				if source != balancerIP(f, i+1) { // which only a node has that a load balancer's agent runs on
					all = append(all, probe{s.name, kind, "node", source, p, to})
				}
			}
		}
	}
	return all
}

func gateway(f model.Family) netip.Addr { return numbered(f, "10.244.0.%d", "fd00:10:244::%d", 1) }
func own(f model.Family) netip.Addr {
	return nodeBalancer[map[model.Family]int{model.IPv4: 0, model.IPv6: 1}[f]]
}
func loopback(f model.Family) netip.Addr {
	if f == model.IPv4 {
		return netip.MustParseAddr("127.0.0.1")
	}
	return netip.IPv6Loopback()
}

// An observation is what became of a probe's connections: each outcome once. An outcome is a verdict, or which
// endpoint answered and as whom it saw the client.
type observation map[string]bool

const unreachable, refused, silent = "unreachable", "refused", "silent"

func (o observation) add(r world.Result, f model.Family) {
	switch {
	case r.Verdict == world.Answered:
		o[fmt.Sprintf("%s as %s", r.Endpoint, r.Source.Addr())] = true
	case r.Verdict == world.Unreachable && f == model.IPv4:
		// The world's router says so to a place once in a second only; in IPv6 it always does.
		o[silent] = true
	default:
		o[r.Verdict.String()] = true
	}
	// Who says that nobody is there says so to every packet, but for the few whose ICMP error the kernel
	// withholds, as when it sends another one on the same processor.
	if o[unreachable] || o[refused] {
		delete(o, silent)
	}
}

// from tells whether an endpoint answered.
func (o observation) from(endpoint netip.AddrPort) bool {
	for outcome := range o {
		if strings.HasPrefix(outcome, endpoint.String()+" as ") {
			return true
		}
	}
	return false
}

// answered tells whether any connection was.
func (o observation) answered() bool {
	for outcome := range o {
		if outcome != unreachable && outcome != refused && outcome != silent {
			return true
		}
	}
	return false
}

// is tells whether an outcome was the only one.
func (o observation) is(outcome string) bool { return len(o) == 1 && o[outcome] }

// equal tells whether two observations are the same.
func (o observation) equal(p observation) bool { return maps.Equal(o, p) }

// String lists the outcomes.
func (o observation) String() string { return strings.Join(slices.Sorted(maps.Keys(o)), ", ") }

// ask makes up to n more connections and notes what becomes of them.
func (n *node) ask(o observation, p probe, connections int) error {
	defer n.alone(p)()
	q := world.Question{Protocol: p.protocol, To: p.to}
	if p.source.IsValid() {
		q.Source = netip.AddrPortFrom(p.source, 0)
	}
	for range connections {
		r, err := n.Place(p.from).Ask(q)
		for range 3 {
			if errors.Is(err, unix.EADDRINUSE) { // by the proxy, for instance
				r, err = n.Place(p.from).Ask(q)
			}
		}
		if p.protocol == model.SCTP && errors.Is(err, unix.EPROTO) {
			r, err = world.Result{Verdict: world.Refused}, nil // so ICMPv6 says of a protocol that the node has not
		}
		if err != nil {
			return fmt.Errorf("%s, %s: %w", n.name, p, err)
		}
		o.add(r, model.FamilyOf(p.to.Addr()))
		if r.Verdict != world.Answered {
			return nil // which takes its time to tell, and there is seldom another outcome
		}
	}
	return nil
}

// alone keeps the questions over SCTP from one place to one address apart, as raw sockets get each other's
// ICMP errors.
func (n *node) alone(p probe) (done func()) {
	if p.protocol != model.SCTP {
		return func() {}
	}
	type way struct {
		from string
		to   netip.Addr
	}
	lock, _ := n.sctp.LoadOrStore(way{p.from, p.to.Addr()}, new(sync.Mutex))
	lock.(*sync.Mutex).Lock()
	return lock.(*sync.Mutex).Unlock
}

const (
	// firstLook is how many connections are made at first, thorough how many more at most to find an outcome
	// that the peer has: one of three equal ones is missed less than once in 10^10 times.
	firstLook, thorough = 3, 60
	// doubtful is how many more are made if none was answered: such an outcome is not random.
	doubtful = 4
	// atOnce is how many probes wait for answers at a time.
	atOnce = 48
)

// observe asks two nodes the same, and goes on asking the one that has fewer outcomes.
func observe(p probe, theirs, ours *node) (a, b observation, err error) {
	a, b = observation{}, observation{}
	if err := errors.Join(theirs.ask(a, p, firstLook), ours.ask(b, p, firstLook)); err != nil {
		return nil, nil, err
	}
	for i := 0; i < thorough && !a.equal(b); i++ {
		if i == doubtful && !a.answered() && !b.answered() {
			break
		}
		if lacks(a, b) {
			err = theirs.ask(a, p, 1)
		}
		if lacks(b, a) {
			err = errors.Join(err, ours.ask(b, p, 1))
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return a, b, nil
}

// lacks tells whether the other has an outcome that this observation does not.
func lacks(o, other observation) bool {
	for outcome := range other {
		if !o[outcome] {
			return true
		}
	}
	return false
}

// each runs fn for all probes, some at a time.
func each(t *testing.T, probes []probe, fn func(probe)) {
	t.Helper()
	next := make(chan probe)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for p := range next {
				fn(p)
			}
		})
	}
	for _, p := range probes {
		next <- p
	}
	close(next)
	wg.Wait()
}

// expect tells whether a pod's connection has that verdict, unless whether it has another.
func (n *node) expect(want world.Verdict, to netip.AddrPort) error {
	r, err := n.Pods[2].Ask(world.Question{Protocol: model.TCP, To: to})
	if err == nil && r.Verdict != want {
		err = fmt.Errorf("%s: %s: %v, want it %v", n.name, to, r, want)
	}
	return err
}

func (n *node) unless(bad world.Verdict, to netip.AddrPort) error {
	r, err := n.Pods[2].Ask(world.Question{Protocol: model.TCP, To: to})
	if err == nil && r.Verdict == bad {
		err = fmt.Errorf("%s: %s: still %v", n.name, to, r)
	}
	return err
}
