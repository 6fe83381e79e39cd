package dns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
)

// ForwardConfig says where questions outside the Zone go.
type ForwardConfig struct {
	// Upstreams are servers that answer for everything, asked in turns.
	Upstreams []netip.AddrPort
	// Timeout is for how long one server is waited for; DefaultForwardTimeout where it is zero.
	Timeout time.Duration
	// Concurrency is how many questions may wait for upstreams at once; others fail (SERVFAIL) rather than wait
	// in line. DefaultConcurrency where it is zero.
	Concurrency int
	// PrivateReverse forwards reverse names of private addresses too, which are otherwise answered with
	// NXDOMAIN (RFC 6303) where the Zone does not know them.
	PrivateReverse bool
	// Cache bounds what is remembered; DefaultCache where it is zero.
	Cache CacheConfig
	// Dial opens the sockets; those of this process's network namespace where it is nil.
	Dial    DialFunc
	Log     *zap.Logger
	Metrics *Metrics
	// Now is the clock, of the system where it is nil.
	Now func() time.Time
}

// DefaultForwardTimeout leaves a resolver, which waits for 5 s as a rule, the answer of the second server.
const DefaultForwardTimeout = 2 * time.Second

// DefaultConcurrency is what kubeadm's configuration of CoreDNS has (max_concurrent).
const DefaultConcurrency = 1000

// attempts is how many servers are asked for one question at most.
const attempts = 3

// Forwarder asks other servers, and remembers their answers.
type Forwarder struct {
	cfg       ForwardConfig
	upstreams []*upstream
	cache     *cache
	flights   singleflight.Group
	slots     chan struct{}
	turn      atomic.Uint32
	loops     *loopGuard
}

// NewForwarder returns a Forwarder. It sends nothing yet.
func NewForwarder(cfg ForwardConfig) (*Forwarder, error) {
	if len(cfg.Upstreams) == 0 {
		return nil, errors.New("dns: no servers to forward to")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultForwardTimeout
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.Cache == (CacheConfig{}) {
		cfg.Cache = DefaultCache
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Timeout < 0 || cfg.Concurrency < 0 || cfg.Cache.Entries < 0 {
		return nil, fmt.Errorf("dns: forward: negative time-out (%s), concurrency (%d) or cache (%d)", cfg.Timeout, cfg.Concurrency, cfg.Cache.Entries)
	}
	f := &Forwarder{cfg: cfg, cache: newCache(cfg.Cache, cfg.Now), slots: make(chan struct{}, cfg.Concurrency)}
	for _, addr := range cfg.Upstreams {
		if !addr.IsValid() || addr.Port() == 0 {
			return nil, fmt.Errorf("dns: forward: %s is not the address of a server", addr)
		}
		f.upstreams = append(f.upstreams, &upstream{addr: addr, dial: cfg.Dial, now: cfg.Now})
	}
	f.turn.Store(rand.Uint32())
	f.loops = newLoopGuard(f)
	return f, nil
}

// CheckUpstreams finds a server that is this one: with it questions would go in circles. listening are the
// addresses that this server listens at; unspecified ones stand for all of local, which are those of this host.
func CheckUpstreams(upstreams, listening []netip.AddrPort, local []netip.Addr) error {
	for _, u := range upstreams {
		for _, l := range listening {
			a, at := u.Addr().Unmap().WithZone(""), l.Addr().Unmap()
			mine := a == at
			if at.IsUnspecified() {
				mine = a.IsLoopback() || a.IsUnspecified()
				for _, own := range local {
					mine = mine || a == own.Unmap().WithZone("")
				}
			}
			if mine && u.Port() == l.Port() {
				return fmt.Errorf("dns: forward: %s is this server itself, listening at %s", u, l)
			}
		}
	}
	return nil
}

// errBusy is the failure of a question that came when too many waited.
var errBusy = errors.New("too many questions wait for other servers")

// Resolve answers a question that is not the Zone's: from what is remembered, or by asking. It always answers;
// what can't be answered is a SERVFAIL. req is the query that the question came in; it gives the options.
func (f *Forwarder) Resolve(ctx context.Context, q mdns.Question, req *mdns.Msg) *mdns.Msg {
	if f.loops.isProbe(q) {
		return failure(q)
	}
	if reply, ok := special(q, !f.cfg.PrivateReverse); ok {
		return reply
	}
	key := keyOf(q, req)
	if m, ok := f.cache.get(key); ok {
		f.cfg.Metrics.hit()
		return rename(m, key.name, q.Name)
	}
	f.cfg.Metrics.miss()
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		f.cfg.Metrics.failed("busy")
		f.cfg.Log.Debug("DNS question not forwarded", zap.String("name", q.Name), zap.Error(errBusy))
		return failure(q)
	}
	hops, err := f.loops.trace(req)
	if err != nil {
		return failure(q)
	}
	// Equal questions at one time are asked once; with the trace of a loop in them they are not equal.
	done := f.flights.DoChan(fmt.Sprint(key, hops), func() (any, error) {
		flight, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.cfg.Timeout*attempts)
		defer cancel()
		m := f.ask(flight, key, hops)
		f.cache.put(key, m)
		return m, nil
	})
	select {
	case <-ctx.Done():
		return failure(q)
	case r := <-done:
		return rename(r.Val.(*mdns.Msg).Copy(), key.name, q.Name)
	}
}

// ask asks one server after the other until one answers.
func (f *Forwarder) ask(ctx context.Context, key cacheKey, hops []byte) *mdns.Msg {
	q := mdns.Question{Name: key.name, Qtype: key.qtype, Qclass: key.qclass}
	last := failure(q)
	for _, i := range f.order() {
		u := f.upstreams[i]
		attempt, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
		begin := f.cfg.Now()
		m, err := u.exchange(attempt, f.loops.stamp(questionFor(key), hops, i))
		cancel()
		f.cfg.Metrics.asked(u.addr, f.cfg.Now().Sub(begin), err)
		if err != nil {
			u.failed()
			f.cfg.Log.Debug("DNS server does not answer", zap.Stringer("server", u.addr), zap.String("name", key.name), zap.Error(err))
			continue
		}
		u.answered()
		switch m.Rcode {
		case mdns.RcodeSuccess, mdns.RcodeNameError:
			return m
		}
		last = m // another may do better
	}
	return last
}

// order returns which servers to ask, in turns: those that answered last first, none that leads back here.
func (f *Forwarder) order() []int {
	var healthy, others []int
	n := len(f.upstreams)
	first := int(f.turn.Add(1)) % n
	for k := range n {
		i := (first + k) % n
		switch ok, usable := f.upstreams[i].state(); {
		case !usable:
		case ok:
			healthy = append(healthy, i)
		default:
			others = append(others, i)
		}
	}
	all := append(healthy, others...)
	return all[:min(len(all), attempts)]
}

func keyOf(q mdns.Question, req *mdns.Msg) cacheKey {
	key := cacheKey{name: strings.ToLower(q.Name), qtype: q.Qtype, qclass: q.Qclass, cd: req.CheckingDisabled}
	if opt := req.IsEdns0(); opt != nil {
		key.do = opt.Do()
	}
	return key
}

func questionFor(key cacheKey) *mdns.Msg {
	m := new(mdns.Msg).SetQuestion(key.name, key.qtype)
	m.Question[0].Qclass = key.qclass
	m.CheckingDisabled = key.cd
	return m.SetEdns0(maxUDPSize, key.do)
}

func failure(q mdns.Question) *mdns.Msg {
	return &mdns.Msg{MsgHdr: mdns.MsgHdr{Rcode: mdns.RcodeServerFailure}, Question: []mdns.Question{q}}
}

// rename gives the records of a name the spelling that was asked for.
func rename(m *mdns.Msg, from, to string) *mdns.Msg {
	for _, rr := range m.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, from) {
			h.Name = to
		}
	}
	return m
}
