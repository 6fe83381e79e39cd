package oracle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

// Real packets meet what the plan says: refused, dropped, or answered by an endpoint that it names, which sees
// the source that it says.
func TestPacketsAgree(t *testing.T) {
	t.Parallel()
	for _, plane := range dataplane.All {
		t.Run(plane.Name, func(t *testing.T) {
			t.Parallel()
			r := newReality(t, plane)
			rapid.Check(t, func(t *rapid.T) {
				before, c := (*cluster)(nil), drawCluster(t)
				for range rapid.IntRange(1, 2).Draw(t, "steps") {
					if err := r.judge(context.Background(), before, c, rapid.Uint64().Draw(t, "which packets")); err != nil {
						t.Fatalf("%v\nwith %s", err, shown(before, c))
					}
					before, c = c, c.change(t)
				}
			})
			r.spread(t)
			t.Logf("%d clusters, %d connections: %v", r.clusters, r.asked, r.verdicts)
		})
	}
}

// reality is a world whose node a backend programs.
type reality struct {
	w        *world.World
	subjects map[model.Family]*subject

	clusters int
	mu       sync.Mutex
	asked    int
	verdicts map[world.Verdict]int
}

func newReality(t testing.TB, plane dataplane.Plane) *reality {
	t.Helper()
	ports := map[model.Protocol][]uint16{}
	for _, p := range protocols {
		ports[p] = targetPorts
	}
	r := &reality{w: world.New(t, world.Config{Pods: podCount, RemotePods: remotePodCount, Hosts: hostCount, Ports: ports}),
		subjects: map[model.Family]*subject{}, verdicts: map[world.Verdict]int{}}
	for _, p := range protocols {
		r.w.Node.Serve(t, p, targetPorts...)
	}
	for _, f := range model.Families {
		u := newUniverse(f)
		r.w.AddNodeAddr(t, u.vip)
		u.podInterface = r.w.Pods[0].Interface
		for i, p := range r.w.Pods {
			u.interfaces[u.pods[i].addr()] = p.Interface
		}
		r.subjects[f] = newSubject(t, u, plane, r.w.Node.Path())
	}
	return r
}

// judge programs a cluster for both families, as what became of another one unless that is nil, and sends packets.
func (r *reality) judge(ctx context.Context, before, c *cluster, seed uint64) error {
	r.clusters++
	var errs []error
	for _, f := range model.Families {
		s := r.subjects[f]
		bring := s.follow
		if before == nil {
			bring = s.begin
		}
		if err := bring(ctx, c); err != nil {
			return fmt.Errorf("program %s: %w", f, err)
		}
		p := s.planner.Plan()
		errs = append(errs, r.send(s.u, p, r.choose(s.u, p, rand.New(rand.NewPCG(seed, uint64(f))))))
	}
	return errors.Join(errs...)
}

const (
	// mostPackets and mostSilent limit what is sent for a cluster of one family: silence takes its time.
	mostPackets = 40
	mostSilent  = 12
	// connections are tried of a packet that can go to several endpoints.
	connections = 4
)

// choose picks packets that can be sent: first one of each kind of route, then any.
func (r *reality) choose(u *universe, p *plan.Plan, random *rand.Rand) []plan.Packet {
	all := slices.DeleteFunc(packets(u, p), func(p plan.Packet) bool { return r.place(p.Source) == nil })
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var chosen, rest []plan.Packet
	seen, silent := map[string]bool{}, 0
	take := func(packet plan.Packet, o plan.Outcome) {
		if len(chosen) >= mostPackets || o.Verdict == plan.Discard && silent >= mostSilent {
			return
		}
		if o.Verdict == plan.Discard || o.Verdict == plan.Pass {
			silent++
		}
		chosen = append(chosen, packet)
	}
	for _, packet := range all {
		o := p.Trace(packet)
		// An ICMP error that comes late would be taken for one about the next SCTP packet; see send.
		if o.Verdict == plan.Pass && (silent >= mostSilent/2 || packet.Protocol == model.SCTP) {
			continue
		}
		if key := o.Why + packet.Protocol.String(); seen[key] {
			rest = append(rest, packet)
		} else {
			seen[key] = true
			take(packet, o)
		}
	}
	for _, packet := range rest {
		if o := p.Trace(packet); o.Verdict != plan.Pass {
			take(packet, o)
		}
	}
	return chosen
}

// place is where packets of a source come from, nil for those that none sends.
func (r *reality) place(source netip.Addr) *world.Place {
	if source.IsLoopback() || slices.Contains(r.w.Own(), source) {
		return r.w.Node
	}
	for _, p := range r.w.Places() {
		if slices.Contains(p.Addrs, source) {
			return p
		}
	}
	return nil
}

// send sends all packets at once; one after another only those of one client by affinity, which must be settled
// before the next, and those by SCTP, as raw sockets get the ICMP errors about each other's packets.
func (r *reality) send(u *universe, p *plan.Plan, chosen []plan.Packet) error {
	queues := map[string][]plan.Packet{}
	for i, packet := range chosen {
		key := fmt.Sprint(i)
		switch {
		case packet.Protocol == model.SCTP:
			key = "SCTP " + packet.Source.String()
		case p.Trace(packet).Affinity != 0:
			key = packet.Source.String()
		}
		queues[key] = append(queues[key], packet)
	}
	var wg sync.WaitGroup
	var errs []error
	for _, queue := range queues {
		wg.Go(func() {
			for _, packet := range queue {
				o := p.Trace(packet)
				if err := r.ask(u, packet, o); err != nil {
					r.mu.Lock()
					errs = append(errs, fmt.Errorf("%s to %s from %s by %q:\n  the plan: %v\n  really: %w", packet.Protocol, packet.Dest, packet.Source, packet.Interface, o, err))
					r.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ask opens connections by one packet and judges them.
func (r *reality) ask(u *universe, packet plan.Packet, o plan.Outcome) error {
	n := 1
	if len(o.Targets) > 1 {
		n = connections
	}
	var first netip.AddrPort
	for i := range n {
		result, err := r.place(packet.Source).Ask(world.Question{Protocol: packet.Protocol, To: packet.Dest, Source: netip.AddrPortFrom(packet.Source, 0)})
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.asked++
		r.verdicts[result.Verdict]++
		r.mu.Unlock()
		if err := r.expected(u, packet, o, result); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
		if i == 0 {
			first = result.Endpoint
		}
		if o.Affinity != 0 && result.Endpoint != first {
			return fmt.Errorf("connection %d: %s after %s, in spite of session affinity", i+1, result.Endpoint, first)
		}
	}
	return nil
}

func (r *reality) expected(u *universe, packet plan.Packet, o plan.Outcome, got world.Result) error {
	switch o.Verdict {
	case plan.Refuse:
		return is(got, world.Refused)
	case plan.Discard:
		return is(got, world.Silent)
	case plan.Pass:
		if got.Verdict == world.Answered && got.Endpoint != packet.Dest {
			return fmt.Errorf("%v, want nobody else to answer", got)
		}
		return nil
	}
	if got.Verdict != world.Answered {
		if slices.ContainsFunc(o.Targets, func(t plan.Target) bool { return r.returnsElsewhere(packet, t) }) {
			return nil
		}
		return fmt.Errorf("%v, want an answer", got)
	}
	for _, t := range o.Targets {
		if t.Endpoint == got.Endpoint {
			return r.source(u, packet, t, got)
		}
	}
	return fmt.Errorf("%v, which is no endpoint of it", got)
}

func is(got world.Result, want world.Verdict) error {
	if got.Verdict != want {
		return fmt.Errorf("%v, want %v", got, want)
	}
	return nil
}

// returnsElsewhere tells whether the answers may take a way around the node, which then can't give them the
// address that the client knows: neither the client nor the endpoint is on the node, and each knows the
// other's address. For another node's pods that node's own proxy would have acted; so also where the client is
// the endpoint.
func (r *reality) returnsElsewhere(packet plan.Packet, t plan.Target) bool {
	if remote(packet.Source) && packet.Source == t.Endpoint.Addr() {
		return true
	}
	here := func(a netip.Addr) bool { p := r.place(a); return p.Kind == world.Node || p.Kind == world.Pod }
	return !t.Masquerade && !here(packet.Source) && !here(t.Endpoint.Addr())
}

// source checks the client's address as the endpoint saw it. Which of its addresses the node takes towards
// itself is the kernel's choice.
func (r *reality) source(u *universe, packet plan.Packet, t plan.Target, got world.Result) error {
	want := packet.Source
	switch {
	case t.Masquerade && slices.Contains(r.w.Own(), t.Endpoint.Addr()):
		if slices.Contains(u.own(), got.Source.Addr()) || got.Source.Addr().IsLoopback() {
			return nil
		}
	case t.Masquerade:
		want = r.w.Masquerade(t.Endpoint.Addr())
	}
	if got.Source.Addr() != want {
		return fmt.Errorf("%v, want the source %s", got, want)
	}
	return nil
}

// spread fails the test if it saw too little of anything. A short run has too few clusters to see everything.
func (r *reality) spread(t testing.TB) {
	t.Helper()
	if r.verdicts[world.Answered] == 0 {
		t.Error("no connection was answered")
	}
	for _, v := range []world.Verdict{world.Answered, world.Refused, world.Silent} {
		if r.verdicts[v] < nstest.Sized(0, 100) {
			t.Errorf("%v was seen %d times only", v, r.verdicts[v])
		}
	}
}
