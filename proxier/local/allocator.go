package local

import (
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	"svcproxy/model"
)

// Ranges are what addresses and node ports are taken from.
type Ranges struct {
	// Pods and Services have at most one range a family; the first is the primary family's. The families of
	// both must be the same, in the same order.
	Pods     []netip.Prefix
	Services []netip.Prefix
	// FirstNodePort and LastNodePort bound the node ports.
	FirstNodePort, LastNodePort uint16
}

// DefaultRanges are kubeadm's and kind's: 10.244.0.0/24 and fd00:10:244::/64 for the pods of one node,
// 10.96.0.0/16 and fd00:10:96::/112 for Services, node ports 30000 to 32767. Without ipv6 there is IPv4 alone.
func DefaultRanges(ipv6 bool) Ranges {
	r := Ranges{
		Pods:          []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")},
		Services:      []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		FirstNodePort: 30000,
		LastNodePort:  32767,
	}
	if ipv6 {
		r.Pods = append(r.Pods, netip.MustParsePrefix("fd00:10:244::/64"))
		r.Services = append(r.Services, netip.MustParsePrefix("fd00:10:96::/112"))
	}
	return r
}

func (r Ranges) check() error {
	if len(r.Pods) == 0 || len(r.Pods) > 2 || len(r.Pods) != len(r.Services) {
		return errors.New("ranges: want one for pods and one for Services of each of one or two families")
	}
	for i, p := range r.Pods {
		if !p.IsValid() || !r.Services[i].IsValid() || model.FamilyOf(p.Addr()) != model.FamilyOf(r.Services[i].Addr()) {
			return fmt.Errorf("ranges: %v for pods and %v for Services are not of one family", p, r.Services[i])
		}
		if p.Overlaps(r.Services[i]) {
			return fmt.Errorf("ranges: %v for pods and %v for Services overlap", p, r.Services[i])
		}
	}
	if len(r.Pods) == 2 && model.FamilyOf(r.Pods[0].Addr()) == model.FamilyOf(r.Pods[1].Addr()) {
		return fmt.Errorf("ranges: %v and %v are of one family", r.Pods[0], r.Pods[1])
	}
	if r.FirstNodePort == 0 || r.LastNodePort < r.FirstNodePort {
		return fmt.Errorf("ranges: node ports %d to %d", r.FirstNodePort, r.LastNodePort)
	}
	return nil
}

// families are the families of the ranges, the primary one first.
func (r Ranges) families() []model.Family {
	var all []model.Family
	for _, p := range r.Services {
		all = append(all, model.FamilyOf(p.Addr()))
	}
	return all
}

// Allocator hands out pod addresses, ClusterIPs and node ports. What it hands out is predictable: numbers
// in sequence, as each was asked for, and a number that was given back comes again only after all others, so that
// whoever still talks to a pod or Service that is gone reaches nobody, and not somebody else. The owner of a
// number keeps it until it is given back. An Allocator is not safe for concurrent use.
type Allocator struct {
	ranges   Ranges
	pods     map[model.Family]*pool[netip.Addr]
	services map[model.Family]*pool[netip.Addr]
	ports    *pool[uint16]
}

// NewAllocator returns an Allocator of these ranges, of which nothing is in use.
func NewAllocator(r Ranges) (*Allocator, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	a := &Allocator{
		ranges:   r,
		pods:     map[model.Family]*pool[netip.Addr]{},
		services: map[model.Family]*pool[netip.Addr]{},
	}
	for _, p := range r.Pods {
		// Offset 1 is the node's, as the pods' router.
		a.pods[model.FamilyOf(p.Addr())] = addrPool(p, 2, 2)
	}
	for _, p := range r.Services {
		a.services[model.FamilyOf(p.Addr())] = addrPool(p, 1, staticBand(hosts(p), 16, 256)+1)
	}
	n := uint64(r.LastNodePort-r.FirstNodePort) + 1
	a.ports = newPool(n, staticBand(n, 32, 128),
		func(i uint64) uint16 { return r.FirstNodePort + uint16(i) },
		func(p uint16) (uint64, bool) {
			return uint64(p) - uint64(r.FirstNodePort), p >= r.FirstNodePort && p <= r.LastNodePort
		})
	return a, nil
}

// staticBand is how many of the first numbers of a range are kept for those who ask for one by number: a
// part of it, at least 16 and at most so many. This is the API server's rule (KEP-3070, KEP-3668). They
// are handed out only when all others are in use.
func staticBand(size uint64, part, most uint64) uint64 {
	return min(max(16, size/part), most, size/2)
}

// Pod returns the addresses of a pod, one of each family, the primary one first: the wanted ones, else those that
// it has, else the next free. An error takes and frees nothing.
func (a *Allocator) Pod(name types.NamespacedName, wanted []netip.Addr) ([]netip.Addr, error) {
	o := owner{kind: "Pod", name: name}
	want := map[model.Family]netip.Addr{}
	for _, w := range wanted {
		family := model.FamilyOf(w)
		pool := a.pods[family]
		if pool == nil {
			return nil, fmt.Errorf("%s: address %s is wanted, but the node has no %s", o, w, family)
		}
		if _, twice := want[family]; twice {
			return nil, fmt.Errorf("%s: %s is the second wanted address of %s", o, w, family)
		}
		if err := pool.free(w, o); err != nil {
			return nil, err
		}
		want[family] = w
	}
	for family, pool := range a.pods {
		if _, wanted := want[family]; !wanted && len(pool.owned[o]) == 0 && pool.full() {
			return nil, pool.exhausted(o)
		}
	}
	var got []netip.Addr
	for _, family := range a.ranges.families() {
		pool := a.pods[family]
		addr, wanted := want[family]
		for has := range pool.owned[o] {
			if !wanted {
				addr, wanted = has, true
			}
		}
		if !wanted {
			addr, _ = pool.next(o)
		}
		pool.release(o, addr)
		pool.take(addr, o)
		got = append(got, addr)
	}
	return got, nil
}

// FreePod gives a pod's addresses back.
func (a *Allocator) FreePod(name types.NamespacedName) {
	for _, pool := range a.pods {
		pool.release(owner{kind: "Pod", name: name})
	}
}

// FreeService gives a Service's ClusterIPs and node ports back.
func (a *Allocator) FreeService(name types.NamespacedName) {
	o := owner{kind: "Service", name: name}
	for _, pool := range a.services {
		pool.release(o)
	}
	a.ports.release(o)
}

// clone returns a copy, to be thrown away if something fails.
func (a *Allocator) clone() *Allocator {
	c := &Allocator{ranges: a.ranges, pods: map[model.Family]*pool[netip.Addr]{}, services: map[model.Family]*pool[netip.Addr]{}, ports: a.ports.clone()}
	for f, p := range a.pods {
		c.pods[f] = p.clone()
	}
	for f, p := range a.services {
		c.services[f] = p.clone()
	}
	return c
}

// addrPool is a pool of a range's addresses: from offset least on, those before dynamic last. The last
// address of an IPv4 range, its broadcast address, is nobody's.
func addrPool(p netip.Prefix, least, dynamic uint64) *pool[netip.Addr] {
	p = p.Masked()
	size := hosts(p)
	return newPool(size-least, dynamic-least,
		func(i uint64) netip.Addr { return addrAt(p, i+least) },
		func(a netip.Addr) (uint64, bool) {
			i, in := offset(p, a)
			return i - least, in && i >= least && i < size
		})
}

// hosts is the number of addresses of a range, counted from offset 0, that may be handed out. More than
// 2³² are never needed.
func hosts(p netip.Prefix) uint64 {
	bits := min(p.Addr().BitLen()-p.Bits(), 32)
	n := uint64(1) << bits
	if p.Addr().Is4() {
		n--
	}
	return n
}

// addrAt is the address at an offset in a range.
func addrAt(p netip.Prefix, i uint64) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for at := len(raw) - 1; i > 0 && at >= 0; at-- {
		i += uint64(raw[at])
		raw[at] = byte(i)
		i >>= 8
	}
	a, _ := netip.AddrFromSlice(raw)
	return a
}

// offset is where in a range an address is.
func offset(p netip.Prefix, a netip.Addr) (i uint64, in bool) {
	if !p.Contains(a) {
		return 0, false
	}
	base, raw := p.Masked().Addr().AsSlice(), a.AsSlice()
	for at := range raw {
		d := raw[at] - base[at]
		if i >= 1<<48 {
			return 0, false
		}
		i = i<<8 | uint64(d)
	}
	return i, true
}
