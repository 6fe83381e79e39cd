package world

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// Conn is a connection of an asker. UDP and SCTP send nothing before Ask. It is for one goroutine at a time.
type Conn struct {
	Question // with the source port that is in use

	place *Place
	fd    int
}

// wait is how long a connection goes on waiting. It returns how long to wait before it is called again, or
// an error, os.ErrDeadlineExceeded if it is time to give up.
type wait func() (time.Duration, error)

// until waits for a fixed time.
func until(patience time.Duration) wait {
	end := time.Now().Add(patience)
	return func() (time.Duration, error) {
		left := time.Until(end)
		if left <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		// In slices, as TCP may have an error that nothing reports; see pending.
		return min(left, slice), nil
	}
}

// slice is how long nobody looks at anything.
const slice = 50 * time.Millisecond

// open makes a socket in the namespace of the calling thread and connects it. For SCTP it is a raw socket,
// which being connected takes packets from that address alone, and the ICMP errors about it.
func (p *Place) open(q Question, w wait) (*Conn, error) {
	if q.Source.Port() == 0 {
		port, err := p.ports.next(q.Protocol, model.FamilyOf(q.To.Addr()))
		if err != nil {
			return nil, err
		}
		q.Source = netip.AddrPortFrom(q.Source.Addr(), port)
	}
	if !q.Source.Addr().IsValid() {
		q.Source = netip.AddrPortFrom(unspecified(q.To.Addr()), q.Source.Port())
	}
	domain := map[model.Family]int{model.IPv4: unix.AF_INET, model.IPv6: unix.AF_INET6}[model.FamilyOf(q.To.Addr())]
	kind := map[model.Protocol]int{model.TCP: unix.SOCK_STREAM, model.UDP: unix.SOCK_DGRAM, model.SCTP: unix.SOCK_RAW}[q.Protocol]
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(q.Protocol))
	if err != nil {
		return nil, fmt.Errorf("%s: make %s socket: %w", p, q.Protocol, err)
	}
	c := &Conn{Question: q, place: p, fd: fd}
	if err := errors.Join(c.setUp(domain), c.bind()); err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: bind to %s %s: %w", p, q.Protocol, q.Source, err)
	}
	if err := c.connect(w); err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: connect from port %d to %s %s: %w", p, q.Source.Port(), q.To, q.Protocol, err)
	}
	return c, nil
}

func (c *Conn) setUp(domain int) error {
	if domain == unix.AF_INET6 && c.Protocol != model.SCTP {
		// A port of the one family is not one of the other.
		if err := unix.SetsockoptInt(c.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if c.Protocol == model.TCP {
		// Closing then resets, which leaves nothing in TIME_WAIT.
		return unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	// Have all ICMP errors reported, also that there is no way to a host, which sockets of other protocols
	// than TCP take for passing otherwise.
	if domain == unix.AF_INET {
		return unix.SetsockoptInt(c.fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	return unix.SetsockoptInt(c.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

func (c *Conn) bind() error {
	source := c.Source
	if c.Protocol == model.SCTP {
		if source.Addr().IsUnspecified() {
			return nil
		}
		source = netip.AddrPortFrom(source.Addr(), 0) // a raw IPv6 socket takes a port for a protocol
	}
	return unix.Bind(c.fd, sockaddr(source))
}

func (c *Conn) connect(w wait) error {
	to := c.To
	if c.Protocol == model.SCTP {
		to = netip.AddrPortFrom(to.Addr(), 0)
	}
	err := unix.Connect(c.fd, sockaddr(to))
	if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) {
		if err = c.await(unix.POLLOUT, w); err == nil {
			err = c.pending()
		}
	}
	return err
}

// Ask sends a question and tells what became of it, as Place.Ask does. That the peer has ended the connection
// is an error.
func (c *Conn) Ask() (Result, error) {
	doubt := c.place.doubt(model.FamilyOf(c.To.Addr()))
	defer doubt.close()
	return c.place.judge(c.ask(doubt.wait))
}

func (c *Conn) ask(w wait) (Result, error) {
	r := Result{From: c.Source.Port()}
	var err error
	if r.Lost, err = c.repeats(); err != nil {
		return r, err
	}
	question := []byte("?")
	if c.Protocol == model.SCTP {
		question = sctpPacket{source: c.Source.Port(), destination: c.To.Port(), chunk: sctpInit, initiateTag: c.tag()}.bytes()
	}
	err = uninterrupted(func() error { return unix.Send(c.fd, question, 0) })
	// EPERM tells that the own machine's rules took the packet. If they refused it, an ICMP error follows.
	if err != nil && !errors.Is(err, unix.EPERM) {
		return r, fmt.Errorf("%s: send from port %d to %s %s: %w", c.place, r.From, c.To, c.Protocol, err)
	}
	b, err := c.receive(w)
	if err != nil {
		return r, fmt.Errorf("%s: receive at port %d from %s %s: %w", c.place, r.From, c.To, c.Protocol, err)
	}
	r.Verdict = Answered
	r.Answer, err = parseAnswer(b)
	return r, err
}

// tag is the initiate tag of SCTP, which may not be 0.
func (c *Conn) tag() uint32 { return uint32(c.Source.Port()) + 1 }

func (c *Conn) receive(w wait) ([]byte, error) {
	b := make([]byte, 512)
	for {
		n, err := c.read(b, w)
		if err != nil || c.Protocol != model.SCTP {
			return b[:n], err
		}
		packet := b[:n]
		if c.To.Addr().Is4() {
			packet = packet[packet[0]&15*4:] // a raw IPv4 socket gives the IP header too
		}
		p, err := parseSCTP(packet)
		if err != nil {
			return nil, err
		}
		if p.chunk == sctpInitAck && p.destination == c.Source.Port() && p.source == c.To.Port() && p.tag == c.tag() {
			return p.cookie, nil
		}
	}
}

func (c *Conn) read(b []byte, w wait) (n int, err error) {
	for {
		err = uninterrupted(func() error {
			n, err = unix.Read(c.fd, b)
			return err
		})
		switch {
		case err == nil && n == 0:
			return 0, fmt.Errorf("the server hung up: %w", unix.ECONNRESET)
		case !errors.Is(err, unix.EAGAIN):
			return max(n, 0), err
		}
		if err := c.await(unix.POLLIN, w); err != nil {
			return 0, err
		}
	}
}

// await waits until the socket is ready or has an error.
func (c *Conn) await(event int16, w wait) error {
	for {
		d, err := w()
		if err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: event}}
		n, err := unix.Poll(fds, int(max(d.Milliseconds(), 1)))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case n > 0:
			return nil
		case c.Protocol == model.TCP:
			if err := c.pending(); err != nil {
				return err
			}
		}
	}
}

// pending returns the socket's error. That includes one by ICMP which arrived while connect still held the
// socket, as on a path without delay it always does: the kernel notes it then and ends the connection only
// when the next SYN, a second later, is refused again.
func (c *Conn) pending() error {
	n, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return fmt.Errorf("read SO_ERROR: %w", err)
	case n != 0:
		return unix.Errno(n)
	}
	return nil
}

// repeats returns how often TCP has sent something again, which just after open can only be its SYN.
func (c *Conn) repeats() (int, error) {
	if c.Protocol != model.TCP {
		return 0, nil
	}
	info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, fmt.Errorf("read TCP_INFO: %w", err)
	}
	return int(info.Total_retrans), nil
}

// Close ends the connection.
func (c *Conn) Close() { unix.Close(c.fd) }

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
