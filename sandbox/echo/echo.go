// Package echo is a server that tells who answered and whom it saw ask: what a pod runs to be an endpoint
// of a Service that somebody tries.
package echo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// Server answers over HTTP and UDP on one port.
type Server struct {
	// Name is whom the answers name, such as the pod's.
	Name string
	// Drain is how long requests at hand may go on after the end was asked for; 0 is 10 seconds.
	Drain time.Duration
}

// datagram is the largest question read, in bytes: more is cut, as nothing of it is repeated.
const datagram = 512

// Serve answers on address, ":8080" say, until ctx ends; then it takes no new connection, answers the requests
// at hand, and returns nil. An address that can't be listened on is an error.
func (s *Server) Serve(ctx context.Context, address string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	packets, err := new(net.ListenConfig).ListenPacket(ctx, "udp", listener.Addr().String())
	if err != nil {
		listener.Close()
		return fmt.Errorf("echo: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveHTTP(ctx, listener) })
	group.Go(func() error { return s.serveUDP(ctx, packets) })
	return group.Wait()
}

func (s *Server) serveHTTP(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: http.HandlerFunc(s.answer), ReadTimeout: 10 * time.Second}
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace := s.Drain
		if grace == 0 {
			grace = 10 * time.Second
		}
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		drained <- server.Shutdown(end)
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("echo: %w", err)
	}
	if err := <-drained; err != nil {
		return fmt.Errorf("echo: requests were still being answered: %w", err)
	}
	return nil
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	from, _, _ := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprintf(w, "%s at %v, asked by %s\n", s.Name, local, from)
}

func (s *Server) serveUDP(ctx context.Context, packets net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { packets.Close() })
	defer stop()
	question := make([]byte, datagram)
	for {
		_, from, err := packets.ReadFrom(question)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("echo: %w", err)
		case err != nil:
			continue // an ICMP error to an earlier answer
		}
		host, _, _ := net.SplitHostPort(from.String())
		_, _ = packets.WriteTo(fmt.Appendf(nil, "%s, asked by %s\n", s.Name, host), from)
	}
}
