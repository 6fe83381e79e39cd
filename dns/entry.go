package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"svcproxy/model"
)

// entry is a Service as it is answered for. It never changes.
type entry struct {
	service model.ServiceName
	name    string // in full
	// alias is the canonical name that an ExternalName Service stands for.
	alias    string
	headless bool
	addrs    []netip.Addr // ClusterIPs
	// front is what the Service's own name and those of its ports stand for.
	front []target
	// hosts are the endpoints by the label that names them.
	hosts map[string][]target
}

// target is an address with one of its ports: an endpoint's, or a ClusterIP's.
type target struct {
	addr netip.Addr
	host string // the name in full that has the address
	// port and protocol have names in lower case as in SRV names, without underscores; a port without
	// a name has no SRV record (specification, 2.3.2).
	port     string
	protocol string
	number   uint16
}

// newEntry makes the entry of a checked Service.
func newEntry(name string, s *Service) *entry {
	e := &entry{service: s.Name, name: name}
	if s.ExternalName != "" {
		e.alias = mdns.CanonicalName(s.ExternalName)
		return e
	}
	e.addrs = distinct(s.ClusterIPs)
	e.headless = len(e.addrs) == 0
	e.hosts = make(map[string][]target, len(s.Endpoints))
	var endpoints []target
	for _, ep := range s.Endpoints {
		host := ep.host()
		targets := targetsOf(ep.Addr, host+"."+name, ep.Ports)
		e.hosts[host] = append(e.hosts[host], targets...)
		endpoints = append(endpoints, targets...)
	}
	if e.headless {
		e.front = endpoints
	} else {
		for _, a := range e.addrs {
			e.front = append(e.front, targetsOf(a, name, s.Ports)...)
		}
	}
	sortTargets(e.front)
	for _, targets := range e.hosts {
		sortTargets(targets)
	}
	return e
}

// targetsOf returns an address with each of its ports; one without ports is there all the same.
func targetsOf(a netip.Addr, host string, ports []model.ServicePort) []target {
	t := target{addr: a.Unmap().WithZone(""), host: host}
	if len(ports) == 0 {
		return []target{t}
	}
	targets := make([]target, len(ports))
	for i, p := range ports {
		targets[i] = t
		targets[i].port, targets[i].protocol, targets[i].number = strings.ToLower(p.Name), strings.ToLower(p.Protocol.String()), p.Port
	}
	return targets
}

func sortTargets(targets []target) {
	slices.SortFunc(targets, func(a, b target) int {
		return cmp.Or(a.addr.Compare(b.addr), strings.Compare(a.host, b.host), strings.Compare(a.port, b.port),
			strings.Compare(a.protocol, b.protocol), cmp.Compare(a.number, b.number))
	})
}

// find returns what the labels to the left of the Service's own name lead to, and whether there is such a name.
// A headless Service without endpoints does not exist (specification, 2.4.1).
func (e *entry) find(labels []string) (targets []target, exists bool) {
	switch len(labels) {
	case 0:
		return e.front, !e.headless || len(e.front) > 0
	case 1:
		if targets, ok := e.hosts[labels[0]]; ok {
			return targets, true
		}
		// "_tcp" above "_http._tcp" exists, with nothing (RFC 8020).
		protocol := strings.TrimPrefix(labels[0], "_")
		return nil, slices.ContainsFunc(e.front, func(t target) bool { return t.port != "" && t.protocol == protocol })
	case 2:
		// CoreDNS takes the labels without their underscores too.
		port, protocol := strings.TrimPrefix(labels[0], "_"), strings.TrimPrefix(labels[1], "_")
		if port == "" {
			return nil, false
		}
		for _, t := range e.front {
			if t.port == port && t.protocol == protocol {
				targets = append(targets, t)
			}
		}
		return targets, len(targets) > 0
	}
	return nil, false
}

// endpointNames returns the names of the endpoints by address.
func (e *entry) endpointNames() map[netip.Addr][]string {
	names := make(map[netip.Addr][]string, len(e.hosts))
	for _, targets := range e.hosts {
		for i, t := range targets {
			if i == 0 || targets[i-1].addr != t.addr {
				names[t.addr] = append(names[t.addr], t.host)
			}
		}
	}
	return names
}

// holder is a name that an address has.
type holder struct {
	entry   string // key of the Service
	host    string
	cluster bool // the address is the Service's own
}

// holders are the names that an address has, in order. They are shared and never changed.
type holders []holder

func (hs holders) with(h holder) holders {
	at, _ := slices.BinarySearchFunc(hs, h, func(a, b holder) int {
		return cmp.Or(strings.Compare(a.entry, b.entry), strings.Compare(a.host, b.host))
	})
	return slices.Insert(slices.Clone(hs), at, h)
}

func (hs holders) without(entry string) holders {
	var left holders
	for _, h := range hs {
		if h.entry != entry {
			left = append(left, h)
		}
	}
	return left
}

// names returns what a PTR question is answered with: the Service whose ClusterIP the address is, else all endpoints that have it.
func (hs holders) names() []string {
	var names []string
	for _, h := range hs {
		if h.cluster {
			return []string{h.host}
		}
		names = append(names, h.host)
	}
	slices.Sort(names)
	return slices.Compact(names)
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
