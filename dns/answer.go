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
	// Outside is the name, not of the Zone, that the last alias in Answer leads to, if there is one.
	Outside string
}

// maxAliases bounds how many ExternalNames of the cluster are followed for one answer.
const maxAliases = 8

// Answer answers one question. Names compare without regard to case; records carry the question's own
// spelling of their name. A name outside the Zone is refused.
func (z *Zone) Answer(q mdns.Question) Answer {
	name := mdns.CanonicalName(q.Name)
	apex, ok := z.apex(name)
	if !ok || q.Qclass != mdns.ClassINET || q.Qtype == mdns.TypeAXFR || q.Qtype == mdns.TypeIXFR {
		return Answer{Rcode: mdns.RcodeRefused}
	}
	ans := Answer{Rcode: mdns.RcodeSuccess, Authoritative: true}
	owner, seen := mdns.Fqdn(q.Name), []string(nil)
	for range maxAliases {
		n := z.find(name, apex)
		if !n.exists {
			// After an alias too the code is that of the last name (RFC 6604).
			ans.Rcode = mdns.RcodeNameError
			ans.Authority = []mdns.RR{z.soa(apex)}
			return ans
		}
		if n.alias == "" || q.Qtype == mdns.TypeCNAME || q.Qtype == mdns.TypeANY {
			rrs, more := z.records(n, owner, q.Qtype)
			if len(rrs) == 0 {
				ans.Authority = []mdns.RR{z.soa(apex)}
			}
			ans.Answer, ans.Additional = append(ans.Answer, rrs...), more
			return ans
		}
		ans.Answer = append(ans.Answer, z.cname(owner, n.alias))
		seen = append(seen, name)
		owner, name = n.alias, n.alias
		if apex, ok = z.apex(name); !ok {
			ans.Outside = name
			return ans
		}
		if slices.Contains(seen, name) {
			return ans // a ring of aliases, which the client will see
		}
	}
	return ans
}

// records returns the records of one type that a name has, and those that a client will want besides. A
// question for any type gets the minimal answer of RFC 8482.
func (z *Zone) records(n node, owner string, qtype uint16) (rrs, more []mdns.RR) {
	switch qtype {
	case mdns.TypeANY:
		return []mdns.RR{&mdns.HINFO{Hdr: z.header(owner, mdns.TypeHINFO), Cpu: "RFC8482"}}, nil
	case mdns.TypeCNAME:
		if n.alias != "" {
			rrs = append(rrs, z.cname(owner, n.alias))
		}
	case mdns.TypeSOA:
		if n.apex {
			rrs = append(rrs, z.soa(owner))
		}
	case mdns.TypeNS:
		if n.apex {
			return z.ns(owner)
		}
	case mdns.TypeTXT:
		if n.version {
			rrs = append(rrs, z.txt(owner, SchemaVersion))
		}
	case mdns.TypePTR:
		for _, name := range n.holders.names() {
			rrs = append(rrs, &mdns.PTR{Hdr: z.header(owner, mdns.TypePTR), Ptr: name})
		}
	case mdns.TypeA, mdns.TypeAAAA:
		return z.addresses(n.targets, owner, qtype), nil
	case mdns.TypeSRV:
		return z.srv(n.targets, owner)
	}
	return rrs, nil
}
