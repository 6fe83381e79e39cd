package dns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/zap"
)

// A question that a server sends on and gets back goes round until something breaks. Two things find that:
// each question that is sent carries the path that it went (an EDNS option, which other servers of this kind
// pass on), and each upstream is probed with a name that nobody else asks for, which comes back through servers
// of any kind.
const (
	// pathOption is one of the option codes for local use (RFC 6891, 9).
	pathOption = 65313
	// maxHops is how many servers of this kind a question may pass; more is a loop whatever the path says.
	maxHops = 8
	// probeZone ends the names of probes: no such top-level domain is delegated.
	probeZone = "svcproxy-loop-probe."
	// probeEvery is the time between two probes of an upstream. One that leads back is not asked for as long, and then
	// probed again first.
	probeEvery = 30 * time.Second
)

var errLoop = errors.New("the question comes from this server itself")

// loopID names this server and one of its upstreams, so that no upstream can pass for another.
type loopID [8]byte

// loopGuard finds upstreams that lead back.
type loopGuard struct {
	f   *Forwarder
	ids []loopID // by upstream
}

func newLoopGuard(f *Forwarder) *loopGuard {
	g := &loopGuard{f: f, ids: make([]loopID, len(f.upstreams))}
	for i := range g.ids {
		_, _ = rand.Read(g.ids[i][:]) // never fails (crypto/rand)
	}
	return g
}

// trace returns the path that a query went, or errLoop where this server is on it.
func (g *loopGuard) trace(req *mdns.Msg) ([]byte, error) {
	opt := req.IsEdns0()
	if opt == nil {
		return nil, nil
	}
	for _, o := range opt.Option {
		local, ok := o.(*mdns.EDNS0_LOCAL)
		if !ok || local.Code != pathOption {
			continue
		}
		path := local.Data
		for len(path) >= len(loopID{}) {
			if i := slices.Index(g.ids, loopID(path[:8])); i >= 0 {
				g.found(i)
				return nil, errLoop
			}
			path = path[len(loopID{}):]
		}
		if len(local.Data) >= maxHops*len(loopID{}) || len(path) > 0 {
			g.f.cfg.Log.Error("DNS question went through too many servers: do they forward to each other?", zap.String("name", req.Question[0].Name))
			return nil, errLoop
		}
		return local.Data, nil
	}
	return nil, nil
}

// stamp adds this server to the path of a question.
func (g *loopGuard) stamp(m *mdns.Msg, hops []byte, upstream int) *mdns.Msg {
	path := slices.Concat(hops, g.ids[upstream][:])
	opt := m.IsEdns0()
	opt.Option = append(opt.Option, &mdns.EDNS0_LOCAL{Code: pathOption, Data: path})
	return m
}

// found takes an upstream out of use for a while.
func (g *loopGuard) found(upstream int) {
	u := g.f.upstreams[upstream]
	g.f.cfg.Metrics.loop(u.addr)
	if u.loops(2 * probeEvery) {
		g.f.cfg.Log.Error("DNS questions sent to this server come back: it forwards to this one; it is not asked any longer",
			zap.Stringer("server", u.addr), zap.Duration("until it is looked at again", probeEvery))
	}
}

// probe is a name to probe an upstream with: another one each time, since caches may be on the way.
func (g *loopGuard) probe(upstream int) string {
	var nonce [4]byte
	_, _ = rand.Read(nonce[:])
	return hex.EncodeToString(slices.Concat(g.ids[upstream][:], nonce[:])) + "." + probeZone
}

// isProbe tells whether a question is a probe of this server's, and marks the upstream that it came back from. Another
// server's probe is a question like others, which must get back to that server if it can.
func (g *loopGuard) isProbe(q mdns.Question) bool {
	label, ok := strings.CutSuffix(strings.ToLower(q.Name), "."+probeZone)
	if !ok {
		return false
	}
	raw, err := hex.DecodeString(label)
	if err != nil || len(raw) < len(loopID{}) {
		return false
	}
	i := slices.Index(g.ids, loopID(raw[:8]))
	if i >= 0 {
		g.found(i)
	}
	return i >= 0
}

// Watch probes the upstreams until ctx ends: at once, and again and again, since others may begin to forward
// here at any time.
func (f *Forwarder) Watch(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		for i := range f.upstreams {
			f.probe(ctx, i)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// probe asks an upstream for its probe's name. Whether and what it answers does not matter.
func (f *Forwarder) probe(ctx context.Context, i int) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	m := new(mdns.Msg).SetQuestion(f.loops.probe(i), mdns.TypeHINFO)
	_, _ = f.upstreams[i].exchange(ctx, m)
}

// Upstreams returns the servers that are asked, without those that lead back here.
func (f *Forwarder) Upstreams() []netip.AddrPort {
	var used []netip.AddrPort
	for _, u := range f.upstreams {
		if _, usable := u.state(); usable {
			used = append(used, u.addr)
		}
	}
	return used
}
