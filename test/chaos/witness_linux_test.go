package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/model"
)

const (
	// patience is how long an answer may take on a machine that is busy with other things.
	patience = 20 * time.Second
	// pace is the time between two exchanges, or two new connections.
	pace = 2 * time.Millisecond
)

// witness uses the untouched Service all the time: over a connection that stays, and over ever new ones.
type witness struct {
	exchanges, connections atomic.Int64
}

// watch starts a witness of each family. It fails the test at the first answer that does not come.
func (w *world) watch(t *testing.T) *witness {
	t.Helper()
	s := &witness{}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, f := range families() {
		vip := netip.AddrPortFrom(untouchedIPs[f], servicePort).String()
		kept, err := w.connect(vip)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer kept.Close()
			s.repeat(ctx, t, f, &s.exchanges, func() error { return exchange(kept) })
		})
		all.Go(func() {
			s.repeat(ctx, t, f, &s.connections, func() error {
				c, err := w.connect(vip)
				if err != nil {
					return err
				}
				defer c.Close()
				return exchange(c)
			})
		})
	}
	t.Cleanup(func() {
		cancel()
		all.Wait()
		t.Logf("%d exchanges over connections that stayed, %d new connections", s.exchanges.Load(), s.connections.Load())
	})
	return s
}

// repeat does something at every tick until ctx ends or it fails.
func (s *witness) repeat(ctx context.Context, t *testing.T, f model.Family, count *atomic.Int64, do func() error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := do(); err != nil {
			t.Errorf("the untouched Service over %s, after %d times: %v", f, count.Load(), err)
			return
		}
		count.Add(1)
	}
}

// connect makes a connection. One that needed a second try does not count: TCP hides a lost packet so.
func (w *world) connect(to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := w.client.Dial(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	n, err := repeats(c.(*net.TCPConn))
	if err == nil && n > 0 {
		err = fmt.Errorf("connect to %s: %d packets were lost", to, n)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, c.(*net.TCPConn).SetLinger(0) // closing then resets, which leaves no port in TIME_WAIT
}

// repeats returns how often TCP has sent something again.
func repeats(c *net.TCPConn) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.Total_retrans)
		}
	})
	return n, errors.Join(err, ctlErr)
}

// exchange sends a few bytes and reads them back.
func exchange(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}
