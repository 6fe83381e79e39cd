package dns

import (
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"
)

// srvShares is the sum of the weights of the SRV records of one name, as CoreDNS has it.
const srvShares = 100

// addresses returns the A or AAAA records of targets, each address once. The targets are sorted by it.
func (z *Zone) addresses(targets []target, owner string, qtype uint16) []mdns.RR {
	var rrs []mdns.RR
	var last netip.Addr
	for _, t := range targets {
		if t.addr == last || t.addr.Is4() != (qtype == mdns.TypeA) {
			continue
		}
		last = t.addr
		rrs = append(rrs, z.address(owner, t.addr))
	}
	return rrs
}

// srv returns the SRV records of the targets with named ports, and the addresses of their hosts. All weigh the
// same; as with CoreDNS, a host weighs less the more addresses it has.
func (z *Zone) srv(targets []target, owner string) (rrs, more []mdns.RR) {
	named := slices.DeleteFunc(slices.Clone(targets), func(t target) bool { return t.port == "" })
	if len(named) == 0 {
		return nil, nil
	}
	weight := uint16(max(1, srvShares/len(named)))
	type record struct {
		host string
		port uint16
	}
	type address struct {
		host string
		addr netip.Addr
	}
	records, addresses := map[record]bool{}, map[address]bool{}
	for _, t := range named {
		if key := (record{t.host, t.number}); !records[key] {
			records[key] = true
			rrs = append(rrs, &mdns.SRV{Hdr: z.header(owner, mdns.TypeSRV), Weight: weight, Port: t.number, Target: t.host})
		}
		if key := (address{t.host, t.addr}); !addresses[key] {
			addresses[key] = true
			more = append(more, z.address(t.host, t.addr))
		}
	}
	return rrs, more
}

// ns returns the NS records of an apex and the addresses of the servers.
func (z *Zone) ns(owner string) (rrs, more []mdns.RR) {
	seen := map[string]bool{}
	for _, t := range z.nameserverTargets(owner) {
		if !seen[t.host] {
			seen[t.host] = true
			rrs = append(rrs, &mdns.NS{Hdr: z.header(owner, mdns.TypeNS), Ns: t.host})
		}
		more = append(more, z.address(t.host, t.addr))
	}
	if len(rrs) == 0 {
		rrs = append(rrs, &mdns.NS{Hdr: z.header(owner, mdns.TypeNS), Ns: nameserver(owner)})
	}
	return rrs, more
}

func (z *Zone) address(name string, a netip.Addr) mdns.RR {
	if a.Is4() {
		return &mdns.A{Hdr: z.header(name, mdns.TypeA), A: a.AsSlice()}
	}
	return &mdns.AAAA{Hdr: z.header(name, mdns.TypeAAAA), AAAA: a.AsSlice()}
}

func (z *Zone) cname(owner, alias string) mdns.RR {
	return &mdns.CNAME{Hdr: z.header(owner, mdns.TypeCNAME), Target: alias}
}

func (z *Zone) txt(name, text string) mdns.RR {
	h := z.header(name, mdns.TypeTXT)
	h.Ttl = schemaTTL
	return &mdns.TXT{Hdr: h, Txt: []string{text}}
}

// maxSOATTL is the longest life of an SOA record, and so of a negative answer (RFC 2308, 3), in seconds, as CoreDNS has it.
const maxSOATTL = 300

// soa returns the SOA record of an apex. Its minimum is the life of negative answers (RFC 2308); the
// timers for secondary servers, which a Zone has none of, are CoreDNS's.
func (z *Zone) soa(apex string) mdns.RR {
	hdr := z.header(apex, mdns.TypeSOA)
	hdr.Ttl = min(z.ttl, maxSOATTL)
	home := apex
	if _, ok := z.apexes[strings.ToLower(apex)]; !ok {
		home = z.domain // a single address's name has no other names below
	}
	return &mdns.SOA{
		Hdr: hdr, Ns: nameserver(home), Mbox: "hostmaster." + home,
		Serial: z.serial, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: z.ttl,
	}
}

func (z *Zone) header(name string, rrtype uint16) mdns.RR_Header {
	return mdns.RR_Header{Name: name, Rrtype: rrtype, Class: mdns.ClassINET, Ttl: z.ttl}
}
