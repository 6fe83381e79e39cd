package dns

import (
	"slices"

	mdns "github.com/miekg/dns"
)

// Answer is what a Zone says to a question, in the sections of a DNS message.
type Answer struct {
	Rcode int
	// Authoritative is false only where the question is outside the Zone.
	Authoritative bool
	Answer        []mdns.RR
	Authority     []mdns.RR
	Additional    []mdns.RR
}

// maxAliases bounds how many ExternalNames of the cluster are followed for one answer.
const maxAliases = 8

// Answer answers one question. Names compare without regard to case; records carry the question's own
// spelling of their name. A name outside the Zone is refused.
func (z *Zone) Answer(q mdns.Question) Answer {
	name := mdns.CanonicalName(q.Name)
	apex, ok := z.apex(name)
	inet := q.Qclass == mdns.ClassINET || q.Qclass == mdns.ClassANY
	if !ok || !inet || q.Qtype == mdns.TypeAXFR || q.Qtype == mdns.TypeIXFR {
		return Answer{Rcode: mdns.RcodeRefused}
	}
	ans := Answer{Rcode: mdns.RcodeSuccess, Authoritative: true}
	owner, seen := q.Name, []string(nil)
	for range maxAliases {
		rrs, exists := z.names[name]
		if !exists {
			// After an alias too the code is that of the last name (RFC 6604).
			ans.Rcode = mdns.RcodeNameError
			ans.Authority = []mdns.RR{z.soa(apex)}
			return ans
		}
		if found := z.find(rrs, name, apex, q.Qtype); len(found) > 0 {
			ans.Answer = append(ans.Answer, renamed(found, owner)...)
			ans.Additional = z.additional(found)
			return ans
		}
		alias := ofType(rrs, mdns.TypeCNAME)
		if len(alias) == 0 {
			ans.Authority = []mdns.RR{z.soa(apex)}
			return ans
		}
		ans.Answer = append(ans.Answer, renamed(alias, owner)...)
		seen = append(seen, name)
		owner = alias[0].(*mdns.CNAME).Target
		name = owner
		if apex, ok = z.apex(name); !ok {
			return ans // the client's resolver knows where else to ask
		}
		if slices.Contains(seen, name) {
			return ans // a ring of aliases, which the client will see
		}
	}
	return ans
}

// find returns the records of one type that a name has. A question for any type gets the minimal answer
// of RFC 8482.
func (z *Zone) find(rrs []mdns.RR, name, apex string, qtype uint16) []mdns.RR {
	switch {
	case qtype == mdns.TypeANY:
		return []mdns.RR{&mdns.HINFO{Hdr: z.header(name, mdns.TypeHINFO), Cpu: "RFC8482"}}
	case qtype == mdns.TypeSOA && name == apex:
		return []mdns.RR{z.soa(apex)}
	case qtype == mdns.TypeNS && name == apex:
		return []mdns.RR{z.ns(apex)}
	}
	return ofType(rrs, qtype)
}

func ofType(rrs []mdns.RR, rrtype uint16) []mdns.RR {
	var out []mdns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype == rrtype {
			out = append(out, rr)
		}
	}
	return out
}

// additional returns the addresses of the hosts that SRV and NS records name.
func (z *Zone) additional(rrs []mdns.RR) []mdns.RR {
	var hosts []string
	for _, rr := range rrs {
		switch rr := rr.(type) {
		case *mdns.SRV:
			hosts = append(hosts, rr.Target)
		case *mdns.NS:
			hosts = append(hosts, rr.Ns)
		}
	}
	slices.Sort(hosts)
	var out []mdns.RR
	for _, host := range slices.Compact(hosts) {
		out = append(out, ofType(z.names[host], mdns.TypeA)...)
		out = append(out, ofType(z.names[host], mdns.TypeAAAA)...)
	}
	return out
}

// renamed copies records and gives them another owner: the table's own are shared and never changed.
func renamed(rrs []mdns.RR, owner string) []mdns.RR {
	out := make([]mdns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = mdns.Copy(rr)
		out[i].Header().Name = mdns.Fqdn(owner)
	}
	return out
}
