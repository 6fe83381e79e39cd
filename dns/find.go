package dns

import (
	"net"
	"net/netip"
	"strings"

	mdns "github.com/miekg/dns"
)

// node is what there is at a name. One that exists without anything is an empty non-terminal (RFC 8020):
// other names end in it.
type node struct {
	exists  bool
	apex    bool
	version bool
	alias   string
	targets []target
	holders holders
}

// find looks up a name, in lower case and under the apex.
func (z *Zone) find(name, apex string) node {
	if name == apex {
		if apex == z.domain {
			return node{exists: true, apex: true}
		}
		n := z.findReverse(name, apex)
		n.exists, n.apex = true, true
		return n
	}
	labels := mdns.SplitDomainName(name[:len(name)-len(apex)])
	if last := len(labels) - 1; labels[last] == "dns" {
		switch {
		case last == 0:
			return node{exists: true}
		case last == 1 && labels[0] == "ns":
			return node{exists: true, targets: z.nameserverAddrs()}
		}
		return node{}
	}
	if apex != z.domain {
		return z.findReverse(name, apex)
	}
	last := len(labels) - 1
	switch labels[last] {
	case "dns-version":
		return node{exists: last == 0, version: last == 0}
	case "svc":
		return z.findService(labels[:last])
	case "pod":
		return z.findPod(labels[:last])
	}
	return node{}
}

// findService looks up what is left of ".svc" and the domain.
func (z *Zone) findService(labels []string) node {
	last := len(labels) - 1
	if last < 0 {
		return node{exists: true}
	}
	if last == 0 {
		_, exists := z.namespaces.get(labels[0])
		return node{exists: exists}
	}
	e, ok := z.services.get(labels[last-1] + "." + labels[last])
	if !ok {
		return node{}
	}
	if e.alias != "" {
		if last > 1 {
			return node{}
		}
		return node{exists: true, alias: e.alias}
	}
	targets, exists := e.find(labels[:last-1])
	return node{exists: exists, targets: targets}
}

// findPod looks up what is left of ".pod" and the domain: an address with dashes, and the namespace.
func (z *Zone) findPod(labels []string) node {
	switch {
	case len(labels) == 0:
		return node{exists: true}
	case z.podMode == PodsDisabled || len(labels) > 2:
		return node{}
	}
	ns := labels[len(labels)-1]
	if _, exists := z.namespaces.get(ns); !exists || len(labels) == 1 {
		return node{exists: exists}
	}
	a, ok := podAddress(labels[0])
	if !ok {
		return node{}
	}
	if _, has := z.podAddrs.get(podAddr{ns, a}); !has && z.podMode == PodsVerified {
		return node{}
	}
	return node{exists: true, targets: []target{{addr: a}}}
}

// podAddress reads an address with dashes for its dots or colons. IPv6 ones with three dashes and no
// shorthand can't be told from IPv4, which they then are.
func podAddress(label string) (netip.Addr, bool) {
	by := ":"
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		by = "."
	}
	a, ok := netip.AddrFromSlice(net.ParseIP(strings.ReplaceAll(label, "-", by)))
	return a.Unmap(), ok
}

// findReverse looks up a name of a reverse zone. Names above those of addresses all exist, empty.
func (z *Zone) findReverse(name, apex string) node {
	a, whole := arpaAddr(name)
	if !whole {
		return node{exists: arpaPart(name)}
	}
	h, known := z.addrs.get(a)
	return node{exists: known, holders: h}
}

// nameserverAddrs are the addresses that name servers of the zone have.
func (z *Zone) nameserverAddrs() []target {
	var all []target
	for _, t := range z.nameserverTargets("") {
		all = append(all, target{addr: t.addr})
	}
	sortTargets(all)
	return all
}

// nameserverTargets are the name servers of a zone with their addresses: the Services that lead to this
// server's addresses, else the addresses themselves under the zone's ns.dns.
func (z *Zone) nameserverTargets(apex string) []target {
	var all []target
	seen := map[string]bool{}
	for _, a := range z.nameservers {
		h, _ := z.addrs.get(a)
		for _, holder := range h {
			e, ok := z.services.get(holder.entry)
			if !ok || seen[holder.entry] {
				continue
			}
			seen[holder.entry] = true
			if e.headless {
				all = append(all, e.front...)
				continue
			}
			for _, c := range e.addrs {
				all = append(all, target{addr: c, host: e.name})
			}
		}
	}
	if len(all) > 0 {
		return all
	}
	for _, a := range z.nameservers {
		all = append(all, target{addr: a, host: nameserver(apex)})
	}
	return all
}

func nameserver(apex string) string { return "ns.dns." + apex }
