package churn

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// socket is a client's socket that never blocks.
type socket struct {
	fd  int
	tcp bool
	// id is that of the last question.
	id int
}

// slice is how long a client waits before it looks whether an answer may still be expected.
const slice = 20 * time.Millisecond

// writable is the event of a connection that came about.
const writable = unix.POLLOUT

// errSilence says that there was no answer when none had to be expected any more.
var errSilence = errors.New("no answer")

// open makes a socket in the namespace of the calling thread. TCP has begun to connect.
func open(protocol model.Protocol, from uint16, to netip.AddrPort) (*socket, error) {
	domain, local, remote := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(from)}), unix.Sockaddr(nil)
	if to.Addr().Is4() {
		remote = &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	} else {
		domain, local = unix.AF_INET6, &unix.SockaddrInet6{Port: int(from)}
		remote = &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	}
	s := &socket{tcp: protocol == model.TCP}
	kind := unix.SOCK_DGRAM
	if s.tcp {
		kind = unix.SOCK_STREAM
	}
	var err error
	if s.fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	if s.tcp {
		// Closing then resets, which leaves nothing in TIME_WAIT.
		err = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if domain == unix.AF_INET6 {
		err = errors.Join(err, unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if err = errors.Join(err, unix.Bind(s.fd, local)); err != nil {
		s.close()
		return nil, fmt.Errorf("bind to port %d: %w", from, err)
	}
	if err = unix.Connect(s.fd, remote); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		s.close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return s, nil
}

// await waits for an event until giveUp, asked from time to time, says so.
func (s *socket) await(event int16, giveUp func() bool) error {
	for {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: event}}
		n, err := unix.Poll(fds, int(slice.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		// TCP may have an error that nothing reports, if it came while connect held the socket.
		pending, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			return fmt.Errorf("read SO_ERROR: %w", err)
		case pending != 0:
			return unix.Errno(pending)
		case n > 0:
			return nil
		case giveUp():
			return errSilence
		}
	}
}

// repeats returns how often a connected TCP socket had to send its SYN again.
func (s *socket) repeats() int {
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return int(info.Total_retrans)
}

// exchange asks a question and returns who answered and whom that one saw. An answer to an earlier question is
// passed over.
func (s *socket) exchange(giveUp func() bool) (endpoint, source netip.AddrPort, err error) {
	s.id++
	question := strconv.Itoa(s.id)
	if s.tcp {
		question += "\n"
	}
	// EPERM tells that the node's own rules took the packet; if they refused it, an error follows.
	if err := unix.Send(s.fd, []byte(question), unix.MSG_NOSIGNAL); err != nil && !errors.Is(err, unix.EPERM) {
		return endpoint, source, fmt.Errorf("send: %w", err)
	}
	b := make([]byte, 256)
	for {
		if err := s.await(unix.POLLIN, giveUp); err != nil {
			return endpoint, source, err
		}
		n, err := unix.Read(s.fd, b)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return endpoint, source, fmt.Errorf("receive: %w", err)
		case n == 0:
			return endpoint, source, errors.New("the server hung up")
		}
		var e, c string
		var id int
		if _, err := fmt.Sscan(string(b[:n]), &e, &c, &id); err != nil {
			return endpoint, source, fmt.Errorf("answer %q: %w", b[:n], err)
		}
		if id != s.id {
			continue
		}
		endpoint, err = netip.ParseAddrPort(e)
		if err == nil {
			source, err = netip.ParseAddrPort(c)
		}
		return endpoint, source, err
	}
}

func (s *socket) close() { unix.Close(s.fd) }
