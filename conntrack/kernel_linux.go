package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/model"
	"svcproxy/netns"
)

// ErrUnsupported says that the kernel does not offer its connection tracking table.
var ErrUnsupported = errors.New("the kernel does not list connections (is nf_conntrack_netlink loaded?)")

// ErrNotPermitted says that the table is not this process's to read.
var ErrNotPermitted = errors.New("not permitted: CAP_NET_ADMIN is needed")

// datagramSize holds any datagram of the kernel's lists, which grow to 32 KiB.
const datagramSize = 64 << 10

// Netlink reaches the table of a network namespace. It is safe for concurrent use.
type Netlink struct {
	path string
	// unfiltered says that the kernel does not know filters (Linux 5.8), or refuses this one.
	unfiltered atomic.Bool
}

// NewNetlink returns the Kernel of the network namespace at path; empty is that of the calling thread.
func NewNetlink(path string) *Netlink { return &Netlink{path: path} }

// Open prepares to speak to the table. Nothing is asked yet.
func (k *Netlink) Open() (Table, error) { return &table{kernel: k}, nil }

// table is a Table over netlink.
type table struct {
	kernel *Netlink
	// remover deletes flows while another socket reads them.
	remover  *socket
	sequence uint32
	messages message
	buffer   []byte
}

// socket is a netlink socket that reads into one buffer again and again, so that a long list costs no memory.
type socket struct {
	*netlink.Conn
	raw    syscall.RawConn
	buffer []byte
	// undo ends the watch over the context.
	undo func() bool
}

func (k *Netlink) dial(ctx context.Context, protocol int) (*socket, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &socket{}
	err := netns.Do(k.path, func() (err error) {
		s.Conn, err = netlink.Dial(protocol, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.raw, err = s.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.undo = context.AfterFunc(ctx, func() { _ = s.Conn.Close() }) // whoever waits for an answer is told
	return s, nil
}

// end closes the socket.
func (s *socket) end() {
	if s.undo() {
		_ = s.Conn.Close() // a socket that was opened to ask has nothing left to say
	}
}

func (s *socket) send(m message) error {
	var failed error
	err := s.raw.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(failed, unix.EAGAIN)
	})
	return errors.Join(err, failed)
}

// receive returns the next datagram, valid until the next call.
func (s *socket) receive() ([]byte, error) {
	if s.buffer == nil {
		s.buffer = make([]byte, datagramSize)
	}
	var n, flags int
	var failed error
	err := s.raw.Read(func(fd uintptr) bool {
		n, _, flags, _, failed = unix.Recvmsg(int(fd), s.buffer, nil, 0)
		return !errors.Is(failed, unix.EAGAIN)
	})
	switch err = errors.Join(err, failed); {
	case errors.Is(err, unix.ENOBUFS):
		return nil, fmt.Errorf("%w: %w", ErrInterrupted, err)
	case err != nil:
		return nil, err
	case flags&unix.MSG_TRUNC != 0:
		return nil, fmt.Errorf("%w: more than %d bytes", errMalformed, datagramSize)
	}
	return s.buffer[:n], nil
}

// explain says what an error of the kernel means, where that is known.
func explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: %w", ErrNotPermitted, err)
	}
	return err
}

// unsupported tells whether an error means that the kernel does not know what it was asked for.
func unsupported(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// Flows reads flows. A kernel that can leaves out those of other protocols.
func (t *table) Flows(ctx context.Context, f model.Family, p model.Protocol, yield func(Flow) bool) error {
	if !t.kernel.unfiltered.Load() {
		err := t.list(ctx, listMessage(f, p, true), yield)
		if !unsupported(err) {
			return explain(err)
		}
	}
	err := t.list(ctx, listMessage(f, p, false), yield)
	if unsupported(err) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err == nil {
		t.kernel.unfiltered.Store(true)
	}
	return explain(err)
}

func (t *table) list(ctx context.Context, request message, yield func(Flow) bool) error {
	s, err := t.kernel.dial(ctx, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer s.end()
	s.buffer = t.buffer
	if err := s.send(request); err != nil {
		return err
	}
	var r reading
	for {
		datagram, err := s.receive()
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		t.buffer = s.buffer
		more, err := r.datagram(datagram, yield)
		if err != nil || !more {
			return err
		}
	}
}

// Delete deletes flows, all with one system call; they must not be many, as the kernel keeps its answers.
func (t *table) Delete(ctx context.Context, f model.Family, flows []Flow) (deleted int, err error) {
	if len(flows) == 0 {
		return 0, nil
	}
	if t.remover == nil {
		if t.remover, err = t.kernel.dial(ctx, unix.NETLINK_NETFILTER); err != nil {
			return 0, err
		}
	}
	d := deletions{first: t.sequence + 1, last: t.sequence + uint32(len(flows))}
	t.sequence = d.last
	t.messages = deleteMessages(t.messages[:0], f, flows, d.first)
	if err := t.remover.send(t.messages); err != nil {
		return 0, err
	}
	for more := true; more; {
		datagram, err := t.remover.receive()
		if err != nil {
			return 0, errors.Join(ctx.Err(), err)
		}
		if more, err = d.datagram(datagram); err != nil {
			return 0, err
		}
	}
	if d.failed != nil {
		return 0, explain(d.failed)
	}
	return len(flows) - d.missing, nil
}

// Close releases what the table holds open.
func (t *table) Close() error {
	if t.remover != nil {
		t.remover.end()
	}
	return nil
}

// Own returns the destinations of the routes in the kernel's table of local addresses, which rules call local.
func (t *table) Own(ctx context.Context, f model.Family) ([]netip.Prefix, error) {
	for range maxReadings {
		own, err := t.ownOnce(ctx, f)
		if !errors.Is(err, ErrInterrupted) {
			return own, explain(err)
		}
	}
	return nil, fmt.Errorf("%d times: %w", maxReadings, ErrInterrupted)
}

func (t *table) ownOnce(ctx context.Context, f model.Family) (own []netip.Prefix, err error) {
	s, err := t.kernel.dial(ctx, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer s.end()
	// From Linux 4.20 the kernel then sends routes of the type asked for alone. Others are passed over.
	_ = s.SetOption(netlink.GetStrictCheck, true)
	var request message
	at := request.begin(unix.RTM_GETROUTE, requestFlag|dumpFlags, 1, f)
	request = append(request, 0, 0, 0, unix.RTN_LOCAL, 0, 0, 0, 0) // the rest of struct rtmsg
	request.end(at)
	if err := s.send(request); err != nil {
		return nil, err
	}
	for {
		datagram, err := s.receive()
		if err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		messages, err := syscall.ParseNetlinkMessage(datagram)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			interrupted := m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case m.Header.Type == unix.NLMSG_ERROR, m.Header.Type == unix.NLMSG_DONE:
				return own, (&reading{interrupted: interrupted}).end(m.Data)
			case interrupted:
				return nil, ErrInterrupted
			case m.Header.Type != unix.RTM_NEWROUTE:
				continue
			}
			prefix, local, err := decodeRoute(f, m.Data)
			if err != nil {
				return nil, err
			}
			if local {
				own = append(own, prefix)
			}
		}
	}
}

// decodeRoute returns the destination of a route, and whether it is one of this node. Local routes in tables other
// than the local one take in marked packets of transparent proxies, and often stand for everywhere: their
// destinations are nobody's own.
func decodeRoute(f model.Family, b []byte) (to netip.Prefix, local bool, err error) {
	if len(b) < unix.SizeofRtMsg {
		return netip.Prefix{}, false, errMalformed
	}
	bits, table, kind := int(b[1]), b[4], b[7]
	if b[0] != addressFamily(f) || table != unix.RT_TABLE_LOCAL || kind != unix.RTN_LOCAL {
		return netip.Prefix{}, false, nil
	}
	addr := netip.IPv4Unspecified()
	if f == model.IPv6 {
		addr = netip.IPv6Unspecified()
	}
	err = attributes(b[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		if kind != unix.RTA_DST {
			return nil
		}
		var ok bool
		if addr, ok = netip.AddrFromSlice(value); !ok {
			return errMalformed
		}
		return nil
	})
	return netip.PrefixFrom(addr, bits), true, err
}
