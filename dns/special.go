package dns

import (
	"net/netip"
	"strings"

	mdns "github.com/miekg/dns"
)

// specialNames are answered here and asked of nobody else: names that never exist in the public DNS
// (RFC 6761, 7686), and reverse zones of addresses that are nobody's (RFC 6303, 4.2 to 4.6).
var specialNames = []string{
	"localhost.", "invalid.", "onion.",
	"0.in-addr.arpa.", "127.in-addr.arpa.", "254.169.in-addr.arpa.", "2.0.192.in-addr.arpa.", "100.51.198.in-addr.arpa.",
	"113.0.203.in-addr.arpa.", "255.255.255.255.in-addr.arpa.",
	arpaName(netip.IPv6Unspecified()), arpaName(netip.IPv6Loopback()),
	"8.e.f.ip6.arpa.", "9.e.f.ip6.arpa.", "a.e.f.ip6.arpa.", "b.e.f.ip6.arpa.", "8.b.d.0.1.0.0.2.ip6.arpa.",
}

// privateReverse are the reverse zones of private addresses (RFC 6303, 4.1 and 4.4): who forwards to a server
// of his own site may want them forwarded.
var privateReverse = func() []string {
	zones := []string{"10.in-addr.arpa.", "168.192.in-addr.arpa.", "d.f.ip6.arpa.", "c.f.ip6.arpa."}
	return append(zones, arpaZones(netip.MustParsePrefix("172.16.0.0/12"))...)
}()

// special answers for a name that is never forwarded; ok is false for all others. private says that the reverse names
// of private addresses are among them.
func special(q mdns.Question, private bool) (reply *mdns.Msg, ok bool) {
	name := mdns.CanonicalName(q.Name)
	apex, found := under(name, specialNames)
	if !found && private {
		apex, found = under(name, privateReverse)
	}
	if !found {
		return nil, false
	}
	reply = new(mdns.Msg)
	header := mdns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: mdns.ClassINET, Ttl: specialTTL}
	switch {
	case apex == "localhost." && q.Qtype == mdns.TypeA:
		reply.Answer = []mdns.RR{&mdns.A{Hdr: header, A: netip.AddrFrom4([4]byte{127, 0, 0, 1}).AsSlice()}}
	case apex == "localhost." && q.Qtype == mdns.TypeAAAA:
		reply.Answer = []mdns.RR{&mdns.AAAA{Hdr: header, AAAA: netip.IPv6Loopback().AsSlice()}}
	case q.Qtype == mdns.TypePTR && isLoopback(name):
		reply.Answer = []mdns.RR{&mdns.PTR{Hdr: header, Ptr: "localhost."}}
	default:
		if apex != "localhost." && name != apex {
			reply.Rcode = mdns.RcodeNameError
		}
		header.Name, header.Rrtype = apex, mdns.TypeSOA
		reply.Ns = []mdns.RR{&mdns.SOA{Hdr: header, Ns: apex, Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 1200, Expire: 604800, Minttl: specialTTL}}
	}
	reply.Authoritative = true
	return reply, true
}

// specialTTL is the life of what is always so, in seconds.
const specialTTL = 3600

func isLoopback(name string) bool {
	a, ok := arpaAddr(name)
	return ok && a.IsLoopback()
}

// under returns the zone that holds the name.
func under(name string, zones []string) (string, bool) {
	for _, z := range zones {
		if prefix, ok := strings.CutSuffix(name, z); ok && (prefix == "" || strings.HasSuffix(prefix, ".")) {
			return z, true
		}
	}
	return "", false
}
