package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/zap/zaptest"
)

// serve runs a Server on free ports of loopback until the test ends.
func serve(t *testing.T, z *Zone, hosts ...string) (s *Server, addrs []string) {
	t.Helper()
	s = &Server{Log: zaptest.NewLogger(t)}
	for _, host := range hosts {
		pc, l, err := Listen(t.Context(), net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		s.Packets, s.Listeners = append(s.Packets, pc), append(s.Listeners, l)
		addrs = append(addrs, l.Addr().String())
	}
	if z != nil {
		s.SetZone(z)
	}
	run(t, s)
	return s, addrs
}

// run runs a Server until the test ends.
func run(t *testing.T, s *Server) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func query(name string, qtype uint16) *mdns.Msg {
	return new(mdns.Msg).SetQuestion(name, qtype)
}

func exchange(t *testing.T, network, address string, m *mdns.Msg) *mdns.Msg {
	t.Helper()
	c := &mdns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: mdns.MaxMsgSize}
	r, _, err := c.ExchangeContext(t.Context(), m, address)
	if err != nil {
		t.Fatalf("%s query of %s: %v", network, address, err)
	}
	return r
}

func TestServesBothProtocolsAndFamilies(t *testing.T) {
	_, addrs := serve(t, testZone(t), "127.0.0.1", "::1")
	for _, a := range addrs {
		for _, network := range []string{"udp", "tcp"} {
			r := exchange(t, network, a, query("KUBERNETES.default.svc.cluster.local.", mdns.TypeA))
			if r.Rcode != mdns.RcodeSuccess || !r.Authoritative || r.RecursionAvailable || len(r.Answer) != 1 {
				t.Errorf("%s over %s: %v", a, network, r)
			}
			if got := r.Question[0].Name; got != "KUBERNETES.default.svc.cluster.local." {
				t.Errorf("%s over %s: the question came back as %q", a, network, got)
			}
		}
	}
}

func TestANewZoneIsServedAtOnce(t *testing.T) {
	s, addrs := serve(t, nil, "127.0.0.1")
	ask := func() *mdns.Msg {
		return exchange(t, "udp", addrs[0], query("web.default.svc.cluster.local.", mdns.TypeA))
	}
	if r := ask(); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("without a zone: %s", mdns.RcodeToString[r.Rcode])
	}
	for i := range 3 {
		ip := netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})
		z, _, err := NewZone(Config{Domain: "cluster.local"}, []Service{{Name: named("default", "web"), ClusterIPs: []netip.Addr{ip}}})
		if err != nil {
			t.Fatal(err)
		}
		s.SetZone(z)
		if r := ask(); len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != ip.String() {
			t.Errorf("want %s, got %v", ip, r)
		}
	}
}

// bigZone has a headless Service with n endpoints, which no small message holds.
func bigZone(t testing.TB, n int) *Zone {
	t.Helper()
	s := Service{Name: named("default", "big")}
	for i := range n {
		s.Endpoints = append(s.Endpoints, Endpoint{Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})})
	}
	z, _, err := NewZone(Config{Domain: "cluster.local"}, []Service{s})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestLongAnswersAreCutOverUDPAndWholeOverTCP(t *testing.T) {
	_, addrs := serve(t, bigZone(t, 500), "127.0.0.1")
	q := query("big.default.svc.cluster.local.", mdns.TypeA)
	for size, limit := range map[uint16]int{0: 512, 100: 512, 1000: 1000, 65535: maxUDPSize} {
		ask := q.Copy()
		if size > 0 {
			ask.SetEdns0(size, true)
		}
		r := exchange(t, "udp", addrs[0], ask)
		r.Compress = true // as it was on the wire
		if !r.Truncated || len(r.Answer) == 0 || r.Len() > limit {
			t.Errorf("EDNS size %d: truncated %t, %d records, %d bytes", size, r.Truncated, len(r.Answer), r.Len())
		}
		opt := r.IsEdns0()
		if (opt != nil) != (size > 0) {
			t.Fatalf("EDNS size %d: OPT in the reply is %v", size, opt)
		}
		if opt != nil && (!opt.Do() || opt.UDPSize() != maxUDPSize) {
			t.Errorf("EDNS size %d: reply has %v", size, opt)
		}
	}
	if r := exchange(t, "tcp", addrs[0], q); r.Truncated || len(r.Answer) != 500 {
		t.Errorf("over TCP: truncated %t, %d records", r.Truncated, len(r.Answer))
	}
}

func TestAdditionalAddressesAreLeftOutRatherThanTheAnswerCut(t *testing.T) {
	var eps []Endpoint
	for i := range 8 {
		eps = append(eps, Endpoint{Addr: netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), Ports: testServices()[0].Ports})
	}
	z, _, err := NewZone(Config{Domain: "cluster.local"}, []Service{{Name: named("default", "db"), Endpoints: eps}})
	if err != nil {
		t.Fatal(err)
	}
	r := respond(z, nil, query("_https._tcp.db.default.svc.cluster.local.", mdns.TypeSRV), 600, 0)
	if r.Truncated || len(r.Answer) != 8 || len(r.Extra) != 0 {
		t.Errorf("truncated %t, %d answers, %d additional records", r.Truncated, len(r.Answer), len(r.Extra))
	}
}

func TestClientsThatTakeTheFirstAddressAreSpread(t *testing.T) {
	_, addrs := serve(t, bigZone(t, 4), "127.0.0.1")
	first := map[string]int{}
	for range 40 {
		r := exchange(t, "udp", addrs[0], query("big.default.svc.cluster.local.", mdns.TypeA))
		if len(r.Answer) != 4 {
			t.Fatalf("%d answers", len(r.Answer))
		}
		first[r.Answer[0].String()]++
	}
	for rr, n := range first {
		if n != 10 {
			t.Errorf("%s came first %d times of 40", rr, n)
		}
	}
}

func TestRcodes(t *testing.T) {
	_, addrs := serve(t, testZone(t), "127.0.0.1")
	name := "kubernetes.default.svc.cluster.local."
	two := query(name, mdns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	none := query(name, mdns.TypeA)
	none.Question = nil
	version := query(name, mdns.TypeA).SetEdns0(1232, false)
	version.IsEdns0().SetVersion(1)
	options := query(name, mdns.TypeA).SetEdns0(1232, false)
	options.Extra = append(options.Extra, options.Extra[0])
	update := query(name, mdns.TypeSOA)
	update.Opcode = mdns.OpcodeUpdate
	notify := query(name, mdns.TypeSOA)
	notify.Opcode = mdns.OpcodeNotify
	for what, c := range map[string]struct {
		m     *mdns.Msg
		rcode int
	}{
		"two questions":    {two, mdns.RcodeFormatError},
		"no question":      {none, mdns.RcodeFormatError},
		"EDNS version 1":   {version, mdns.RcodeBadVers},
		"two OPT records":  {options, mdns.RcodeFormatError},
		"an OPT question":  {query(name, mdns.TypeOPT), mdns.RcodeFormatError},
		"an update":        {update, mdns.RcodeNotImplemented},
		"a notification":   {notify, mdns.RcodeNotImplemented},
		"outside":          {query("example.com.", mdns.TypeA), mdns.RcodeRefused},
		"unknown":          {query("x."+name, mdns.TypeA), mdns.RcodeNameError},
		"an unknown type":  {query(name, 65280), mdns.RcodeSuccess},
		"a zone transfer":  {query("cluster.local.", mdns.TypeAXFR), mdns.RcodeRefused},
		"a good one after": {query(name, mdns.TypeA), mdns.RcodeSuccess},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if r := exchange(t, network, addrs[0], c.m); r.Rcode != c.rcode {
				t.Errorf("%s over %s: %s, want %s", what, network, mdns.RcodeToString[r.Rcode], mdns.RcodeToString[c.rcode])
			}
		}
	}
}

func TestMalformedPacketsAreSurvived(t *testing.T) {
	_, addrs := serve(t, testZone(t), "127.0.0.1")
	whole, err := query("kubernetes.default.svc.cluster.local.", mdns.TypeA).SetEdns0(1232, true).Pack()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("udp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	loop := slices.Concat(whole[:12], []byte{0xc0, 0x0c, 0, 1, 0, 1})
	for _, packet := range [][]byte{{}, {0}, make([]byte, 12), make([]byte, 9000), slices.Repeat([]byte{0xff}, 600), loop} {
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	for n := range whole {
		if _, err := conn.Write(whole[:n]); err != nil {
			t.Fatal(err)
		}
	}
	// A client that promises more over TCP than it sends holds up nobody.
	half, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := half.Write([]byte{0xff, 0xff, 0}); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		if r := exchange(t, network, addrs[0], query("kubernetes.default.svc.cluster.local.", mdns.TypeA)); len(r.Answer) != 1 {
			t.Errorf("over %s afterwards: %v", network, r)
		}
	}
}

func TestStoppingClosesSocketsAndAnswersNoMore(t *testing.T) {
	pc, l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Packets: []net.PacketConn{pc}, Listeners: []net.Listener{l}, Log: zaptest.NewLogger(t)}
	s.SetZone(testZone(t))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	exchange(t, "tcp", l.Addr().String(), query("cluster.local.", mdns.TypeSOA))
	idle, err := net.Dial("tcp", l.Addr().String()) // an idle connection must not delay the end
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still serving")
	}
	again, second, err := Listen(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatalf("the sockets are still open: %v", err)
	}
	again.Close()
	second.Close()
}

func TestServeFailsWithASocketThatIsGone(t *testing.T) {
	pc, l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc.Close()
	s := &Server{Packets: []net.PacketConn{pc}, Listeners: []net.Listener{l}}
	if err := s.Serve(t.Context()); err == nil || !strings.Contains(err.Error(), "udp "+pc.LocalAddr().String()) {
		t.Errorf("error is %v", err)
	}
	if err := new(Server).Serve(t.Context()); err == nil {
		t.Error("no error without sockets")
	}
	if _, _, err := Listen(t.Context(), "not an address"); err == nil {
		t.Error("no error for an address that is none")
	}
}

func TestQueriesWhileZonesChange(t *testing.T) {
	s, addrs := serve(t, testZone(t), "127.0.0.1")
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for range 4 {
		wg.Go(func() {
			c := &mdns.Client{Timeout: 5 * time.Second}
			for range 100 {
				r, _, err := c.Exchange(query("kubernetes.default.svc.cluster.local.", mdns.TypeA), addrs[0])
				if err != nil || len(r.Answer) != 1 {
					errs <- fmt.Errorf("%v: %v", err, r)
					return
				}
			}
		})
	}
	for range 50 {
		s.SetZone(testZone(t))
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}
