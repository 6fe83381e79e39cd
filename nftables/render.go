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
	services, endpoints []KeyedElement
	// clusterIPs and hairpins are the addresses, in the kernel's bytes, whose elements the Service shares
	// with others.
	clusterIPs, hairpins []string
	// classes are the numbers of endpoints for which it needs a chain.
	classes []uint32
}

// render returns a Service's part of a ruleset. The error is a *plan.ServiceError.
func render(f model.Family, s *plan.Service) (*fragment, error) {
	out := &fragment{}
	for i := range s.Ports {
		if err := out.add(f, &s.Ports[i]); err != nil {
			return nil, &plan.ServiceError{Service: s.Name, Err: err}
		}
	}
	return out, nil
}

func (fr *fragment) add(f model.Family, p *plan.ServicePort) error {
	endpoints := slices.Concat(p.Endpoints, p.Local)
	n := uint32(len(endpoints))
	balanced := slices.ContainsFunc(p.Frontends, func(fe plan.Frontend) bool { return fe.Outside.Action == plan.Balance })
	var data []string
	if balanced {
		for _, e := range endpoints {
			if model.FamilyOf(e.Addr) != f || e.Port == 0 {
				return fmt.Errorf("port %s: endpoint %s is no %s endpoint", p.Name, e.AddrPort(), f)
			}
		}
		data = endpointData(endpoints)
		fr.classes = append(fr.classes, n)
		for i, d := range data {
			if !endpoints[i].Remote {
				fr.hairpins = append(fr.hairpins, d[:f.Bits()/8])
			}
		}
	}
	name := comment(p.Name)
	for _, fe := range p.Frontends {
		if err := checkFrontend(f, p, fe); err != nil {
			return err
		}
		key := frontendKey(fe.FrontendKey)
		el := Element{Comment: name}
		switch fe.Outside.Action {
		case plan.Reject:
			el.Data = "goto " + noEndpointsChain
		case plan.Drop:
			el.Data = "drop"
		case plan.Balance:
			el.Data = "goto " + balanceChain(n)
			fr.endpoints = slices.Grow(fr.endpoints, len(data))
			for i, k := range endpointKeys(key, n) {
				fr.endpoints = append(fr.endpoints, KeyedElement{k, Element{Data: data[i]}})
			}
		}
		fr.services = append(fr.services, KeyedElement{key, el})
		fr.clusterIPs = append(fr.clusterIPs, key[:f.Bits()/8])
	}
	return nil
}

// checkFrontend tells what keeps a frontend from being an element.
func checkFrontend(f model.Family, p *plan.ServicePort, fe plan.Frontend) error {
	var err error
	switch {
	case !fe.Addr.IsValid() || model.FamilyOf(fe.Addr) != f:
		err = fmt.Errorf("address is not of %s", f)
	case fe.Addr.IsUnspecified():
		err = errors.New("address is unspecified")
	case fe.Kind != plan.ClusterIP:
		err = fmt.Errorf("frontend is of an unknown kind %d", fe.Kind)
	case fe.Outside.Action == plan.Balance && len(p.Endpoints)+len(p.Local) == 0:
		err = errors.New("nothing to balance over")
	case fe.Outside.Action > plan.Drop:
		err = fmt.Errorf("unknown action %d", fe.Outside.Action)
	}
	if err != nil {
		return fmt.Errorf("port %s: frontend %s %s: %w", p.Name, fe.Protocol, netip.AddrPortFrom(fe.Addr, fe.Port), err)
	}
	return nil
}

// Keys and data are concatenations in the kernel's registers: each field is padded to 4 bytes, addresses and
// ports are in network order, and an index is in the machine's own, as numgen leaves it.

func frontendKey(k plan.FrontendKey) string {
	b := appendAddr(make([]byte, 0, 24), k.Addr)
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

// endpointKeys returns the keys of a frontend's first n indices. They share their memory, as does the data
// of its endpoints: there are many of both.
func endpointKeys(frontend string, n uint32) []string {
	size := len(frontend) + 4
	b := make([]byte, 0, size*int(n))
	for i := range n {
		b = binary.NativeEndian.AppendUint32(append(b, frontend...), i)
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

// intervals returns prefixes as the elements of an interval set. A prefix inside another is left out, as the
// kernel takes no overlaps.
func intervals(f model.Family, prefixes []netip.Prefix) []KeyedElement {
	var kept []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && model.FamilyOf(p.Addr()) == f {
			kept = append(kept, p.Masked())
		}
	}
	slices.SortFunc(kept, netip.Prefix.Compare)
	var out []KeyedElement
	var last netip.Prefix
	for _, p := range kept {
		if last.IsValid() && last.Overlaps(p) {
			continue
		}
		last = p
		out = append(out, KeyedElement{addrKey(p.Addr()), Element{Data: behind(p)}})
	}
	return out
}

// behind returns the first address after a prefix, or "" if it ends with the last address there is.
func behind(p netip.Prefix) string {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	next := last.Next()
	if !next.IsValid() {
		return ""
	}
	return addrKey(next)
}
