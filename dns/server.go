package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// shutdownGrace is how long a stopping Server waits for the queries it is answering.
const shutdownGrace = 5 * time.Second

// Server answers DNS queries over UDP and TCP on the sockets it is given, so that the caller decides in
// which network namespace they are. Until it has a Zone, it answers SERVFAIL.
type Server struct {
	Packets   []net.PacketConn
	Listeners []net.Listener
	// Forward answers what is outside the Zone, which is refused where it is nil.
	Forward *Forwarder
	Log     *zap.Logger
	Metrics *Metrics

	zone atomic.Pointer[Zone]
	turn atomic.Uint32
}

// SetZone makes the Server answer from z, from the next query on.
func (s *Server) SetZone(z *Zone) { s.zone.Store(z) }

// Listen opens a UDP and a TCP socket on one address, "ip:port". With port 0 both get the same free port.
func Listen(ctx context.Context, address string) (net.PacketConn, net.Listener, error) {
	const attempts = 10 // the kernel's choice for TCP may be taken for UDP
	var lc net.ListenConfig
	for attempt := 1; ; attempt++ {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, nil, fmt.Errorf("dns: listen on %s over TCP: %w", address, err)
		}
		pc, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
		if err == nil {
			return pc, l, nil
		}
		l.Close()
		if _, port, _ := net.SplitHostPort(address); port != "0" || attempt == attempts {
			return nil, nil, fmt.Errorf("dns: listen on %s over UDP: %w", address, err)
		}
	}
}

// Serve answers until ctx ends, then stops taking queries, answers those at hand for at most 5 seconds,
// and closes the sockets. It returns nil after that, an error where 5 seconds were not enough, or the
// first socket's error, which ends the others too.
func (s *Server) Serve(ctx context.Context) error {
	if len(s.Packets)+len(s.Listeners) == 0 {
		return errors.New("dns: no sockets to serve on")
	}
	answering, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	group, ctx := errgroup.WithContext(ctx)
	for _, pc := range s.Packets {
		group.Go(func() error {
			return describe("serve", pc.LocalAddr(), (&udpServer{server: s, conn: pc, answering: answering}).serve(ctx))
		})
	}
	for _, l := range s.Listeners {
		group.Go(func() error {
			return describe("serve", l.Addr(), newTCPServer(s, l, answering).serve(ctx))
		})
	}
	return group.Wait()
}

func describe(what string, addr net.Addr, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("dns: %s %s %s: %w", what, addr.Network(), addr, err)
}

// handle answers one message as it came from the wire, with nil where no answer is due: to a message without a whole
// header, or to an answer, so that two servers can't be made to talk to each other.
func (s *Server) handle(ctx context.Context, packet []byte, udp bool) []byte {
	var req mdns.Msg
	head, ok := header(packet)
	if !ok || head.Response {
		s.Metrics.drop("no query")
		return nil
	}
	proto, limit := "tcp", mdns.MaxMsgSize
	var reply *mdns.Msg
	switch err := req.Unpack(packet); {
	case head.Opcode != mdns.OpcodeQuery:
		reply = refuse(head, mdns.RcodeNotImplemented)
	case err != nil:
		reply = refuse(head, mdns.RcodeFormatError)
	default:
		if udp {
			limit = udpSize(&req)
		}
		reply = respond(s.zone.Load(), s.resolver(ctx, &req), &req, limit, int(s.turn.Add(1)))
	}
	if udp {
		proto = "udp"
	}
	wire, err := reply.Pack()
	if err != nil {
		s.log().Error("DNS reply can't be packed", zap.Stringer("reply", reply), zap.Error(err))
		reply = refuse(head, mdns.RcodeServerFailure)
		wire, _ = reply.Pack()
	}
	s.Metrics.replied(proto, reply)
	return wire
}

func (s *Server) resolver(ctx context.Context, req *mdns.Msg) resolver {
	if s.Forward == nil {
		return nil
	}
	return func(q mdns.Question) *mdns.Msg { return s.Forward.Resolve(ctx, q, req) }
}

func (s *Server) log() *zap.Logger {
	if s.Log == nil {
		return zap.NewNop()
	}
	return s.Log
}

// wait waits for the queries that are being answered, but not for long.
func wait(wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(shutdownGrace):
		return fmt.Errorf("queries are still being answered after %s", shutdownGrace)
	}
}
