package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// Render returns the ruleset of a whole plan. It does no input or output, and the same plan gives the same
// ruleset. The error is a *plan.ServiceError.
func Render(p *plan.Plan) (*Ruleset, error) {
	_, r, err := newState(p.Config, p.Services)
	return r, err
}

// fragment is a Service's part of a ruleset.
type fragment struct {
	// own are the elements of the sets in ownSets.
	own [len(ownSets)][]KeyedElement
	// clusterIPs and hairpins are the addresses, in the kernel's bytes, whose elements the Service shares
	// with others.
	clusterIPs, hairpins []string
	// classes are those of which it needs the chains.
	classes []class
}

// render returns a Service's part of a ruleset. The error is a *plan.ServiceError.
func render(c *plan.Config, s *plan.Service) (*fragment, error) {
	out := &fragment{}
	for i := range s.Ports {
		if err := out.add(c, &s.Ports[i]); err != nil {
			return nil, &plan.ServiceError{Service: s.Name, Err: fmt.Errorf("port %s: %w", s.Ports[i].Name, err)}
		}
	}
	return out, nil
}

// list is one of a Service port's lists of endpoints, in the kernel's bytes.
type list struct {
	offset uint32
	data   []string
	// id and ids name the list and its endpoints to the session affinity, and are empty without one.
	id  string
	ids []string
}

func (fr *fragment) add(c *plan.Config, p *plan.ServicePort) error {
	ids := map[string]bool{}
	cluster, err := fr.list(c.Family, p, false, ids)
	if err != nil {
		return err
	}
	local, err := fr.list(c.Family, p, true, ids)
	if err != nil {
		return err
	}
	listOf := func(r plan.Route) *list {
		if r.Local {
			return local
		}
		return cluster
	}
	for _, fe := range p.Frontends {
		d, err := dispatchOf(fe, c.Detector.Detects())
		if err == nil {
			err = checkFrontend(c.Family, p, fe, d)
		}
		if err != nil {
			return fmt.Errorf("frontend %s %s: %w", fe.Protocol, netip.AddrPortFrom(fe.Addr, fe.Port), err)
		}
		key := frontendKey(c.Family, fe.FrontendKey)
		text := comment(p.Name, fe.Kind)
		fr.dispatch(ownServices, KeyedElement{key, Element{Comment: text}}, p, fe.Kind, d.all, d.masq)
		if d.all.Action == plan.Balance {
			fr.lead(key, listOf(d.all))
		}
		if d.apart {
			masq := masqNone
			if d.outside.Masquerade {
				masq = masqAll
			}
			fr.dispatch(ownServicesOutside, KeyedElement{key, Element{Comment: text}}, p, fe.Kind, d.outside, masq)
			if d.outside.Action == plan.Balance && (d.all.Action != plan.Balance || d.all.Local != d.outside.Local) {
				fr.lead(key, listOf(d.outside))
			}
		}
		switch fe.Kind {
		case plan.ClusterIP:
			fr.clusterIPs = append(fr.clusterIPs, key[:c.Family.Bits()/8])
		case plan.LoadBalancer:
			fr.limit(key, fe.Addr, p)
		}
	}
	return nil
}

// list takes in one of a port's lists, if it has endpoints. taken are the ids of the port's endpoints.
func (fr *fragment) list(f model.Family, p *plan.ServicePort, local bool, taken map[string]bool) (*list, error) {
	endpoints, l := p.Endpoints, &list{}
	if local {
		endpoints, l.offset = p.Local, localOffset
	}
	if len(endpoints) >= localOffset {
		return nil, fmt.Errorf("%d endpoints: there is room for %d", len(endpoints), localOffset-1)
	}
	for _, e := range endpoints {
		if model.FamilyOf(e.Addr) != f || e.Port == 0 {
			return nil, fmt.Errorf("endpoint %s is no %s endpoint", e.AddrPort(), f)
		}
	}
	l.data = endpointData(endpoints)
	// Another node's pod asks this node only for what it is asked from outside, where not all are masqueraded.
	outside := slices.ContainsFunc(p.Frontends, func(fe plan.Frontend) bool { return fe.Outside != fe.Node })
	for i, d := range l.data {
		if !endpoints[i].Remote || outside {
			fr.hairpins = append(fr.hairpins, d[:f.Bits()/8])
		}
	}
	if p.Affinity > 0 {
		l.id, l.ids = listID(p.Name, local), endpointIDs(p.Name, local, endpoints, taken)
	}
	return l, nil
}

// dispatch adds the element that does what a route says.
func (fr *fragment) dispatch(set int, el KeyedElement, p *plan.ServicePort, kind plan.FrontendKind, r plan.Route, masq masquerade) {
	switch r.Action {
	case plan.Reject:
		el.Data = "goto " + noEndpointsChain
	case plan.Drop:
		el.Data = "drop"
	case plan.Balance:
		c := classOf(p, kind, r, masq)
		el.Data = "goto " + c.chain()
		fr.classes = append(fr.classes, c)
	}
	fr.own[set] = append(fr.own[set], el)
}

// lead adds the elements by which a frontend leads to a list.
func (fr *fragment) lead(key string, l *list) {
	n := uint32(len(l.data))
	keys := endpointKeys(key, l.offset, n)
	fr.own[ownEndpoints] = slices.Grow(fr.own[ownEndpoints], len(keys))
	for i, k := range keys {
		fr.own[ownEndpoints] = append(fr.own[ownEndpoints], KeyedElement{k, Element{Data: l.data[i]}})
	}
	if l.id == "" {
		return
	}
	fr.own[ownAffinityLists] = append(fr.own[ownAffinityLists], KeyedElement{endpointKey(key, l.offset), Element{Data: l.id}})
	for i, k := range keys {
		fr.own[ownAffinityPicks] = append(fr.own[ownAffinityPicks], KeyedElement{k, Element{Data: l.ids[i]}})
		fr.own[ownAffinityEndpoints] = append(fr.own[ownAffinityEndpoints], KeyedElement{key + l.ids[i], Element{Data: l.data[i]}})
	}
}

// limit adds the elements that let only some sources use a load balancer.
func (fr *fragment) limit(key string, addr netip.Addr, p *plan.ServicePort) {
	if len(p.SourceRanges) == 0 {
		return
	}
	fr.own[ownLimited] = append(fr.own[ownLimited], KeyedElement{Key: key})
	for _, r := range disjoint(model.FamilyOf(addr), p.Sources()) {
		span := key + addrKey(r.Addr()) + key + addrKey(lastOf(r))
		fr.own[ownSourceRanges] = append(fr.own[ownSourceRanges], KeyedElement{Key: span})
	}
}

// checkFrontend tells what keeps a frontend from being an element.
func checkFrontend(f model.Family, p *plan.ServicePort, fe plan.Frontend, d dispatch) error {
	switch {
	case fe.Kind > plan.NodePort:
		return fmt.Errorf("unknown kind %d", fe.Kind)
	case fe.Kind == plan.NodePort && fe.Addr.IsValid():
		return errors.New("a node port has no address of its own")
	case fe.Kind == plan.NodePort:
	case !fe.Addr.IsValid() || model.FamilyOf(fe.Addr) != f:
		return fmt.Errorf("address is not of %s", f)
	case fe.Addr.IsUnspecified():
		return errors.New("address is unspecified")
	}
	for _, r := range []plan.Route{d.all, d.outside} {
		switch {
		case r.Action > plan.Drop:
			return fmt.Errorf("unknown action %d", r.Action)
		case r.Action == plan.Balance && len(p.List(r)) == 0:
			return errors.New("nothing to balance over")
		}
	}
	return nil
}

// Keys and data are concatenations in the kernel's registers: each field is padded to 4 bytes, addresses and
// ports are in network order, and an index is in the machine's own, as numgen leaves it. A node port has the
// unspecified address, as the rules that look for one mask the destination's away.

func frontendKey(f model.Family, k plan.FrontendKey) string {
	b := make([]byte, 0, 24)
	if k.Addr.IsValid() {
		b = appendAddr(b, k.Addr)
	} else {
		b = append(b, make([]byte, f.Bits()/8)...)
	}
	b = append(b, byte(k.Protocol), 0, 0, 0)
	return string(appendPort(b, k.Port))
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		v4 := a.As4()
		return append(b, v4[:]...)
	}
	v6 := a.As16()
	return append(b, v6[:]...)
}

func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

func endpointKey(frontend string, index uint32) string {
	return string(binary.NativeEndian.AppendUint32([]byte(frontend), index))
}

// endpointKeys returns the keys of n indices of a frontend. They share their memory, as does the data
// of its endpoints: there are many of both.
func endpointKeys(frontend string, first, n uint32) []string {
	size := len(frontend) + 4
	b := make([]byte, 0, size*int(n))
	for i := range n {
		b = binary.NativeEndian.AppendUint32(append(b, frontend...), first+i)
	}
	return cut(string(b), size)
}

func endpointData(endpoints []plan.Endpoint) []string {
	b := make([]byte, 0, 20*len(endpoints))
	for _, e := range endpoints {
		b = appendPort(appendAddr(b, e.Addr), e.Port)
	}
	return cut(string(b), len(b)/max(len(endpoints), 1))
}

// cut cuts a string into pieces of a size.
func cut(s string, size int) []string {
	var out []string
	if size > 0 {
		out = make([]string, 0, len(s)/size)
	}
	for ; len(s) > 0; s = s[size:] {
		out = append(out, s[:size])
	}
	return out
}

func addrKey(a netip.Addr) string { return string(appendAddr(make([]byte, 0, 16), a)) }

// disjoint returns the prefixes of a family in order, without those inside others, as the kernel takes no
// overlaps.
func disjoint(f model.Family, prefixes []netip.Prefix) []netip.Prefix {
	var sorted, out []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && model.FamilyOf(p.Addr()) == f {
			sorted = append(sorted, p.Masked())
		}
	}
	slices.SortFunc(sorted, netip.Prefix.Compare)
	for _, p := range sorted {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// intervals returns prefixes as the elements of an interval set.
func intervals(f model.Family, prefixes []netip.Prefix) []KeyedElement {
	var out []KeyedElement
	for _, p := range disjoint(f, prefixes) {
		out = append(out, KeyedElement{addrKey(p.Addr()), Element{Data: behind(p)}})
	}
	return out
}

// behind returns the first address after a prefix, or "" if it ends with the last address there is.
func behind(p netip.Prefix) string {
	next := lastOf(p).Next()
	if !next.IsValid() {
		return ""
	}
	return addrKey(next)
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
