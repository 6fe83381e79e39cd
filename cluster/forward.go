package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Forward is one address to listen at and the port that connections are led to.
type Forward struct {
	Address string
	// Local is the port to listen at; 0 is any.
	Local int
	// Remote is a port's number or name.
	Remote string
}

// ParseForwards reads ports as kubectl port-forward has them: REMOTE, LOCAL:REMOTE or :REMOTE, at each of the
// addresses, of which "localhost" is 127.0.0.1.
func ParseForwards(addresses, ports []string) ([]Forward, error) {
	var all []Forward
	for _, port := range ports {
		local, remote, two := strings.Cut(port, ":")
		if !two {
			remote = local
			if _, err := strconv.Atoi(local); err != nil {
				local = "0"
			}
		}
		if local == "" {
			local = "0"
		}
		number, err := strconv.ParseUint(local, 10, 16)
		if err != nil || remote == "" {
			return nil, fmt.Errorf("%q is no port: want REMOTE, LOCAL:REMOTE or :REMOTE", port)
		}
		for _, address := range addresses {
			if address == "localhost" {
				address = "127.0.0.1"
			}
			if net.ParseIP(address) == nil {
				return nil, fmt.Errorf("%q is no address to listen at", address)
			}
			all = append(all, Forward{Address: address, Local: int(number), Remote: remote})
		}
	}
	return all, nil
}

// dialer connects to the remote side of a forward.
type dialer func(ctx context.Context, port string) (net.Conn, error)

// maxForwarded is how many connections are forwarded at once; more wait.
const maxForwarded = 512

// forward listens at all addresses and copies between each connection and one that dial makes, until ctx ends.
func forward(ctx context.Context, forwards []Forward, dial dialer, listening func(local, remote string), failed func(error)) error {
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	for _, f := range forwards {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(f.Address, strconv.Itoa(f.Local)))
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	slots := make(chan struct{}, maxForwarded)
	var running sync.WaitGroup
	for i, l := range listeners {
		f := forwards[i]
		listening(l.Addr().String(), f.Remote)
		running.Go(func() {
			acceptAll(ctx, l, slots, func(c net.Conn) error { return join(ctx, c, f.Remote, dial) }, failed)
		})
	}
	stop := context.AfterFunc(ctx, func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	})
	defer stop()
	running.Wait()
	return nil
}

func acceptAll(ctx context.Context, l net.Listener, slots chan struct{}, handle func(net.Conn) error, failed func(error)) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.Accept()
		if err != nil {
			<-slots
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			failed(err)
			pause(ctx, 100*time.Millisecond) // out of files: it passes
			continue
		}
		running.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			if err := handle(conn); err != nil && ctx.Err() == nil {
				failed(err)
			}
		})
	}
}

// join connects and copies both ways until both sides have ended.
func join(ctx context.Context, near net.Conn, port string, dial dialer) error {
	far, err := dial(ctx, port)
	if err != nil {
		return err
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { _ = near.Close(); _ = far.Close() })
	defer stop()
	var back sync.WaitGroup
	back.Go(func() { oneWay(near, far) })
	oneWay(far, near)
	back.Wait()
	return nil
}

// oneWay copies until from ends, and says so to the other side. A side that is broken ends both ways.
func oneWay(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		_ = from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
