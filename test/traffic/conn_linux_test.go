package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// conn is a connection from a client. It is a blocking socket: the thousands that a test makes one after
// another cost a fraction of those of package net.
type conn struct {
	fd    int
	proto model.Protocol
	from  uint16
	to    netip.AddrPort
}

// open makes a socket in the namespace of the calling thread and connects it to an address. Every wait on
// it ends after the time given, with os.ErrDeadlineExceeded. For SCTP it is a raw socket, which being
// connected takes packets from that address alone, and the ICMP errors about it.
func open(proto model.Protocol, from uint16, to netip.AddrPort, wait time.Duration) (*conn, error) {
	domain := map[model.Family]int{model.IPv4: unix.AF_INET, model.IPv6: unix.AF_INET6}[model.FamilyOf(to.Addr())]
	kind := map[model.Protocol]int{model.TCP: unix.SOCK_STREAM, model.UDP: unix.SOCK_DGRAM, model.SCTP: unix.SOCK_RAW}[proto]
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		return nil, fmt.Errorf("make %s socket: %w", proto, err)
	}
	c := &conn{fd, proto, from, to}
	limit := unix.NsecToTimeval(wait.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	if err == nil && proto != model.TCP {
		err = reportUnreachable(fd, domain)
	}
	if err == nil && proto != model.SCTP {
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(unspecified(to.Addr()), from)))
	}
	if err == nil && proto == model.TCP {
		// Closing then resets, which leaves nothing in TIME_WAIT.
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err == nil {
		err = c.connect()
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("connect from port %d to %s %s: %w", from, proto, to, err)
	}
	return c, nil
}

// reportUnreachable has all ICMP errors reported, also that there is no way to a host, which sockets of
// other protocols than TCP take for passing otherwise.
func reportUnreachable(fd, domain int) error {
	if domain == unix.AF_INET {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

func (c *conn) connect() error {
	to := c.to
	if c.proto == model.SCTP {
		to = netip.AddrPortFrom(to.Addr(), 0) // a raw IPv6 socket takes a port for a protocol
	}
	return uninterrupted(func() error {
		err := unix.Connect(c.fd, sockaddr(to))
		// EALREADY is what a second call says, after one that a signal interrupted.
		if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EALREADY) {
			return os.ErrDeadlineExceeded
		}
		return err
	})
}

// ask sends a question and returns the answer.
func (c *conn) ask() (answer, error) {
	question := []byte("?")
	if c.proto == model.SCTP {
		question = sctpPacket{source: c.from, destination: c.to.Port(), chunk: sctpInit, initiateTag: uint32(c.from) + 1}.bytes()
	}
	err := uninterrupted(func() error { return unix.Send(c.fd, question, 0) })
	// EPERM tells that the own machine's rules took the packet. If they refused it, an ICMP error follows.
	if err != nil && !errors.Is(err, unix.EPERM) {
		return answer{}, fmt.Errorf("send from port %d to %s %s: %w", c.from, c.proto, c.to, err)
	}
	return c.hear()
}

// hear returns the next answer.
func (c *conn) hear() (answer, error) {
	b, err := c.receive()
	if err != nil {
		return answer{}, fmt.Errorf("receive at port %d from %s %s: %w", c.from, c.proto, c.to, err)
	}
	return parseAnswer(b)
}

func (c *conn) receive() ([]byte, error) {
	b := make([]byte, 512)
	for {
		n, err := c.read(b)
		if err != nil || c.proto != model.SCTP {
			return b[:n], err
		}
		packet := b[:n]
		if c.to.Addr().Is4() {
			packet = packet[packet[0]&15*4:] // a raw IPv4 socket gives the IP header too
		}
		p, err := parseSCTP(packet)
		if err != nil {
			return nil, err
		}
		if p.chunk == sctpInitAck && p.destination == c.from && p.source == c.to.Port() && p.tag == uint32(c.from)+1 {
			return p.cookie, nil
		}
	}
}

func (c *conn) read(b []byte) (n int, err error) {
	err = uninterrupted(func() error {
		n, err = unix.Read(c.fd, b)
		if errors.Is(err, unix.EAGAIN) {
			return os.ErrDeadlineExceeded
		}
		return err
	})
	return max(n, 0), err
}

// repeats returns how often TCP has sent something again, which just after dial can only be its SYN.
func (c *conn) repeats() (int, error) {
	if c.proto != model.TCP {
		return 0, nil
	}
	info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, fmt.Errorf("read TCP_INFO: %w", err)
	}
	return int(info.Total_retrans), nil
}

func (c *conn) close() { unix.Close(c.fd) }

// uninterrupted repeats a system call that a signal of the Go runtime interrupted.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
