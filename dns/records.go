package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"svcproxy/model"
)

// srvShares is the sum of the weights of the SRV records of one name, as CoreDNS has it.
const srvShares = 100

// addService puts the records of a checked Service into the table. name is its name in full.
func (z *Zone) addService(name string, s *Service) {
	// The namespace exists though a headless Service without endpoints does not.
	_, namespace, _ := strings.Cut(name, ".")
	z.touch(namespace)
	switch {
	case s.ExternalName != "":
		z.add(&mdns.CNAME{Hdr: z.header(name, mdns.TypeCNAME), Target: mdns.CanonicalName(s.ExternalName)})
	case len(s.ClusterIPs) > 0:
		z.addClusterIP(name, s)
	default:
		z.addHeadless(name, s)
	}
}

func (z *Zone) addClusterIP(name string, s *Service) {
	z.addAddresses(name, s.ClusterIPs)
	for _, a := range distinct(s.ClusterIPs) {
		z.addPTR(a, name)
	}
	var targets []srvTarget
	for _, p := range s.Ports {
		targets = append(targets, srvTarget{owner: portLabels(p) + name, host: name, port: p.Port})
	}
	z.addSRV(targets)
}

func (z *Zone) addHeadless(name string, s *Service) {
	var all []netip.Addr
	hosts := map[string][]netip.Addr{}
	var targets []srvTarget
	for _, e := range s.Endpoints {
		host := e.host() + "." + name
		all = append(all, e.Addr)
		hosts[host] = append(hosts[host], e.Addr)
		for _, p := range e.Ports {
			targets = append(targets, srvTarget{owner: portLabels(p) + name, host: host, port: p.Port})
		}
	}
	z.addAddresses(name, all)
	for host, addrs := range hosts {
		z.addAddresses(host, addrs)
		for _, a := range distinct(addrs) {
			z.addPTR(a, host)
		}
	}
	z.addSRV(targets)
}

// portLabels returns "_name._protocol.", or nothing for a port without a name, which has no SRV record.
func portLabels(p model.ServicePort) string {
	if p.Name == "" {
		return ""
	}
	return strings.ToLower("_" + p.Name + "._" + p.Protocol.String() + ".")
}

// srvTarget is an SRV record without its weight.
type srvTarget struct {
	owner string
	host  string
	port  uint16
}

// addSRV adds the SRV records, each owner's with equal weights. Targets without port labels are left out.
func (z *Zone) addSRV(targets []srvTarget) {
	targets = slices.DeleteFunc(targets, func(t srvTarget) bool { return !strings.HasPrefix(t.owner, "_") })
	slices.SortFunc(targets, func(a, b srvTarget) int {
		return cmp.Or(strings.Compare(a.owner, b.owner), strings.Compare(a.host, b.host), cmp.Compare(a.port, b.port))
	})
	targets = slices.Compact(targets)
	count := map[string]int{}
	for _, t := range targets {
		count[t.owner]++
	}
	for _, t := range targets {
		weight := max(1, srvShares/count[t.owner])
		z.add(&mdns.SRV{Hdr: z.header(t.owner, mdns.TypeSRV), Weight: uint16(weight), Port: t.port, Target: t.host})
	}
}

func (z *Zone) addAddresses(name string, addrs []netip.Addr) {
	for _, a := range distinct(addrs) {
		z.add(z.address(name, a))
	}
}

// addPTR adds a PTR record for an address that distinct gave. An address outside the zones of reverse names is a zone of its own.
func (z *Zone) addPTR(a netip.Addr, target string) {
	name := arpaName(a)
	if _, ok := z.apex(name); !ok {
		z.addApex(name)
	}
	ptr := &mdns.PTR{Hdr: z.header(name, mdns.TypePTR), Ptr: target}
	z.add(ptr)
	slices.SortFunc(z.names[name], func(a, b mdns.RR) int { return strings.Compare(a.String(), b.String()) })
}

// distinct returns the addresses sorted, each once; IPv4-mapped ones as IPv4.
func distinct(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		out[i] = a.Unmap().WithZone("")
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func (z *Zone) address(name string, a netip.Addr) mdns.RR {
	if a = a.Unmap(); a.Is4() {
		return &mdns.A{Hdr: z.header(name, mdns.TypeA), A: a.AsSlice()}
	}
	return &mdns.AAAA{Hdr: z.header(name, mdns.TypeAAAA), AAAA: a.AsSlice()}
}

func (z *Zone) txt(name, text string) mdns.RR {
	h := z.header(name, mdns.TypeTXT)
	h.Ttl = schemaTTL
	return &mdns.TXT{Hdr: h, Txt: []string{text}}
}

// soa returns the SOA record of an apex. Its minimum is the life of negative answers (RFC 2308); the
// timers for secondary servers, which a Zone has none of, are CoreDNS's.
func (z *Zone) soa(apex string) mdns.RR {
	return &mdns.SOA{
		Hdr: z.header(apex, mdns.TypeSOA), Ns: z.nameserver(), Mbox: "hostmaster." + z.domain,
		Serial: z.serial, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: z.ttl,
	}
}

func (z *Zone) ns(apex string) mdns.RR {
	return &mdns.NS{Hdr: z.header(apex, mdns.TypeNS), Ns: z.nameserver()}
}

func (z *Zone) header(name string, rrtype uint16) mdns.RR_Header {
	return mdns.RR_Header{Name: name, Rrtype: rrtype, Class: mdns.ClassINET, Ttl: z.ttl}
}
