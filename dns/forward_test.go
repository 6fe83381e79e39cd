package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// upstreamServer is a server of others; it counts its questions, those of probes excepted.
type upstreamServer struct {
	addr  netip.AddrPort
	asked atomic.Int32
}

func startUpstream(t *testing.T, answer func(w mdns.ResponseWriter, m *mdns.Msg)) *upstreamServer {
	t.Helper()
	pc, l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstreamServer{addr: netip.MustParseAddrPort(l.Addr().String())}
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, m *mdns.Msg) {
		if !strings.HasSuffix(m.Question[0].Name, probeZone) {
			u.asked.Add(1)
		}
		answer(w, m)
	})
	for _, s := range []*mdns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return u
}

// says answers every question with these records; NAME in them is the question's.
func says(ttl int, records ...string) func(mdns.ResponseWriter, *mdns.Msg) {
	return func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := new(mdns.Msg).SetReply(m)
		for _, text := range records {
			rr, err := mdns.NewRR(fmt.Sprintf("%s %d IN %s", m.Question[0].Name, ttl, text))
			if err != nil {
				panic(err)
			}
			r.Answer = append(r.Answer, rr)
		}
		_ = w.WriteMsg(r)
	}
}

func codes(rcode int) func(mdns.ResponseWriter, *mdns.Msg) {
	return func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := new(mdns.Msg).SetRcode(m, rcode)
		if rcode == mdns.RcodeNameError {
			soa, _ := mdns.NewRR("example. 60 IN SOA ns.example. mail.example. 1 2 3 4 20")
			r.Ns = []mdns.RR{soa}
		}
		_ = w.WriteMsg(r)
	}
}

// open makes a Server that does not answer yet, and where it will.
func open(t *testing.T) (*Server, *upstreamServer) {
	t.Helper()
	pc, l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Packets: []net.PacketConn{pc}, Listeners: []net.Listener{l}}
	s.SetZone(testZone(t))
	return s, &upstreamServer{addr: netip.MustParseAddrPort(l.Addr().String())}
}

func newTestForwarder(t *testing.T, cfg ForwardConfig, upstreams ...*upstreamServer) *Forwarder {
	t.Helper()
	for _, u := range upstreams {
		cfg.Upstreams = append(cfg.Upstreams, u.addr)
	}
	f, err := NewForwarder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func resolve(t *testing.T, f *Forwarder, name string, qtype uint16) *mdns.Msg {
	t.Helper()
	m := query(name, qtype)
	return f.Resolve(t.Context(), m.Question[0], m)
}

func TestForwardsWhatIsNotTheZones(t *testing.T) {
	u := startUpstream(t, says(60, "A 192.0.2.7"))
	s, at := open(t)
	s.Forward = newTestForwarder(t, ForwardConfig{}, u)
	run(t, s)
	r := exchange(t, "udp", at.addr.String(), query("Www.Example.", mdns.TypeA))
	if len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != "192.0.2.7" || r.Authoritative || !r.RecursionAvailable {
		t.Errorf("got %v", r)
	}
	if got := r.Answer[0].Header().Name; got != "Www.Example." {
		t.Errorf("the name came back as %s", got)
	}
	exchange(t, "udp", at.addr.String(), query("dns-version.cluster.local.", mdns.TypeTXT))
	exchange(t, "udp", at.addr.String(), query("nobody.default.svc.cluster.local.", mdns.TypeA))
	if n := u.asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times: names of the cluster are not its business", n)
	}
}

func TestALongAnswerIsAskedForOverTCP(t *testing.T) {
	u := startUpstream(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		if w.LocalAddr().Network() == "udp" {
			r := new(mdns.Msg).SetReply(m)
			r.Truncated = true
			_ = w.WriteMsg(r)
			return
		}
		says(60, "A 192.0.2.8")(w, m)
	})
	r := resolve(t, newTestForwarder(t, ForwardConfig{}, u), "long.example.", mdns.TypeA)
	if r.Rcode != mdns.RcodeSuccess || len(r.Answer) != 1 {
		t.Errorf("got %v", r)
	}
}

func TestADeadUpstreamIsLeftForAnother(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0") // takes questions, answers none
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	dead := &upstreamServer{addr: netip.MustParseAddrPort(pc.LocalAddr().String())}
	sick, well := startUpstream(t, codes(mdns.RcodeServerFailure)), startUpstream(t, says(60, "A 192.0.2.9"))
	f := newTestForwarder(t, ForwardConfig{Timeout: 50 * time.Millisecond}, dead, sick, well)
	for i := range 6 {
		if r := resolve(t, f, fmt.Sprintf("n%d.example.", i), mdns.TypeA); len(r.Answer) != 1 {
			t.Errorf("question %d: %v", i, r)
		}
	}
	alone := newTestForwarder(t, ForwardConfig{Timeout: 50 * time.Millisecond}, dead)
	if r := resolve(t, alone, "n.example.", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("a dead server alone: %v", r)
	}
}

func TestAnAnswerToAnotherQuestionIsNoAnswer(t *testing.T) {
	u := startUpstream(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		forged := new(mdns.Msg).SetReply(m)
		forged.Question[0].Name = "evil.example."
		_ = w.WriteMsg(forged)
		forged = new(mdns.Msg).SetReply(m)
		forged.Id++
		_ = w.WriteMsg(forged)
		says(60, "A 192.0.2.10")(w, m)
	})
	r := resolve(t, newTestForwarder(t, ForwardConfig{}, u), "good.example.", mdns.TypeA)
	if len(r.Answer) != 1 || r.Answer[0].Header().Name != "good.example." {
		t.Errorf("got %v", r)
	}
}

func TestCacheCountsDownAndForgets(t *testing.T) {
	u := startUpstream(t, says(60, "A 192.0.2.11"))
	now := time.Unix(1000, 0)
	f := newTestForwarder(t, ForwardConfig{Now: func() time.Time { return now }}, u)
	resolve(t, f, "a.example.", mdns.TypeA)
	now = now.Add(20 * time.Second)
	if r := resolve(t, f, "A.example.", mdns.TypeA); r.Answer[0].Header().Ttl != 40 || u.asked.Load() != 1 {
		t.Errorf("after 20 of 60 s: TTL %d, asked %d times", r.Answer[0].Header().Ttl, u.asked.Load())
	}
	now = now.Add(41 * time.Second)
	if resolve(t, f, "a.example.", mdns.TypeA); u.asked.Load() != 2 {
		t.Errorf("what has expired was served again")
	}
	secure := query("a.example.", mdns.TypeA).SetEdns0(4096, true)
	if f.Resolve(t.Context(), secure.Question[0], secure); u.asked.Load() != 3 {
		t.Errorf("an answer without signatures was served to one who asked for them")
	}
}

func TestCacheKeepsWhatDoesNotExistByItsSOA(t *testing.T) {
	u := startUpstream(t, codes(mdns.RcodeNameError))
	now := time.Unix(1000, 0)
	f := newTestForwarder(t, ForwardConfig{Now: func() time.Time { return now }}, u)
	for _, step := range []struct {
		later time.Duration
		asked int32
	}{{0, 1}, {19 * time.Second, 1}, {2 * time.Second, 2}} {
		now = now.Add(step.later)
		if r := resolve(t, f, "none.example.", mdns.TypeA); r.Rcode != mdns.RcodeNameError || u.asked.Load() != step.asked {
			t.Errorf("after %v more: %s, asked %d times, want %d", step.later, mdns.RcodeToString[r.Rcode], u.asked.Load(), step.asked)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	u := startUpstream(t, says(60, "A 192.0.2.12"))
	f := newTestForwarder(t, ForwardConfig{Cache: CacheConfig{Entries: 3, MaxTTL: time.Hour}}, u)
	for i := range 10 {
		resolve(t, f, fmt.Sprintf("n%d.example.", i), mdns.TypeA)
	}
	if n := f.cache.size(); n != 3 {
		t.Errorf("%d entries, want 3", n)
	}
	zero := startUpstream(t, says(0, "A 192.0.2.13"))
	f = newTestForwarder(t, ForwardConfig{}, zero)
	for range 2 {
		resolve(t, f, "now.example.", mdns.TypeA)
	}
	if n := zero.asked.Load(); n != 2 {
		t.Errorf("an answer with TTL 0 was kept: asked %d times", n)
	}
}

func TestEqualQuestionsAtOnceAreAskedOnce(t *testing.T) {
	wait := make(chan struct{})
	u := startUpstream(t, func(w mdns.ResponseWriter, m *mdns.Msg) { <-wait; says(60, "A 192.0.2.14")(w, m) })
	f := newTestForwarder(t, ForwardConfig{Concurrency: 50}, u)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { resolve(t, f, "same.example.", mdns.TypeA) })
	}
	for u.asked.Load() == 0 || len(f.slots) < 20 {
		runtime.Gosched()
	}
	close(wait)
	all.Wait()
	if n := u.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestMoreQuestionsThanMayWaitFail(t *testing.T) {
	wait := make(chan struct{})
	u := startUpstream(t, func(w mdns.ResponseWriter, m *mdns.Msg) { <-wait; says(60, "A 192.0.2.15")(w, m) })
	f := newTestForwarder(t, ForwardConfig{Concurrency: 2}, u)
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() { resolve(t, f, fmt.Sprintf("slow%d.example.", i), mdns.TypeA) })
	}
	for len(f.slots) < 2 {
		runtime.Gosched()
	}
	if r := resolve(t, f, "third.example.", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v", r)
	}
	close(wait)
	all.Wait()
}

func TestALoopEnds(t *testing.T) {
	// Two servers, each the other's upstream.
	first, one := open(t)
	second, two := open(t)
	first.Forward = newTestForwarder(t, ForwardConfig{Timeout: time.Second}, two)
	second.Forward = newTestForwarder(t, ForwardConfig{Timeout: time.Second}, one)
	run(t, first)
	run(t, second)
	if r := exchange(t, "udp", one.addr.String(), query("round.example.", mdns.TypeA)); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v", r)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go first.Forward.Watch(ctx)
	deadline := time.Now().Add(5 * time.Second)
	for len(first.Forward.Upstreams()) > 0 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if used := first.Forward.Upstreams(); len(used) > 0 {
		t.Errorf("%v is still asked though it leads back", used)
	}
}

func TestAServerIsNotItsOwnUpstream(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	for upstream, listening := range map[string]string{"192.0.2.1:53": "0.0.0.0:53", "127.0.0.1:53": "[::]:53", "[::1]:5353": "[::1]:5353"} {
		if err := CheckUpstreams([]netip.AddrPort{netip.MustParseAddrPort(upstream)}, []netip.AddrPort{netip.MustParseAddrPort(listening)}, own); err == nil {
			t.Errorf("upstream %s of a server at %s was taken", upstream, listening)
		}
	}
	if err := CheckUpstreams([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:53")}, []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:53")}, own); err != nil {
		t.Error(err)
	}
}

func TestNamesThatAreNobodysAreNotForwarded(t *testing.T) {
	u := startUpstream(t, says(60, "A 192.0.2.16"))
	f := newTestForwarder(t, ForwardConfig{}, u)
	if r := resolve(t, f, "localhost.", mdns.TypeA); len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != "127.0.0.1" {
		t.Errorf("localhost: %v", r)
	}
	for _, name := range []string{"x.invalid.", "1.0.168.192.in-addr.arpa.", "1.2.0.192.in-addr.arpa."} {
		if r := resolve(t, f, name, mdns.TypePTR); r.Rcode != mdns.RcodeNameError {
			t.Errorf("%s: %v", name, r)
		}
	}
	if n := u.asked.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

// FuzzServer takes any message as a client's, over UDP and TCP, with an upstream that echoes it: nothing panics, and
// whatever is answered is a message with the same number.
func FuzzServer(f *testing.F) {
	for _, m := range []*mdns.Msg{query("web.default.svc.cluster.local.", mdns.TypeA), query("www.example.", mdns.TypeAAAA).SetEdns0(1232, true)} {
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01")) // a name that points at itself
	zone, _, err := NewZone(Config{Domain: "cluster.local", Pods: PodsInsecure}, nil)
	if err != nil {
		f.Fatal(err)
	}
	forward, err := NewForwarder(ForwardConfig{
		Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Timeout: 20 * time.Millisecond,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() { // sends back what it gets
				defer far.Close()
				b := make([]byte, 4096)
				if n, err := far.Read(b); err == nil {
					_, _ = far.Write(b[:n])
				}
			}()
			return near, nil
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{Forward: forward}
	s.SetZone(zone)
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, udp := range []bool{true, false} {
			reply := s.handle(t.Context(), packet, udp)
			if reply == nil {
				continue
			}
			var m mdns.Msg
			if err := m.Unpack(reply); err != nil {
				t.Fatalf("answered what can't be read: %v", err)
			}
			if len(packet) < 2 || reply[0] != packet[0] || reply[1] != packet[1] || !m.Response {
				t.Fatalf("answered %x to %x", reply, packet)
			}
		}
	})
}
