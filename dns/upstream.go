package dns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// DialFunc opens a socket to another server, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// upstream is a server that questions are forwarded to.
type upstream struct {
	addr netip.AddrPort
	dial DialFunc
	now  func() time.Time

	mu       sync.Mutex
	failures int // since the last answer
	// until is when the server is asked again while others answer; after a failure that is a while.
	until time.Time
	// looping is until when nothing is sent, since it came back.
	looping time.Time
}

// A server that does not answer is asked last for a second, and for twice as long at each failure more.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

func (u *upstream) failed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	pause := lastPause
	if u.failures < 5 {
		pause = min(lastPause, firstPause<<u.failures)
	}
	u.failures++
	u.until = u.now().Add(pause)
}

func (u *upstream) answered() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failures, u.until = 0, time.Time{}
}

// healthy tells whether the server should be asked before others, and usable whether it may be asked at all.
func (u *upstream) state() (healthy, usable bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	return !now.Before(u.until), !now.Before(u.looping)
}

// loops notes that what is sent there comes back; it returns whether that is news.
func (u *upstream) loops(pause time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	news := !now.Before(u.looping)
	u.looping = now.Add(pause)
	return news
}

// exchange asks the server once: over UDP from a socket of its own, so from a port that nobody can foresee,
// and over TCP where the answer did not fit.
func (u *upstream) exchange(ctx context.Context, req *mdns.Msg) (*mdns.Msg, error) {
	req = req.Copy()
	req.Id = mdns.Id()
	if len(req.Question) == 1 {
		req.Question[0].Name = mixedCase(req.Question[0].Name)
	}
	reply, err := u.over(ctx, "udp", req)
	if err == nil && reply.Truncated {
		reply, err = u.over(ctx, "tcp", req)
	}
	return reply, err
}

// mixedCase gives the letters of a name a random case: an answer must have the same, which one who can't see the question
// does not know (draft-vixie-dnsext-dns0x20).
func mixedCase(name string) string {
	b := []byte(strings.ToLower(name))
	for i, c := range b {
		if c >= 'a' && c <= 'z' && rand.Uint32()&1 == 0 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func (u *upstream) over(ctx context.Context, network string, req *mdns.Msg) (*mdns.Msg, error) {
	conn, err := u.dial(ctx, network, u.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	packet, err := req.Pack()
	if err != nil {
		return nil, err
	}
	c := &mdns.Conn{Conn: conn, UDPSize: mdns.MaxMsgSize}
	if _, err := c.Write(packet); err != nil {
		return nil, err
	}
	for {
		raw, err := c.ReadMsgHeader(nil)
		if errors.Is(err, mdns.ErrShortRead) && network == "udp" {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
		reply := new(mdns.Msg)
		err = reply.Unpack(raw)
		if err == nil {
			err = answers(reply, req)
		}
		if err == nil {
			reply.Question[0].Name = strings.ToLower(reply.Question[0].Name)
			return reply, nil
		}
		if network == "tcp" {
			return nil, fmt.Errorf("answer of %s over TCP: %w", u.addr, err)
		}
		// Over UDP it may be another's, or one forged: the right one may still come.
	}
}

// answers tells why a message is no answer to the question.
func answers(reply, req *mdns.Msg) error {
	switch {
	case !reply.Response:
		return errors.New("is a query")
	case reply.Id != req.Id:
		return errors.New("has another id")
	case len(reply.Question) != 1:
		return fmt.Errorf("has %d questions", len(reply.Question))
	case reply.Question[0].Qtype != req.Question[0].Qtype || reply.Question[0].Qclass != req.Question[0].Qclass:
		return errors.New("is to a question of another type")
	case reply.Question[0].Name != req.Question[0].Name:
		return fmt.Errorf("is to a question for %q, not %q", reply.Question[0].Name, req.Question[0].Name)
	}
	return nil
}
