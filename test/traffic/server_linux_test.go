package traffic

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"svcproxy/model"
	"svcproxy/sandbox"
)

// protocols are those of Services.
var protocols = []model.Protocol{model.TCP, model.UDP, model.SCTP}

// Ports of every Service and of every server. They differ, so that an address translated without its port
// is noticed.
var (
	servicePorts = map[model.Protocol]uint16{model.TCP: 80, model.UDP: 53, model.SCTP: 36412}
	serverPorts  = map[model.Protocol]uint16{model.TCP: 8080, model.UDP: 5353, model.SCTP: 9000}
)

// answer is what a server tells a client.
type answer struct {
	// endpoint is the server's own address, source the client's as the server sees it.
	endpoint, source netip.AddrPort
}

func (a answer) String() string { return fmt.Sprint(a.endpoint, " ", a.source) }

func parseAnswer(b []byte) (a answer, err error) {
	var endpoint, source string
	if _, err = fmt.Sscan(string(b), &endpoint, &source); err != nil {
		return a, fmt.Errorf("answer %q: %w", b, err)
	}
	if a.endpoint, err = netip.ParseAddrPort(endpoint); err == nil {
		a.source, err = netip.ParseAddrPort(source)
	}
	return a, err
}

// serve answers at an address over every protocol until the test ends.
func serve(t *testing.T, ns *sandbox.Netns, addr netip.Addr) {
	t.Helper()
	serveTCP(t, ns, netip.AddrPortFrom(addr, serverPorts[model.TCP]))
	serveUDP(t, ns, netip.AddrPortFrom(addr, serverPorts[model.UDP]))
	serveSCTP(t, ns, netip.AddrPortFrom(addr, serverPorts[model.SCTP]))
}

// serveTCP answers every question on every connection.
func serveTCP(t *testing.T, ns *sandbox.Netns, at netip.AddrPort) {
	t.Helper()
	l, err := ns.Listen(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
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
	said := answer{at, c.RemoteAddr().(*net.TCPAddr).AddrPort()}.String()
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

func serveUDP(t *testing.T, ns *sandbox.Netns, at netip.AddrPort) {
	t.Helper()
	p, err := ns.ListenPacket(t.Context(), "udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	go func() {
		c, question := p.(*net.UDPConn), make([]byte, 64)
		for {
			_, from, err := c.ReadFromUDPAddrPort(question)
			if err != nil {
				return
			}
			// The client may be gone; the next one counts.
			_, _ = c.WriteToUDPAddrPort([]byte(answer{at, from}.String()), from)
		}
	}()
}
