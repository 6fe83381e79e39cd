package dns

import (
	"container/list"
	"math"
	"slices"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// CacheConfig bounds the cache of forwarded answers.
type CacheConfig struct {
	// Entries is how many answers are kept; the one that was not used for longest goes first. Zero keeps
	// none.
	Entries int
	// MinTTL and MaxTTL bound how long an answer is kept, whatever its records say. An answer with a record
	// whose TTL is 0 is not kept at all.
	MinTTL, MaxTTL time.Duration
	// MaxNegative bounds how long it is kept that a name or type does not exist (RFC 2308).
	MaxNegative time.Duration
}

// DefaultCache is what a CacheConfig is made of where nothing is asked for: kept at most an hour, negative
// answers at most half an hour, below the one to three hours of RFC 2308.
var DefaultCache = CacheConfig{Entries: 10_000, MinTTL: 5 * time.Second, MaxTTL: time.Hour, MaxNegative: 30 * time.Minute}

// failureTTL is how long a failure is kept, so that its clients' retries don't all go out (RFC 9520 wants 1 s at
// least).
const failureTTL = 2 * time.Second

// cacheKey is a question as an upstream sees it: what DO and CD ask for differs.
type cacheKey struct {
	name          string // in lower case
	qtype, qclass uint16
	do, cd        bool
}

// cache holds answers of upstreams. Messages in it are shared and never changed.
type cache struct {
	cfg CacheConfig
	now func() time.Time

	mu      sync.Mutex
	entries map[cacheKey]*list.Element
	used    list.List // of *cached, the last used first
}

type cached struct {
	key     cacheKey
	msg     *mdns.Msg
	stored  time.Time
	expires time.Time
}

func newCache(cfg CacheConfig, now func() time.Time) *cache {
	return &cache{cfg: cfg, now: now, entries: map[cacheKey]*list.Element{}}
}

// get returns a copy of a kept answer with the TTLs that are left.
func (c *cache) get(key cacheKey) (*mdns.Msg, bool) {
	c.mu.Lock()
	element, ok := c.entries[key]
	if !ok {
		c.mu.Unlock()
		return nil, false
	}
	e := element.Value.(*cached)
	now := c.now()
	if !now.Before(e.expires) {
		c.drop(element)
		c.mu.Unlock()
		return nil, false
	}
	c.used.MoveToFront(element)
	c.mu.Unlock()

	age := uint32(now.Sub(e.stored) / time.Second)
	left := uint32(max(time.Second, e.expires.Sub(now).Round(time.Second)) / time.Second)
	m := e.msg.Copy()
	for _, section := range [][]mdns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			switch {
			case h.Rrtype == mdns.TypeOPT:
			case h.Ttl > age:
				h.Ttl = min(h.Ttl-age, left)
			default:
				h.Ttl = left // kept for longer than its TTL
			}
		}
	}
	return m, true
}

// put keeps an answer for as long as it may be kept.
func (c *cache) put(key cacheKey, m *mdns.Msg) {
	life := c.life(m)
	if life <= 0 || c.cfg.Entries <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.entries[key]; ok {
		c.drop(old)
	}
	now := c.now()
	c.entries[key] = c.used.PushFront(&cached{key: key, msg: m.Copy(), stored: now, expires: now.Add(life)})
	for len(c.entries) > c.cfg.Entries {
		c.drop(c.used.Back())
	}
}

func (c *cache) drop(element *list.Element) {
	delete(c.entries, element.Value.(*cached).key)
	c.used.Remove(element)
}

func (c *cache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// life is for how long an answer may be kept.
func (c *cache) life(m *mdns.Msg) time.Duration {
	switch {
	case m.Truncated:
		return 0
	case m.Rcode != mdns.RcodeSuccess && m.Rcode != mdns.RcodeNameError:
		return failureTTL
	}
	positive := m.Rcode == mdns.RcodeSuccess && slices.ContainsFunc(m.Answer, func(rr mdns.RR) bool {
		return rr.Header().Rrtype == m.Question[0].Qtype
	})
	if positive {
		least := min(leastTTL(m.Answer), leastTTL(m.Ns))
		if least == 0 {
			return 0
		}
		return min(max(seconds(least), c.cfg.MinTTL), c.cfg.MaxTTL)
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*mdns.SOA); ok {
			return min(seconds(min(leastTTL(m.Answer), soa.Hdr.Ttl, soa.Minttl)), c.cfg.MaxNegative)
		}
	}
	return 0 // without an SOA a negative answer must not be kept (RFC 2308, 5)
}

func leastTTL(rrs []mdns.RR) uint32 {
	least := uint32(math.MaxInt32)
	for _, rr := range rrs {
		least = min(least, rr.Header().Ttl)
	}
	return least
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }
