package churn

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"svcproxy/test/world"
)

// server answers at one port of a pod, over TCP and UDP and in each family, until it is stopped.
type server struct {
	closers []func() error
	at      []netip.AddrPort
	all     sync.WaitGroup

	mu    sync.Mutex
	over  bool
	conns map[net.Conn]bool
}

func startServer(t *testing.T, p *world.Place, port uint16) *server {
	t.Helper()
	s := &server{conns: map[net.Conn]bool{}}
	for _, addr := range p.Addrs {
		at := netip.AddrPortFrom(addr, port)
		l, err := p.Listen(context.Background(), "tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		u, err := p.ListenPacket(context.Background(), "udp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		s.at = append(s.at, at)
		s.closers = append(s.closers, l.Close, u.Close)
		s.all.Go(func() { s.accept(l, at) })
		s.all.Go(func() { answerUDP(u.(*net.UDPConn), at) })
	}
	return s
}

func (s *server) accept(l net.Listener, at netip.AddrPort) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.over {
			c.Close()
		} else {
			s.conns[c] = true
			s.all.Go(func() { s.answerTCP(c, at) })
		}
		s.mu.Unlock()
	}
}

func (s *server) answerTCP(c net.Conn, at netip.AddrPort) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if _, err := fmt.Fprintf(c, "%s %s %s\n", at, c.RemoteAddr(), lines.Text()); err != nil {
			return
		}
	}
}

func answerUDP(c *net.UDPConn, at netip.AddrPort) {
	b := make([]byte, 64)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		// The client may be gone; the next one counts.
		_, _ = c.WriteToUDPAddrPort(fmt.Appendf(nil, "%s %s %s", at, from, b[:n]), from)
	}
}

// stop ends the server and its connections. It returns when that began.
func (s *server) stop() time.Time {
	began := time.Now()
	s.mu.Lock()
	s.over = true
	for _, c := range slices.Collect(func(yield func(net.Conn) bool) {
		for c := range s.conns {
			if !yield(c) {
				return
			}
		}
	}) {
		c.Close()
	}
	s.mu.Unlock()
	for _, f := range s.closers {
		_ = f()
	}
	s.all.Wait()
	return began
}
