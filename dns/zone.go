package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// SchemaVersion is the version of the specification that a Zone answers by, published as the TXT record
// dns-version.<domain>.
const SchemaVersion = "1.1.0"

// DefaultTTL is the life of a record in caches, as CoreDNS has it.
const DefaultTTL = 5 * time.Second

// schemaTTL is the specification's own example for the schema version's record, in seconds.
const schemaTTL = 28800

// Config says what a Zone is, apart from its Services.
type Config struct {
	// Domain is the cluster's domain, such as "cluster.local".
	Domain string
	// TTL of records and of negative answers, in whole seconds; DefaultTTL where it is zero.
	TTL time.Duration
	// Serial is the zone's SOA serial; each new Zone of a running server should have a larger one.
	Serial uint32
	// Reverse holds the prefixes that the Zone answers reverse queries for, such as the cluster's
	// Service and pod CIDRs: an unknown address within them does not exist. PTR records of addresses
	// outside them are answered too, but nothing is said of their neighbours.
	Reverse []netip.Prefix
	// Nameservers are the addresses of this name server, as clients reach it: the ClusterIPs of
	// kube-dns as a rule.
	Nameservers []netip.Addr
}

// Zone is an immutable table of the records for a cluster's Services. It may be shared between
// goroutines.
type Zone struct {
	domain string // lower case, with the final dot
	ttl    uint32
	serial uint32
	// names holds every name that exists, in lower case. One without records is an empty non-terminal
	// (RFC 8020): other names end in it.
	names map[string][]mdns.RR
	// apexes are the tops of what this server is the authority for.
	apexes map[string]struct{}
}

// NewZone makes the Zone for the Services. A Service that can't be put into DNS is left out and named in
// problems with the field at fault; all others are still answered for. The error is of the
// configuration alone.
func NewZone(cfg Config, services []Service) (zone *Zone, problems []error, err error) {
	z, err := newZone(cfg)
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[string]struct{}, len(services))
	for i := range services {
		s := &services[i]
		if err := s.check(); err != nil {
			problems = append(problems, err)
			continue
		}
		name := z.serviceName(s)
		if err := s.checkLength(name); err != nil {
			problems = append(problems, err)
			continue
		}
		if _, twice := seen[name]; twice {
			problems = append(problems, fmt.Errorf("service %q: listed twice", s.Name))
			continue
		}
		seen[name] = struct{}{}
		z.addService(name, s)
	}
	return z, problems, nil
}

func newZone(cfg Config) (*Zone, error) {
	if !isHostname(cfg.Domain) || len(cfg.Domain) > maxDomain {
		return nil, fmt.Errorf("dns zone: domain %q is not a DNS name of at most %d characters", cfg.Domain, maxDomain)
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.TTL < 0 || cfg.TTL > maxTTL {
		return nil, fmt.Errorf("dns zone: TTL %s is not between 0 and %s", cfg.TTL, maxTTL)
	}
	z := &Zone{
		domain: mdns.CanonicalName(cfg.Domain),
		ttl:    uint32(cfg.TTL / time.Second),
		serial: cfg.Serial,
		names:  map[string][]mdns.RR{},
		apexes: map[string]struct{}{},
	}
	z.addApex(z.domain)
	for _, p := range cfg.Reverse {
		if !p.IsValid() {
			return nil, fmt.Errorf("dns zone: invalid prefix in Reverse")
		}
		for _, apex := range arpaZones(p) {
			z.addApex(apex)
		}
	}
	z.add(z.txt("dns-version."+z.domain, SchemaVersion))
	z.touch("svc." + z.domain)
	for _, a := range cfg.Nameservers {
		if !a.IsValid() {
			return nil, fmt.Errorf("dns zone: invalid address in Nameservers")
		}
		z.add(z.address(z.nameserver(), a))
	}
	return z, nil
}

// maxDomain, in characters, leaves room for the zone's own names and for short names of Services; a
// Service whose names don't fit under the domain is a problem of its own.
const maxDomain = 200

// maxTTL is RFC 8767's advice: longer ones are taken for mistakes.
const maxTTL = 7 * 24 * time.Hour

func (z *Zone) serviceName(s *Service) string {
	return strings.ToLower(s.Name.Name+"."+s.Name.Namespace) + ".svc." + z.domain
}

func (z *Zone) nameserver() string { return "ns.dns." + z.domain }

// addApex makes name the top of a zone.
func (z *Zone) addApex(name string) {
	z.apexes[name] = struct{}{}
	if _, ok := z.names[name]; !ok {
		z.names[name] = nil
	}
}

// apex returns the top of the zone that holds name, which must be in lower case.
func (z *Zone) apex(name string) (string, bool) {
	for off, end := 0, false; !end; off, end = mdns.NextLabel(name, off) {
		if _, ok := z.apexes[name[off:]]; ok {
			return name[off:], true
		}
	}
	return "", false
}

// add puts a record into the table. The caller sees to it that a record is not added twice.
func (z *Zone) add(rr mdns.RR) {
	name := rr.Header().Name
	z.touch(name)
	z.names[name] = append(z.names[name], rr)
}

// touch makes a name exist, and the names above it up to the zone's apex.
func (z *Zone) touch(name string) {
	for off, end := 0, false; !end; off, end = mdns.NextLabel(name, off) {
		if _, ok := z.names[name[off:]]; ok {
			return
		}
		z.names[name[off:]] = nil
	}
}
