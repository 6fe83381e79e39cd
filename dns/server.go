package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	Log       *zap.Logger

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
	group, ctx := errgroup.WithContext(ctx)
	for _, pc := range s.Packets {
		s.start(ctx, group, pc.LocalAddr(), &mdns.Server{PacketConn: pc, UDPSize: mdns.DefaultMsgSize})
	}
	for _, l := range s.Listeners {
		s.start(ctx, group, l.Addr(), &mdns.Server{Listener: l})
	}
	return group.Wait()
}

// start runs one socket's server in the group.
func (s *Server) start(ctx context.Context, group *errgroup.Group, addr net.Addr, srv *mdns.Server) {
	started, ended := make(chan struct{}), make(chan struct{})
	udp := srv.PacketConn != nil
	srv.Handler = mdns.HandlerFunc(func(w mdns.ResponseWriter, req *mdns.Msg) { s.reply(w, req, udp) })
	srv.MsgAcceptFunc = accept
	srv.NotifyStartedFunc = func() { close(started) }
	group.Go(func() error {
		defer close(ended)
		if err := srv.ActivateAndServe(); err != nil {
			return fmt.Errorf("dns: serve %s %s: %w", addr.Network(), addr, err)
		}
		return nil
	})
	group.Go(func() error {
		// The library can only stop a server that has started.
		select {
		case <-started:
		case <-ended:
			return nil
		}
		select {
		case <-ctx.Done():
		case <-ended:
			return nil
		}
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if err := srv.ShutdownContext(grace); err != nil {
			return fmt.Errorf("dns: stop %s %s: %w", addr.Network(), addr, err)
		}
		return nil
	})
}

// reply answers one query.
func (s *Server) reply(w mdns.ResponseWriter, req *mdns.Msg, udp bool) {
	limit := mdns.MaxMsgSize
	if udp {
		limit = udpSize(req)
	}
	if err := w.WriteMsg(respond(s.zone.Load(), req, limit, int(s.turn.Add(1)))); err != nil {
		s.log().Debug("DNS reply not sent", zap.Stringer("client", w.RemoteAddr()), zap.Error(err))
	}
}

func (s *Server) log() *zap.Logger {
	if s.Log == nil {
		return zap.NewNop()
	}
	return s.Log
}
