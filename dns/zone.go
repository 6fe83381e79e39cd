package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"svcproxy/model"
)

// SchemaVersion is the version of the specification that a Zone answers by, published as the TXT record
// dns-version.<domain>.
const SchemaVersion = "1.1.0"

// DefaultTTL is the life of a record in caches, as CoreDNS has it.
const DefaultTTL = 5 * time.Second

// schemaTTL is the specification's own example for the schema version's record, in seconds.
const schemaTTL = 28800

// PodMode says what is answered for the names of pods, such as 10-244-0-7.default.pod.cluster.local,
// which the specification deprecates.
type PodMode int

const (
	// PodsDisabled knows no names of pods.
	PodsDisabled PodMode = iota
	// PodsInsecure answers for every name that spells an address, in a namespace that exists, without
	// looking whether a pod has it: what kubeadm configures.
	PodsInsecure
	// PodsVerified answers for the addresses of the namespace's pods.
	PodsVerified
)

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
	// Nameservers are the addresses of this name server. Where they are ClusterIPs or endpoints of
	// Services (kube-dns as a rule), NS records name these Services and ns.dns.<domain> has their
	// addresses.
	Nameservers []netip.Addr
	// Pods says which names of pods are answered for.
	Pods PodMode
}

// Zone answers for a cluster's Services. It never changes, so goroutines may share it; With makes
// another one, which costs as much as the change is large.
type Zone struct {
	domain      string // lower case, with the final dot
	ttl         uint32
	serial      uint32
	podMode     PodMode
	nameservers []netip.Addr
	// apexes are the tops of what this server is the authority for.
	apexes map[string]struct{}

	services   table[string, *entry] // by "name.namespace" in lower case
	namespaces table[string, namespace]
	addrs      table[netip.Addr, holders]
	pods       table[model.ServiceName, []netip.Addr]
	podAddrs   table[podAddr, int] // how many pods have it
}

// namespace says by what a namespace exists.
type namespace struct {
	services int
	declared bool
}

// podAddr is an address of a namespace's pods.
type podAddr struct {
	namespace string
	addr      netip.Addr
}

// Changes lead from one Zone to the next. What is not named stays.
type Changes struct {
	// Services by name; nil where one is gone.
	Services map[model.ServiceName]*Service
	// Namespaces tells which namespaces exist, with Services or without.
	Namespaces map[string]bool
	// Pods are the addresses of pods by name, none where one is gone; they matter to PodsVerified.
	Pods map[model.ServiceName][]netip.Addr
	// Serial is the new serial; the old one plus 1 where it is zero.
	Serial uint32
}

// NewZone makes the Zone for the Services. A Service that can't be put into DNS is left out and named in
// problems with the field at fault; all others are still answered for. The error is of the
// configuration alone.
func NewZone(cfg Config, services []Service) (zone *Zone, problems []error, err error) {
	z, err := newZone(cfg)
	if err != nil {
		return nil, nil, err
	}
	c := Changes{Services: make(map[model.ServiceName]*Service, len(services)), Serial: cfg.Serial}
	for i := range services {
		s := &services[i]
		if _, twice := c.Services[s.Name]; twice {
			problems = append(problems, fmt.Errorf("service %q: listed twice", s.Name))
			continue
		}
		c.Services[s.Name] = s
	}
	zone, more := z.With(c)
	zone.serial = cfg.Serial
	return zone, append(problems, more...), nil
}

// With returns a Zone with the changes. A changed Service that can't be put into DNS is left out and named in problems.
func (z *Zone) With(c Changes) (zone *Zone, problems []error) {
	next := *z
	next.serial++
	if c.Serial != 0 {
		next.serial = c.Serial
	}
	b := &builder{zone: &next,
		services: z.services.edit(), namespaces: z.namespaces.edit(), addrs: z.addrs.edit(),
		pods: z.pods.edit(), podAddrs: z.podAddrs.edit(),
	}
	for name, s := range c.Services {
		if s == nil {
			b.removeService(name)
		}
	}
	// In the order of names, so that of two that DNS can't tell apart always the same one is served.
	for _, name := range sortedNames(c.Services) {
		if s := c.Services[name]; s != nil {
			if err := b.setService(name, s); err != nil {
				problems = append(problems, err)
			}
		}
	}
	for name, declared := range c.Namespaces {
		ns, _ := b.namespaces.get(strings.ToLower(name))
		ns.declared = declared
		b.setNamespace(strings.ToLower(name), ns)
	}
	for name, addrs := range c.Pods {
		b.setPod(name, addrs)
	}
	next.services, next.namespaces, next.addrs = b.services.table, b.namespaces.table, b.addrs.table
	next.pods, next.podAddrs = b.pods.table, b.podAddrs.table
	return &next, problems
}

func sortedNames(services map[model.ServiceName]*Service) []model.ServiceName {
	names := make([]model.ServiceName, 0, len(services))
	for name := range services {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b model.ServiceName) int {
		if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return names
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
	if cfg.Pods < PodsDisabled || cfg.Pods > PodsVerified {
		return nil, fmt.Errorf("dns zone: unknown pod mode %d", cfg.Pods)
	}
	z := &Zone{
		domain:  mdns.CanonicalName(cfg.Domain),
		ttl:     uint32(cfg.TTL / time.Second),
		serial:  cfg.Serial,
		podMode: cfg.Pods,
		apexes:  map[string]struct{}{},
	}
	z.apexes[z.domain] = struct{}{}
	for _, p := range cfg.Reverse {
		if !p.IsValid() {
			return nil, fmt.Errorf("dns zone: invalid prefix in Reverse")
		}
		for _, apex := range arpaZones(p) {
			z.apexes[apex] = struct{}{}
		}
	}
	for _, a := range cfg.Nameservers {
		if !a.IsValid() {
			return nil, fmt.Errorf("dns zone: invalid address in Nameservers")
		}
	}
	z.nameservers = distinct(cfg.Nameservers)
	return z, nil
}

// maxDomain, in characters, leaves room for the zone's own names and for short names of Services; a
// Service whose names don't fit under the domain is a problem of its own.
const maxDomain = 200

// maxTTL is RFC 8767's advice: longer ones are taken for mistakes.
const maxTTL = 7 * 24 * time.Hour

func (z *Zone) serviceName(s model.ServiceName) string { return serviceKey(s) + ".svc." + z.domain }

func serviceKey(s model.ServiceName) string { return strings.ToLower(s.Name + "." + s.Namespace) }

// apex returns the top of the zone that holds name, which must be in lower case. The reverse name of an address
// that is known, outside the reverse zones, is a zone of its own.
func (z *Zone) apex(name string) (string, bool) {
	for off, end := 0, false; !end; off, end = mdns.NextLabel(name, off) {
		if _, ok := z.apexes[name[off:]]; ok {
			return name[off:], true
		}
	}
	if a, ok := arpaAddr(name); ok {
		if _, known := z.addrs.get(a); known {
			return name, true
		}
	}
	return "", false
}
