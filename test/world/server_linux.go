package world

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"svcproxy/model"
)

// Serve makes the place answer, at each of its addresses, on ports that it did not serve before, until the
// test ends.
func (p *Place) Serve(t testing.TB, protocol model.Protocol, ports ...uint16) {
	t.Helper()
	for _, addr := range p.Addrs {
		p.ServeAt(t, addr, protocol, ports...)
	}
}

// ServeAt is Serve at one address, which may be a loopback one.
func (p *Place) ServeAt(t testing.TB, addr netip.Addr, protocol model.Protocol, ports ...uint16) {
	t.Helper()
	for _, port := range ports {
		at := netip.AddrPortFrom(addr, port)
		switch protocol {
		case model.TCP:
			p.serveTCP(t, at)
		case model.UDP:
			p.serveUDP(t, at)
		case model.SCTP:
			p.serveSCTP(t, at)
		default:
			t.Fatalf("%s can't serve %s", p, protocol)
		}
	}
}

// serveTCP answers every question on every connection.
func (p *Place) serveTCP(t testing.TB, at netip.AddrPort) {
	t.Helper()
	l, err := p.Listen(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerTCP(c, at)
		}
	}()
}

func answerTCP(c net.Conn, at netip.AddrPort) {
	defer c.Close()
	said := Answer{at, c.RemoteAddr().(*net.TCPAddr).AddrPort()}.String()
	question := make([]byte, 1)
	for {
		if _, err := c.Read(question); err != nil {
			return
		}
		if _, err := io.WriteString(c, said); err != nil {
			return
		}
	}
}

func (p *Place) serveUDP(t testing.TB, at netip.AddrPort) {
	t.Helper()
	l, err := p.ListenPacket(t.Context(), "udp", at.String())
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, question := l.(*net.UDPConn), make([]byte, 64)
		for {
			_, from, err := c.ReadFromUDPAddrPort(question)
			if err != nil {
				return
			}
			// The client may be gone; the next one counts.
			_, _ = c.WriteToUDPAddrPort([]byte(Answer{at, from}.String()), from)
		}
	}()
}

// serveSCTP answers every INIT with an INIT ACK whose cookie is the answer.
func (p *Place) serveSCTP(t testing.TB, at netip.AddrPort) {
	t.Helper()
	network := map[model.Family]string{model.IPv4: "ip4:132", model.IPv6: "ip6:132"}[model.FamilyOf(at.Addr())]
	c, err := p.ListenPacket(t.Context(), network, at.Addr().String())
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			in, err := parseSCTP(b[:n])
			if err != nil || in.chunk != sctpInit || in.tag != 0 || in.destination != at.Port() {
				continue
			}
			source, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
			cookie := Answer{at, netip.AddrPortFrom(source.Unmap(), in.source)}.String()
			out := sctpPacket{at.Port(), in.source, in.initiateTag, sctpInitAck, in.initiateTag ^ 1, []byte(cookie)}
			_, _ = c.WriteTo(out.bytes(), from)
		}
	}()
}
